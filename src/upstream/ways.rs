//! The ways to one peer, tried in turn until one is open or the time is over.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How a peer may be reached still, within the time that its pool gives for a connection.
#[derive(Debug)]
pub struct Ways {
    left: VecDeque<SocketAddr>,
    until: Instant,
}

impl Ways {
    pub fn new(addresses: VecDeque<SocketAddr>, until: Instant) -> Self {
        Ways {
            left: addresses,
            until,
        }
    }

    /// Whether there is another one, and time for it.
    pub fn is_another(&self, now: Instant) -> bool {
        !self.left.is_empty() && self.until > now
    }

    /// The next address, and how long it may take to connect: half of what is left where others
    /// follow, so that one that is silent leaves time for them (curl does likewise).
    pub fn next(&mut self, now: Instant) -> Option<(SocketAddr, Duration)> {
        let left = self.until.saturating_duration_since(now);
        let address = self.left.pop_front()?;
        let is_last = self.left.is_empty();
        Some((address, if is_last { left } else { left / 2 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(last: &[u8]) -> Vec<SocketAddr> {
        let one = |last: &u8| SocketAddr::from(([10, 0, 0, *last], 443));
        last.iter().map(one).collect()
    }

    #[test]
    fn the_time_for_a_connection_is_shared_among_addresses() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut ways = Ways::new(all(&[1, 2, 3]).into(), now + 4 * second);
        assert_eq!(ways.next(now), Some((all(&[1])[0], 2 * second)));
        assert_eq!(ways.next(now + 2 * second), Some((all(&[2])[0], second)));
        assert!(ways.is_another(now + 3 * second));
        assert_eq!(ways.next(now + 3 * second), Some((all(&[3])[0], second)));
        assert!(!ways.is_another(now + 3 * second));
        let ways = Ways::new(all(&[1]).into(), now);
        assert!(!ways.is_another(now));
    }
}
