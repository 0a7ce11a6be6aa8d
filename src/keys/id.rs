//! Key identities and secrets. Only a hash of a secret is ever stored.

use std::fmt;

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The lasting identity of a key; quota counters follow it through rotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub Uuid);

/// SHA-256 of a secret. Secrets carry at least 128 random bits, so no salt or stretching is needed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub [u8; 32]);

impl KeyHash {
    pub fn of(secret: &[u8]) -> Self {
        KeyHash(Sha256::digest(secret).into())
    }

    /// 64 digits.
    pub fn to_hex(self) -> String {
        use fmt::Write as _;
        let mut hex = String::with_capacity(64);
        for byte in self.0 {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    }

    /// The reverse of `to_hex`.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(KeyHash(bytes))
    }

    /// Equality in time that does not depend on the content.
    pub fn same(&self, other: &KeyHash) -> bool {
        use subtle::ConstantTimeEq as _;
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

/// A caller's secret in clear. Lives only while a request is read or a key is made; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// `prefix_` and 43 characters that carry 256 random bits.
    pub fn generate(prefix: &str, random: [u8; 32]) -> Self {
        let body = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random);
        Secret(format!("{prefix}_{body}"))
    }

    pub fn hash(&self) -> KeyHash {
        KeyHash::of(self.0.as_bytes())
    }

    /// The clear text, for the one answer that creates it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What may be shown later: the first letters and the last four.
    pub fn masked(&self) -> String {
        let count = self.0.chars().count();
        if count < 16 {
            return String::from("…");
        }
        let shown = count
            .min(self.0.find('_').map_or(4, |at| at + 5))
            .min(count - 8);
        let head: String = self.0.chars().take(shown).collect();
        let tail: String = self.0.chars().skip(count - 4).collect();
        format!("{head}…{tail}")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_back() {
        let hash = KeyHash::of(b"secret");
        assert_eq!(KeyHash::from_hex(&hash.to_hex()), Some(hash));
        for wrong in ["", "ab", &"+1".repeat(32), &"é".repeat(32)] {
            assert_eq!(KeyHash::from_hex(wrong), None);
        }
    }

    #[test]
    fn a_secret_is_never_printed_whole() {
        let secret = Secret::generate("sk-proxy", [7; 32]);
        assert!(secret.reveal().starts_with("sk-proxy_"));
        assert_eq!(secret.reveal().len(), 9 + 43);
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert!(secret.masked().len() < 24, "{}", secret.masked());
        assert!(secret.hash().same(&KeyHash::of(secret.reveal().as_bytes())));
    }
}
