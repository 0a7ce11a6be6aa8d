//! Whether Redis's clock runs as ours does. Leases end by it, and it knows no steady time: where it
//! was set, or another server took over, leases would end that are still renewed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::names::Shard;

/// A step of the server's clock that leases are protected from.
const STEP_MS: i64 = 2_000;

/// How long every edge has, after a step, to renew what it runs before any lease is ended.
const REST: Duration = Duration::from_secs(5);

/// What was last read off the server's clock.
#[derive(Debug, Default)]
pub(super) struct ServerClock {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Of each shard: those of a cluster are on several servers.
    last: HashMap<Shard, (Instant, i64)>,
    rest_until: Option<Instant>,
}

impl ServerClock {
    /// Takes note of a reading in milliseconds, made about now. True where the clock was set, once
    /// for all shards: renew all that runs, at once.
    pub fn stepped(&self, shard: Shard, server_ms: i64, now: Instant) -> bool {
        let mut seen = self.seen.lock();
        let last = seen.last.insert(shard, (now, server_ms));
        let stepped = last.is_some_and(|(at, ms)| {
            let passed = i64::try_from(now.saturating_duration_since(at).as_millis());
            let expected = ms.saturating_add(passed.unwrap_or(i64::MAX));
            server_ms.abs_diff(expected) > STEP_MS.unsigned_abs()
        });
        let resting = seen.rest_until.is_some_and(|until| now < until);
        if stepped {
            seen.rest_until = now.checked_add(REST);
        }
        stepped && !resting
    }

    /// Whether no lease may be ended yet, because the clock was set not long ago.
    pub fn rests(&self, now: Instant) -> bool {
        self.seen.lock().rest_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_seen_once_and_rested_after() {
        let clock = ServerClock::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let [first, other] = [0, 1].map(|n| Shard::all().nth(n).unwrap());
        assert!(!clock.stepped(first, 1_000_000, at(0)));
        assert!(!clock.stepped(first, 1_010_500, at(10)));
        assert!(!clock.stepped(other, 7, at(10)), "another server");
        assert!(!clock.rests(at(10)));
        assert!(clock.stepped(first, 4_611_000, at(11)));
        assert!(!clock.stepped(other, 3_600_007, at(11)), "told already");
        assert!(clock.rests(at(12)) && !clock.rests(at(16)));
        assert!(clock.stepped(first, 1_017_000, at(17)));
    }
}
