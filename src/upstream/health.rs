//! What traffic and checks have shown of a peer, and whether it should be asked next.
//!
//! ```text
//!            failures in a row                  rest is over
//!   fit ───────────────────────▶ resting ───────────────────────▶ doubtful
//!    ▲ ▲                            ▲                               │ one exchange
//!    │ └─── Retry-After is over ────┤                               ▼ is the probe
//!    └──────────────────────────────┼────────── succeeds ───────── probed
//!                                   └─────────── fails ─────────────┘
//! ```

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use super::room::{Room, RoomLeft};
use crate::time::UnixMs;

/// A probe that has no verdict after this time is forgotten, should nobody have given it back.
const PROBE_MS: i64 = 30_000;

/// Whether a peer should be asked next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fitness {
    Fit,
    /// Its rest after failures is over: one exchange may show whether it is well again.
    Doubtful,
    /// Its provider said that there is too little room for this request before its limit.
    Tight,
    /// It rests after failures or as it asked for, its probe is under way, or its checks fail.
    Resting,
}

impl Fitness {
    /// In which order peers are asked: none of a group before all pools have none left of the group
    /// before. A doubtful peer must be asked like a fit one, or it would never show that it is well.
    pub const GROUPS: [Fitness; 3] = [Fitness::Doubtful, Fitness::Tight, Fitness::Resting];
}

/// The right of one exchange to show whether a doubtful peer is well again: until when it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe(i64);

/// Counters of one peer.
#[derive(Debug, Default)]
pub struct Health {
    failures: AtomicU32,
    /// Rested because of failures: a probe comes before it is fit again.
    tripped: AtomicBool,
    cool_until_ms: AtomicI64,
    probe_until_ms: AtomicI64,
    /// Its last health check failed.
    down: AtomicBool,
    running: AtomicI64,
    room: RoomLeft,
}

impl Health {
    /// Books a failure; after `limit` of them in a row, or a failed probe, the peer rests for
    /// `cooldown_ms`. True where it leaves the rotation by this.
    pub fn failed(&self, now: UnixMs, limit: u32, cooldown_ms: i64) -> bool {
        let failures = self
            .failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        if failures < limit.max(1) && !self.tripped.load(Ordering::Relaxed) {
            return false;
        }
        self.rest(now.plus_ms(cooldown_ms));
        self.probe_until_ms.store(0, Ordering::Relaxed);
        let was_out = self.tripped.swap(true, Ordering::Relaxed) || self.is_down();
        !was_out
    }

    /// Rests until then, whatever its history: a provider said so (`Retry-After`).
    pub fn rest(&self, until: UnixMs) {
        self.cool_until_ms.fetch_max(until.0, Ordering::Relaxed);
    }

    /// Books a success, which ends a rest. True where the peer is back in the rotation by this.
    pub fn succeeded(&self) -> bool {
        if self.failures.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.failures.store(0, Ordering::Relaxed);
        self.cool_until_ms.store(0, Ordering::Relaxed);
        self.probe_until_ms.store(0, Ordering::Relaxed);
        self.tripped.swap(false, Ordering::Relaxed) && !self.is_down()
    }

    /// What a health check found. One that passes ends a rest after failures, too. True where the
    /// peer leaves the rotation or is back in it by this.
    pub fn checked(&self, passed: bool) -> bool {
        let was_down = self.down.swap(!passed, Ordering::Relaxed);
        if passed {
            self.succeeded() || was_down
        } else {
            !was_down && !self.tripped.load(Ordering::Relaxed)
        }
    }

    /// Nobody checks it any more: what the last check found is forgotten.
    pub fn is_unchecked(&self) {
        self.down.store(false, Ordering::Relaxed);
    }

    /// What the provider said of its own rate limits.
    pub fn has_room(&self, room: &Room) {
        self.room.set(room);
    }

    /// `tokens` is what the request is expected to use.
    pub fn fitness(&self, tokens: i64, now: UnixMs) -> Fitness {
        let until = |at: &AtomicI64| at.load(Ordering::Relaxed) > now.0;
        if self.down.load(Ordering::Relaxed) || until(&self.cool_until_ms) {
            Fitness::Resting
        } else if self.tripped.load(Ordering::Relaxed) {
            if until(&self.probe_until_ms) {
                Fitness::Resting
            } else {
                Fitness::Doubtful
            }
        } else if self.room.is_tight(tokens, now) {
            Fitness::Tight
        } else {
            Fitness::Fit
        }
    }

    /// Claims the probe of a doubtful peer; `None` where another exchange has it, or none is due.
    pub fn begin_probe(&self, now: UnixMs) -> Option<Probe> {
        let last = self.probe_until_ms.load(Ordering::Relaxed);
        if last > now.0 || !self.tripped.load(Ordering::Relaxed) {
            return None;
        }
        let next = now.plus_ms(PROBE_MS).0;
        let swap =
            self.probe_until_ms
                .compare_exchange(last, next, Ordering::Relaxed, Ordering::Relaxed);
        swap.is_ok().then_some(Probe(next))
    }

