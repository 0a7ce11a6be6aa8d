//! How much of an ask fits: the least that must, and the most that may be granted.

use super::amount::{Amounts, MAX_AMOUNT, tokens_for};
use super::claim::{Admission, Ask};

/// What a grant holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub held: Amounts,
    pub output_tokens: i64,
    /// Output tokens that would still fit beyond the hold.
    pub output_left: i64,
}

const TOKENS: usize = 1;
const USD: usize = 2;

impl Ask {
    /// Whether every figure is one the books take.
    pub(crate) fn is_sound(&self) -> bool {
        let figures = [
            self.requests,
            self.input_tokens,
            self.output_tokens,
            self.least_output_tokens,
            self.fixed_nano_usd,
            self.output_nano_per_million,
        ];
        figures.iter().all(|n| (0..=MAX_AMOUNT).contains(n))
    }

    /// What must be left of each resource for the exchange to be admitted.
    pub(super) fn least(&self) -> [i64; 3] {
        match self.admission {
            Admission::Clamp => {
                let least = self.output_tokens.min(self.least_output_tokens);
                self.amounts_for(least).to_array()
            }
            Admission::Strict => self.amounts_for(self.output_tokens).to_array(),
            Admission::Open => [1, 1, 1],
        }
    }

    /// The grant, where each of `lefts` (one per scope) bears the least.
    pub(super) fn size(&self, lefts: impl Iterator<Item = [i64; 3]> + Clone) -> Size {
        let mut output_tokens = self.output_tokens;
        if self.admission == Admission::Clamp {
            for left in lefts.clone() {
                output_tokens = output_tokens
                    .min(left[TOKENS].saturating_sub(self.input_tokens))
                    .min(self.output_for(left[USD].saturating_sub(self.fixed_nano_usd)));
            }
        }
        let mut held = self.amounts_for(output_tokens).to_array();
        if self.admission == Admission::Open {
            for left in lefts.clone() {
                for (held, left) in held.iter_mut().zip(left) {
                    *held = (*held).min(left);
                }
            }
        }
        let output_left = lefts.fold(i64::MAX, |least, left| {
            let tokens = beyond(left[TOKENS], held[TOKENS]);
            let paid = self.output_for(beyond(left[USD], held[USD]));
            least.min(tokens).min(paid)
        });
        Size {
            held: Amounts::from_array(held),
            output_tokens,
            output_left,
        }
    }

    /// Output tokens that `nano_usd` pays for.
    fn output_for(&self, nano_usd: i64) -> i64 {
        if nano_usd == i64::MAX {
            return i64::MAX;
        }
        tokens_for(nano_usd, self.output_nano_per_million)
    }
}

/// What is left beyond the hold; unlimited stays unlimited.
fn beyond(left: i64, held: i64) -> i64 {
    if left == i64::MAX {
        return i64::MAX;
    }
    left.saturating_sub(held).max(0)
}
