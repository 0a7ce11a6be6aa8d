//! How slowly a request's body may come.
//!
//! A bound on each read lets a client drip for hours, one bound on the whole cuts an honest one on a slow
//! line. So the time for a body grows with what has come of it, up to the end of the request's own time.

use std::time::{Duration, Instant};

/// What any body may take.
const START: Duration = Duration::from_secs(30);

/// Above that, what must have come: bytes per second, as over a line of 64 kbit/s.
const RATE: u64 = 8 * 1024;

/// The time that a body has.
#[derive(Clone, Copy, Debug)]
pub struct Tempo {
    begun: Instant,
    /// When it must have ended, however fast it is.
    last: Instant,
    received: u64,
}

impl Tempo {
    /// Of a body that begins now and must have come by `last`.
    pub fn until(last: Instant) -> Self {
        Tempo {
            begun: Instant::now(),
            last,
            received: 0,
        }
    }

    /// More of it has come.
    pub fn came(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// When the rest, or more of it, must be here.
    pub fn due(&self) -> Instant {
        let earned = Duration::from_secs(self.received / RATE);
        (self.begun + START + earned).min(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drip_gets_no_more_time_and_a_steady_body_gets_it_to_the_end() {
        let now = Instant::now();
        let mut tempo = Tempo {
            begun: now,
            last: now + Duration::from_secs(600),
            received: 0,
        };
        tempo.came(1_000);
        assert_eq!(tempo.due(), now + Duration::from_secs(30));
        tempo.came(80 * 1024);
        assert_eq!(tempo.due(), now + Duration::from_secs(40));
        tempo.came(32 * 1024 * 1024);
        assert_eq!(tempo.due(), now + Duration::from_secs(600));
    }
}
