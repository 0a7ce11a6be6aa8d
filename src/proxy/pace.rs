//! How long an upstream may take: to its first byte, from one piece to the next, and in all. Kept by the
//! outer request of a [`super::relay`], told of each attempt by the inner one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::Timeouts;

/// How often it is looked whether an attempt has begun.
const LOOK: Duration = Duration::from_millis(20);

/// The clock of one relayed exchange.
#[derive(Debug, Default)]
pub struct Pace {
    at: Mutex<At>,
    late: AtomicBool,
}

#[derive(Clone, Copy, Debug, Default)]
struct At {
    /// When the last attempt's head went out, and what its pool allows.
    sent: Option<(Instant, Timeouts)>,
    /// When the answer's last piece came.
    piece: Option<Instant>,
    /// When the whole request must be over.
    end: Option<Instant>,
}

impl At {
    fn due(self) -> Option<Instant> {
        let next = self.sent.map(|(sent, allowed)| match self.piece {
            Some(piece) => piece + allowed.idle,
            None => sent + allowed.first_byte,
        });
        next.into_iter().chain(self.end).min()
    }
}

impl Pace {
    /// Another inner request begins; by `end` all must be over.
    pub fn begin(&self, end: std::time::Instant) {
        *self.at.lock() = At {
            end: Some(end.into()),
            ..At::default()
        };
        self.late.store(false, Ordering::Release);
    }

    /// An attempt's head goes out.
    pub fn sent(&self, allowed: Timeouts) {
        let mut at = self.at.lock();
        at.sent = Some((Instant::now(), allowed));
        // What came of an attempt before was not for the client.
        at.piece = None;
    }

    /// A piece of the answer has gone to the client.
    pub fn piece_came(&self) {
        self.at.lock().piece = Some(Instant::now());
    }

    /// Whether the upstream has taken too long.
    pub fn is_late(&self) -> bool {
        self.late.load(Ordering::Acquire)
    }

    /// Waits until the upstream has taken too long. Cancel safe.
    pub async fn runs_out(&self) {
        loop {
            let at = *self.at.lock();
            match at.due() {
                Some(due) if due <= Instant::now() => break,
                Some(due) if at.sent.is_some() => tokio::time::sleep_until(due).await,
                _ => tokio::time::sleep(LOOK).await,
            }
        }
        self.late.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(first_byte_s: u64, idle_s: u64) -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(1),
            first_byte: Duration::from_secs(first_byte_s),
            idle: Duration::from_secs(idle_s),
        }
    }

    #[test]
    fn each_phase_has_its_own_time_and_each_attempt_all_of_it() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut at = At::default();
        assert_eq!(at.due(), None);
        at.sent = Some((start, allowed(30, 5)));
        assert_eq!(at.due(), Some(after(30)));
        at.sent = Some((after(20), allowed(15, 5)));
        assert_eq!(at.due(), Some(after(35)));
        at.piece = Some(after(22));
        assert_eq!(at.due(), Some(after(27)));
        at.end = Some(after(25));
        assert_eq!(at.due(), Some(after(25)));
    }

    #[tokio::test]
    async fn running_out_is_remembered_until_another_begins() {
        let pace = Pace::default();
        pace.sent(allowed(0, 5));
        pace.runs_out().await;
        assert!(pace.is_late());
        pace.begin(std::time::Instant::now());
        assert!(!pace.is_late());
    }
}