    /// Its exchange is over: without a verdict, the next one may try. After a verdict it changes nothing.
    pub fn end_probe(&self, probe: Probe) {
        let order = Ordering::Relaxed;
        let given_back = self
            .probe_until_ms
            .compare_exchange(probe.0, 0, order, order);
        // Else it had its verdict, or was forgotten and taken by another.
        given_back.ok();
    }

    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// Until when it rests, where it does now.
    pub fn rests_until(&self, now: UnixMs) -> Option<UnixMs> {
        let until = UnixMs(self.cool_until_ms.load(Ordering::Relaxed));
        (until > now).then_some(until)
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Exchanges that this peer serves now.
    pub fn running(&self) -> i64 {
        self.running.load(Ordering::Relaxed)
    }

    pub fn begin(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.room.take_request();
    }

    pub fn end(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitness(health: &Health, at: i64) -> Fitness {
        health.fitness(1, UnixMs(at))
    }

    #[test]
    fn rests_after_failures_in_a_row_and_one_probe_reopens_it() {
        let health = Health::default();
        health.failed(UnixMs(0), 2, 1_000);
        assert_eq!(fitness(&health, 1), Fitness::Fit);
        health.failed(UnixMs(0), 2, 1_000);
        assert_eq!(fitness(&health, 999), Fitness::Resting);
        assert_eq!(fitness(&health, 1_000), Fitness::Doubtful);
        assert!(health.begin_probe(UnixMs(1_000)).is_some());
        assert!(health.begin_probe(UnixMs(1_000)).is_none());
        assert_eq!(fitness(&health, 1_001), Fitness::Resting);
        health.succeeded();
        assert_eq!(fitness(&health, 1_002), Fitness::Fit);
    }

    #[test]
    fn a_failed_probe_rests_again_at_once() {
        let health = Health::default();
        health.failed(UnixMs(0), 1, 1_000);
        assert!(health.begin_probe(UnixMs(1_000)).is_some());
        health.failed(UnixMs(1_600), 5, 1_000);
        assert_eq!(fitness(&health, 2_599), Fitness::Resting);
        assert_eq!(fitness(&health, 2_600), Fitness::Doubtful);
    }

    #[test]
    fn a_probe_that_ends_without_a_verdict_is_free_at_once() {
        let health = Health::default();
        health.failed(UnixMs(0), 1, 1_000);
        let probe = health.begin_probe(UnixMs(1_000)).unwrap();
        health.end_probe(probe);
        assert_eq!(fitness(&health, 1_001), Fitness::Doubtful);
        // After a verdict, another's probe is left alone.
        let probe = health.begin_probe(UnixMs(1_001)).unwrap();
        health.failed(UnixMs(1_002), 1, 1_000);
        assert!(health.begin_probe(UnixMs(3_000)).is_some());
        health.end_probe(probe);
        assert_eq!(fitness(&health, 3_001), Fitness::Resting);
    }

    #[test]
    fn a_probe_without_a_verdict_is_forgotten() {
        let health = Health::default();
        health.failed(UnixMs(0), 1, 1_000);
        assert!(health.begin_probe(UnixMs(1_000)).is_some());
        assert_eq!(fitness(&health, 1_000 + PROBE_MS - 1), Fitness::Resting);
        assert_eq!(fitness(&health, 1_000 + PROBE_MS), Fitness::Doubtful);
    }

    #[test]
    fn a_rest_that_was_asked_for_ends_by_itself() {
        let health = Health::default();
        health.rest(UnixMs(500));
        assert_eq!(fitness(&health, 499), Fitness::Resting);
        assert_eq!(fitness(&health, 500), Fitness::Fit);
    }

    #[test]
    fn a_failing_check_takes_it_out_until_one_passes() {
        let health = Health::default();
        assert!(!health.checked(true));
        assert!(health.checked(false));
        assert!(!health.checked(false));
        assert_eq!(fitness(&health, 0), Fitness::Resting);
        assert!(health.checked(true));
        assert_eq!(fitness(&health, 0), Fitness::Fit);
    }

    #[test]
    fn what_is_news_is_told_once() {
        let health = Health::default();
        assert!(!health.failed(UnixMs(0), 2, 1_000));
        assert!(health.failed(UnixMs(0), 2, 1_000));
        assert!(!health.failed(UnixMs(0), 2, 1_000));
        assert!(!health.checked(false), "it is out already");
        assert!(!health.succeeded(), "its checks still fail");
        assert!(health.checked(true));
        assert!(!health.succeeded());
        assert!(health.failed(UnixMs(0), 1, 1_000));
        assert!(health.checked(true), "a check that passes ends a rest");
        assert_eq!(fitness(&health, 1), Fitness::Fit);
    }
}
