//! How slowly a request's body may come.
//!
//! A bound on each read lets a client drip for hours, one bound on the whole cuts an honest one on a slow
//! line. So a body has some time that is used up while it is waited for, and earns more with what comes,
//! up to the end of the request's own time. It never has more ahead of it than at its beginning: what came
//! fast does not pay for a rest that does not come. While an upstream holds it up, no time is used.

use std::time::Duration;

use tokio::time::Instant;

/// What must come for the time it takes: bytes per second, as over a line of 64 kbit/s.
const RATE: u64 = 8 * 1024;

/// The time that a body has.
#[derive(Clone, Copy, Debug)]
pub struct Tempo {
    /// What it may have ahead of it at the most.
    most: Duration,
    /// What it has, but for the wait that goes on.
    left: Duration,
    waits_since: Option<Instant>,
    /// When it must have ended, however fast it is.
    last: Instant,
}

impl Tempo {
    /// Of a body that may be waited for `most` at a stretch and must have come by `last`.
    pub fn new(most: Duration, last: Instant) -> Self {
        Tempo {
            most,
            left: most,
            waits_since: None,
            last,
        }
    }

    /// More of it is waited for, now or since before.
    pub fn waits(&mut self, now: Instant) {
        self.waits_since.get_or_insert(now);
    }

    /// Some of it has come. Nothing has where that is empty.
    pub fn came(&mut self, now: Instant, bytes: usize) {
        if bytes == 0 {
            return;
        }
        if let Some(since) = self.waits_since.take() {
            self.left = self.left.saturating_sub(now.duration_since(since));
        }
        let nanos = (bytes as u64).saturating_mul(1_000_000_000 / RATE);
        self.left = (self.left + Duration::from_nanos(nanos)).min(self.most);
    }

    /// When more of it must be here; later while it is not waited for.
    pub fn due(&self, now: Instant) -> Instant {
        (self.waits_since.unwrap_or(now) + self.left).min(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tempo(now: Instant) -> Tempo {
        Tempo::new(30 * SECOND, now + 600 * SECOND)
    }

    /// Waits for so long, then so much comes; whether that was in time.
    fn comes(tempo: &mut Tempo, now: &mut Instant, after: Duration, bytes: usize) -> bool {
        tempo.waits(*now);
        *now += after;
        let in_time = *now < tempo.due(*now);
        tempo.came(*now, bytes);
        in_time
    }

    #[test]
    fn a_steady_body_gets_time_to_the_end() {
        let mut now = Instant::now();
        let (begun, mut tempo) = (now, tempo(now));
        while now < begun + 599 * SECOND {
            assert!(comes(&mut tempo, &mut now, SECOND, 8 * 1024));
        }
        tempo.waits(now);
        assert_eq!(tempo.due(now), begun + 600 * SECOND);
    }

    #[test]
    fn what_came_fast_does_not_pay_for_a_stall_or_a_drip() {
        let mut now = Instant::now();
        let mut tempo = tempo(now);
        assert!(comes(&mut tempo, &mut now, SECOND, 32 * 1024 * 1024));
        tempo.waits(now);
        assert_eq!(tempo.due(now), now + 30 * SECOND);
        let fast = now;
        while comes(&mut tempo, &mut now, SECOND, 1) {}
        assert_eq!(now, fast + 31 * SECOND);
    }

    #[test]
    fn nothing_earns_nothing_however_often_it_comes() {
        let mut now = Instant::now();
        let (begun, mut tempo) = (now, tempo(now));
        while comes(&mut tempo, &mut now, SECOND, 0) {}
        assert_eq!(now, begun + 30 * SECOND);
    }

    #[test]
    fn a_body_that_is_not_waited_for_uses_no_time() {
        let mut now = Instant::now();
        let mut tempo = tempo(now);
        assert!(comes(&mut tempo, &mut now, 20 * SECOND, 1));
        now += 100 * SECOND;
        assert!(comes(&mut tempo, &mut now, 9 * SECOND, 1));
        assert!(!comes(&mut tempo, &mut now, 2 * SECOND, 1));
    }
}
