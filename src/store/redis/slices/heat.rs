//! Which keys are hot on this edge: worth a slice.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::keys::KeyId;

/// So many admissions within [`WITHIN`] make a key hot.
const HOT: u32 = 20;
const WITHIN: Duration = Duration::from_secs(1);
/// How long a key goes without a slice after one had to be given up, near a limit above all.
const COOL: Duration = Duration::from_secs(1);
/// Keys counted at once; of more, the rest stays cold.
const MOST_KEYS: usize = 1 << 16;

/// Admissions by the store's own steps, since a moment at most [`WITHIN`] ago.
#[derive(Debug)]
pub(super) struct Heat {
    since: Instant,
    counts: HashMap<KeyId, u32, RandomState>,
    cooling: HashMap<KeyId, Instant, RandomState>,
}

impl Heat {
    pub fn new(now: Instant) -> Heat {
        Heat {
            since: now,
            counts: HashMap::default(),
            cooling: HashMap::default(),
        }
    }

    /// Counts an admission; true where the key is hot by it.
    pub fn warm(&mut self, key: KeyId, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= WITHIN {
            self.since = now;
            self.counts.clear();
            self.cooling.retain(|_, until| now < *until);
        }
        if self.counts.len() >= MOST_KEYS && !self.counts.contains_key(&key) {
            return false;
        }
        let count = self.counts.entry(key).or_default();
        *count += 1;
        *count >= HOT && self.cooling.get(&key).is_none_or(|until| now >= *until)
    }

    /// Its slice was given up: another is not worth it for a while.
    pub fn cool(&mut self, key: KeyId, now: Instant) {
        self.counts.remove(&key);
        self.cooling.insert(key, now + COOL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hot_within_a_second_and_not_while_it_cools() {
        let begin = Instant::now();
        let key = KeyId(uuid::Uuid::from_u128(1));
        let mut heat = Heat::new(begin);
        let warmed = |heat: &mut Heat, at| {
            (0..HOT)
                .map(|_| heat.warm(key, at))
                .filter(|hot| *hot)
                .count()
        };
        assert_eq!(warmed(&mut heat, begin), 1);
        heat.cool(key, begin);
        assert_eq!(warmed(&mut heat, begin + COOL / 2), 0);
        assert_eq!(warmed(&mut heat, begin + COOL), 1);
        for n in 0..100 {
            assert!(!heat.warm(key, begin + COOL * 2 + WITHIN * n), "too slow");
        }
    }
}
