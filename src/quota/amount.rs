//! Amounts of the three counted resources. Money is integer nano-USD, never a float.

use serde::{Deserialize, Serialize};

pub const NANO_PER_USD: i64 = 1_000_000_000;

/// Largest amount the books take: exact in a double too, so that every engine counts alike.
pub const MAX_AMOUNT: i64 = 1 << 53;

/// What an exchange holds, used or is charged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Requests.
    pub requests: i64,
    /// Model tokens, input and output together.
    pub tokens: i64,
    /// Nano-USD.
    pub nano_usd: i64,
}

impl Amounts {
    pub const ZERO: Amounts = Amounts {
        requests: 0,
        tokens: 0,
        nano_usd: 0,
    };

    /// Field by field, saturating.
    pub fn plus(self, other: Amounts) -> Amounts {
        self.zip(other, i64::saturating_add)
    }

    /// Field by field, saturating; may be negative.
    pub fn minus(self, other: Amounts) -> Amounts {
        self.zip(other, i64::saturating_sub)
    }

    /// Field by field, the larger one.
    pub fn max(self, other: Amounts) -> Amounts {
        self.zip(other, i64::max)
    }

    fn zip(self, other: Amounts, f: impl Fn(i64, i64) -> i64) -> Amounts {
        Amounts {
            requests: f(self.requests, other.requests),
            tokens: f(self.tokens, other.tokens),
            nano_usd: f(self.nano_usd, other.nano_usd),
        }
    }
}

/// Nano-USD for `tokens` at `nano_per_million` nano-USD per million tokens, rounded up.
pub fn cost_of(tokens: i64, nano_per_million: i64) -> i64 {
    let exact = i128::from(tokens.max(0)) * i128::from(nano_per_million.max(0));
    let nano = (exact + 999_999) / 1_000_000;
    i64::try_from(nano).unwrap_or(MAX_AMOUNT).min(MAX_AMOUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_rounds_up_once() {
        assert_eq!(cost_of(1, 37_500_000), 38);
        assert_eq!(cost_of(1_000_000, 2_500_000_000), 2_500_000_000);
        assert_eq!(cost_of(0, 1), 0);
    }
}
