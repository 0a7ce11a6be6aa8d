//! Nano-USD of the books as USD in JSON.

use serde_json::Value;

use crate::quota::NANO_PER_USD;

/// Nano-USD as a JSON number. Its shortest text is the exact decimal up to some four million USD;
/// beyond, it is the nearest number that JSON readers hold anyway.
pub fn show(nano: i64) -> Value {
    Value::from(nano as f64 / NANO_PER_USD as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::quota::money::nano_of;

    proptest! {
        #[test]
        fn what_is_shown_reads_back(nano in 0..=4_000_000 * NANO_PER_USD) {
            prop_assert_eq!(nano_of(&show(nano).to_string()), Some(nano));
        }
    }
}
