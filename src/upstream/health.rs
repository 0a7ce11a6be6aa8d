//! What traffic has shown of a peer: failures in a row, and until when it rests.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use crate::time::UnixMs;

/// Counters of one peer. A peer cools down after a number of failures in a row; one success clears it.
#[derive(Debug, Default)]
pub struct Health {
    failures: AtomicU32,
    cool_until_ms: AtomicI64,
    running: AtomicI64,
}

impl Health {
    /// Books a failure; after `limit` of them in a row the peer rests for `cooldown_ms`.
    pub fn failed(&self, now: UnixMs, limit: u32, cooldown_ms: i64) {
        let failures = self
            .failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        if failures >= limit.max(1) {
            self.rest(now.plus_ms(cooldown_ms));
        }
    }

    /// Rests until then, whatever its history: a provider said so (`Retry-After`).
    pub fn rest(&self, until: UnixMs) {
        self.cool_until_ms.fetch_max(until.0, Ordering::Relaxed);
    }

    pub fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.cool_until_ms.store(0, Ordering::Relaxed);
        }
    }

    pub fn is_cooling(&self, now: UnixMs) -> bool {
        self.cool_until_ms.load(Ordering::Relaxed) > now.0
    }

    /// Exchanges that this peer serves now.
    pub fn running(&self) -> i64 {
        self.running.load(Ordering::Relaxed)
    }

    pub fn begin(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    pub fn end(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_after_failures_in_a_row_and_returns() {
        let health = Health::default();
        health.failed(UnixMs(0), 2, 1_000);
        assert!(!health.is_cooling(UnixMs(1)));
        health.failed(UnixMs(0), 2, 1_000);
        assert!(health.is_cooling(UnixMs(999)));
        assert!(!health.is_cooling(UnixMs(1_000)));
        health.succeeded();
        assert!(!health.is_cooling(UnixMs(1)));
    }
}
