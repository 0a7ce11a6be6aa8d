//! A token bucket of one minute: capacity the limit, refilled evenly, in exact integers.

use serde::{Deserialize, Serialize};

/// One unit is 60 000 parts, so that a limit of `n` per minute refills exactly `n` parts a
/// millisecond.
const PARTS: i64 = 60_000;

/// Largest limit a bucket takes; a higher one counts as this. Keeps a full bucket's parts within i64.
const MAX_LIMIT: i64 = 100_000_000_000;

/// A bucket that has been drawn on. Its time is the steady clock's, so that steps of the wall clock
/// neither fill nor freeze it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// In parts; below 0 is debt.
    level: i64,
    limit: i64,
    filled_at_ms: i64,
}

impl Bucket {
    /// A full one.
    pub fn full(limit: i64, steady_ms: i64) -> Bucket {
        let limit = limit.clamp(1, MAX_LIMIT);
        Bucket {
            level: limit * PARTS,
            limit,
            filled_at_ms: steady_ms,
        }
    }

    /// One with `level_parts` in it, as read back from disk.
    pub fn with_parts(limit: i64, level_parts: i64, steady_ms: i64) -> Bucket {
        let mut bucket = Bucket::full(limit, steady_ms);
        bucket.level = bucket.level.min(level_parts);
        bucket
    }

    /// Refills up to now under the limit it had, then goes on under `limit`: a lower one caps the
    /// level, a higher one leaves it to refill.
    pub fn refill(&mut self, limit: i64, steady_ms: i64) {
        let elapsed = (steady_ms - self.filled_at_ms).max(0);
        if elapsed > 0 {
            let gained = elapsed.saturating_mul(self.limit);
            self.level = self.level.saturating_add(gained).min(self.capacity_parts());
            self.filled_at_ms = steady_ms;
        }
        let limit = limit.clamp(1, MAX_LIMIT);
        if limit != self.limit {
            self.limit = limit;
            self.level = self.level.min(self.capacity_parts());
        }
    }

    /// Takes `units` whatever is in it: what is missing becomes debt.
    pub fn take(&mut self, units: i64) {
        self.level = self.level.saturating_sub(units.saturating_mul(PARTS));
    }

    pub fn give_back(&mut self, units: i64) {
        let more = self.level.saturating_add(units.saturating_mul(PARTS));
        self.level = more.min(self.capacity_parts());
    }

    /// Milliseconds until `units` are in it; 0 where they are.
    pub fn wait_ms(&self, units: i64) -> i64 {
        let missing = units.saturating_mul(PARTS).saturating_sub(self.level);
        if missing <= 0 {
            return 0;
        }
        missing / self.limit + i64::from(missing % self.limit != 0)
    }

    /// Whole units in it, rounded down.
    pub fn units(&self) -> i64 {
        self.level.div_euclid(PARTS)
    }

    pub fn limit(&self) -> i64 {
        self.limit
    }

    pub fn level_parts(&self) -> i64 {
        self.level
    }

    /// Up to when it was refilled, on the steady clock.
    pub fn filled_at_ms(&self) -> i64 {
        self.filled_at_ms
    }

    fn capacity_parts(&self) -> i64 {
        self.limit * PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_wait_is_exact() {
        let mut bucket = Bucket::full(7, 0);
        bucket.take(7);
        let wait = bucket.wait_ms(1);
        bucket.refill(7, wait - 1);
        assert_eq!(bucket.units(), 0);
        bucket.refill(7, wait);
        assert_eq!(bucket.units(), 1);
        assert_eq!(bucket.wait_ms(1), 0);
    }

    #[test]
    fn a_limit_change_caps_and_never_fills() {
        let mut bucket = Bucket::full(100, 0);
        bucket.refill(10, 0);
        assert_eq!(bucket.units(), 10);
        bucket.refill(1000, 0);
        assert_eq!(bucket.units(), 10);
        bucket.refill(1000, 60_000);
        assert_eq!(bucket.units(), 1000);
    }

    proptest! {
        #[test]
        fn evenly_however_time_is_cut(limit in 1i64..1_000_000, steps in prop::collection::vec(0i64..5_000, 0..40)) {
            let mut cut = Bucket::full(limit, 0);
            cut.take(limit);
            let mut whole = cut;
            let mut now = 0;
            for step in steps {
                now += step;
                cut.refill(limit, now);
            }
            whole.refill(limit, now);
            prop_assert_eq!(cut, whole);
        }

        #[test]
        fn never_above_its_capacity_and_never_overflows(
            limit in 1i64..i64::MAX, takes in prop::collection::vec(any::<i64>(), 0..20), later in any::<i64>()
        ) {
            let mut bucket = Bucket::full(limit, 0);
            for units in takes {
                bucket.take(units.saturating_abs());
                bucket.give_back(units.saturating_abs());
                bucket.refill(limit, later.saturating_abs());
                prop_assert!(bucket.units() <= limit);
                bucket.wait_ms(limit);
            }
        }
    }
}
