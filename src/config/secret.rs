//! Text that must not be printed: credentials, passwords, signing keys.

use std::fmt;

/// A secret of the configuration. `Debug` shows that it is there, never what it is.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    pub fn new(text: impl Into<String>) -> Self {
        SecretText(text.into())
    }

    /// The clear text, for the place that must send or compare it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Equality in time that does not depend on the content (only on the lengths).
    pub fn same(&self, other: &str) -> bool {
        use subtle::ConstantTimeEq as _;
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}
