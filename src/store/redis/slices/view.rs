//! The counters as an edge with a slice knows them: as last answered, with what it has done since.
//! What is unspent in its slice is not counted as held: it is there for the next request.

use crate::quota::amount::tokens_for;
use crate::quota::counters::Counters;
use crate::quota::{Amounts, Ask, Grant, ScopeClaim, Standing};

#[derive(Debug)]
pub(super) struct View<'a> {
    pub scopes: &'a [ScopeClaim],
    /// Of each scope, as last answered; `base_held` of what is held there is the slice's.
    pub base: &'a [Counters],
    pub base_held: Amounts,
    /// Charged and not among what was answered.
    pub unbooked: Amounts,
    pub in_use: Amounts,
    pub unspent: Amounts,
}

impl View<'_> {
    /// The grant of an ask that was admitted whole.
    pub fn grant(&self, ask: &Ask, held: Amounts) -> Grant {
        let standings = self.standings();
        let mut output_left = i64::MAX;
        for standing in &standings {
            let quotas = standing.quotas.to_array();
            let left = |n: usize| {
                let bound = standing.used.to_array()[n].saturating_add(standing.held.to_array()[n]);
                match quotas[n].limit {
                    0 => i64::MAX,
                    limit => limit.saturating_sub(bound).max(self.unspent.to_array()[n]),
                }
            };
            let paid = match left(2) {
                i64::MAX => i64::MAX,
                nano => tokens_for(nano, ask.output_nano_per_million),
            };
            output_left = output_left.min(left(1)).min(paid);
        }
        Grant {
            id: ask.id,
            output_tokens: ask.output_tokens,
            held,
            output_left,
            standings,
        }
    }

    fn standings(&self) -> Vec<Standing> {
        let known = self.scopes.iter().zip(self.base).map(|(claim, counters)| {
            let mut standing = counters.standing(claim);
            standing.used = standing.used.plus(self.unbooked);
            let held = standing.held.minus(self.base_held).plus(self.in_use);
            standing.held = held.max(Amounts::ZERO);
            standing.requests_in_bucket += self.unspent.requests;
            standing.tokens_in_bucket += self.unspent.tokens;
            standing
        });
        known.collect()
    }
}
