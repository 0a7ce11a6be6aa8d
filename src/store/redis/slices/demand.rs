//! How much to draw: what exchanges of this key usually ask, and how long a draw has lasted.

use std::time::{Duration, Instant};

use crate::quota::Amounts;

/// A slice is to last about so long; one that lasts less is drawn twice as deep, one that lasts
/// more half as deep.
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(4);
/// Exchanges that a slice is to bear, at the least and at the most.
const FEWEST: i64 = 40;
const MOST: i64 = 100_000;
/// Exchanges for which a draw is worth its step.
const WORTH: i64 = 16;

/// What this edge's exchanges of one key need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    usual: Amounts,
    exchanges: i64,
    deepened_at: Instant,
}

impl Demand {
    pub fn new(held: Amounts, now: Instant) -> Demand {
        Demand {
            usual: held,
            exchanges: 2 * FEWEST,
            deepened_at: now,
        }
    }

    /// An exchange asks for so much: an eighth of it goes into what is usual.
    pub fn asked(&mut self, held: Amounts) {
        let mut usual = self.usual.to_array();
        for (usual, held) in usual.iter_mut().zip(held.to_array()) {
            let step = (held - *usual) / 8;
            *usual += if step == 0 {
                (held - *usual).signum()
            } else {
                step
            };
        }
        self.usual = Amounts::from_array(usual);
    }

    /// The slice is low: it is deepened, or made shallower, by how long it has lasted.
    pub fn ran_low(&mut self, now: Instant) {
        let lasted = now.saturating_duration_since(self.deepened_at);
        self.deepened_at = now;
        if lasted < SHORT {
            self.exchanges = (self.exchanges * 2).min(MOST);
        } else if lasted > LONG {
            self.exchanges = (self.exchanges / 2).max(FEWEST);
        }
    }

    /// What is to be unspent after a draw.
    pub fn depth(&self) -> Amounts {
        self.times(self.exchanges)
    }

    /// With less than this unspent a slice is not worth its steps.
    pub fn worth(&self) -> Amounts {
        self.times(WORTH)
    }

    fn times(&self, n: i64) -> Amounts {
        let figures = self.usual.to_array().map(|usual| usual.saturating_mul(n));
        Amounts::from_array(figures).clamped()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_what_is_asked_and_how_fast() {
        let begin = Instant::now();
        let ask = |tokens| Amounts {
            requests: 1,
            tokens,
            nano_usd: 0,
        };
        let mut demand = Demand::new(ask(100), begin);
        assert_eq!(
            demand.worth(),
            Amounts {
                requests: 16,
                tokens: 1_600,
                nano_usd: 0
            }
        );
        for _ in 0..200 {
            demand.asked(ask(1_000));
        }
        assert_eq!(demand.worth().tokens, 16_000);
        let before = demand.depth().tokens;
        demand.ran_low(begin + Duration::from_millis(100));
        assert_eq!(demand.depth().tokens, 2 * before);
        demand.ran_low(begin + Duration::from_secs(60));
        demand.ran_low(begin + Duration::from_secs(120));
        assert_eq!(demand.depth().tokens, before / 2);
    }
}
