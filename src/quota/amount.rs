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

    /// In the order of `Resource`: requests, tokens, nano-USD.
    pub fn to_array(self) -> [i64; 3] {
        [self.requests, self.tokens, self.nano_usd]
    }

    /// The reverse of `to_array`.
    pub fn from_array([requests, tokens, nano_usd]: [i64; 3]) -> Amounts {
        Amounts {
            requests,
            tokens,
            nano_usd,
        }
    }

    /// Field by field, brought between 0 and the largest amount the books take.
    pub fn clamped(self) -> Amounts {
        Amounts::from_array(self.to_array().map(|n| n.clamp(0, MAX_AMOUNT)))
    }

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

/// The most tokens that cost at most `nano_usd` by `cost_of`; `i64::MAX` where they are free.
pub fn tokens_for(nano_usd: i64, nano_per_million: i64) -> i64 {
    if nano_per_million <= 0 {
        return i64::MAX;
    }
    let exact = i128::from(nano_usd.max(0)) * 1_000_000 / i128::from(nano_per_million);
    i64::try_from(exact).unwrap_or(i64::MAX)
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

    proptest::proptest! {
        #[test]
        fn tokens_for_is_the_most_that_fits(budget in 0i64..MAX_AMOUNT, price in 1i64..MAX_AMOUNT) {
            let tokens = tokens_for(budget, price);
            assert!(cost_of(tokens, price) <= budget);
            // Saturated costs cannot tell one token from the next.
            if tokens < MAX_AMOUNT && budget < MAX_AMOUNT {
                assert!(cost_of(tokens + 1, price) > budget);
            }
        }
    }
}
