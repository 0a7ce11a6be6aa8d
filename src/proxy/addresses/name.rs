//! One name: the addresses it has, when to look it up anew, and which of them comes next. Pure: who looks
//! it up, and when it is, are told.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Weak;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::upstream::Health;

/// How long addresses are used before their name is looked up again.
pub(super) const FRESH: Duration = Duration::from_secs(30);

/// Pause after a look-up that failed; it doubles with each further one, up to [`FRESH`], or to less
/// where no address serves meanwhile: a name that has just been made must not be waited for.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_WITHOUT: Duration = Duration::from_secs(4);

/// How long an address that could not be reached is tried last.
const SPARED: Duration = Duration::from_secs(30);

/// Addresses of one name that are used.
const MOST_ADDRESSES: usize = 16;

/// One name.
#[derive(Debug)]
pub(super) struct Name {
    /// None yet, where it is empty.
    pub known: Vec<SocketAddr>,
    pub due: Instant,
    /// Look-ups in a row that failed, and why the last one did.
    pub failures: u32,
    pub fault: String,
    turn: usize,
    unreachable: Vec<(SocketAddr, Instant)>,
    /// Since when it is being looked up; its sender goes with the look-up.
    pub asking: Option<(Instant, watch::Receiver<()>)>,
    /// Of the peer that asked last: a name whose peers are gone is forgotten.
    pub user: Weak<Health>,
}

impl Name {
    pub fn new(now: Instant) -> Self {
        Name {
            known: Vec::new(),
            due: now,
            failures: 0,
            fault: String::from("no answer of the name server"),
            turn: 0,
            unreachable: Vec::new(),
            asking: None,
            user: Weak::new(),
        }
    }

    pub fn running(&self) -> Option<(Instant, watch::Receiver<()>)> {
        let running = self.asking.as_ref();
        running
            .filter(|(_, asked)| asked.has_changed().is_ok())
            .cloned()
    }

    pub fn learned(&mut self, found: io::Result<Vec<SocketAddr>>, now: Instant) {
        match found {
            Ok(addresses) if !addresses.is_empty() => {
                self.known.clear();
                for address in addresses {
                    if self.known.len() < MOST_ADDRESSES && !self.known.contains(&address) {
                        self.known.push(address);
                    }
                }
                self.failures = 0;
                self.due = now + FRESH;
                let known = &self.known;
                self.unreachable.retain(|(one, _)| known.contains(one));
            }
            Ok(_) => self.failed(String::from("no address"), now),
            Err(fault) => self.failed(fault.to_string(), now),
        }
    }

    pub fn failed(&mut self, fault: String, now: Instant) {
        let doubled = PAUSE.saturating_mul(1 << self.failures.min(16));
        let serves = !self.known.is_empty();
        self.due = now + doubled.min(if serves { FRESH } else { LONGEST_WITHOUT });
        self.failures = self.failures.saturating_add(1);
        self.fault = fault;
    }

    /// One of them could not be reached: others come before it for a while.
    pub fn spare(&mut self, address: SocketAddr, now: Instant) {
        self.unreachable.retain(|(one, _)| *one != address);
        self.unreachable.push((address, now + SPARED));
    }

    /// From the next one on, and behind them those that could not be reached.
    pub fn order(&mut self, now: Instant) -> VecDeque<SocketAddr> {
        let mut order = self.known.clone();
        if !order.is_empty() {
            let first = self.turn % order.len();
            order.rotate_left(first);
            self.turn = self.turn.wrapping_add(1);
        }
        self.unreachable.retain(|(_, until)| *until > now);
        let is_spared = |address: &SocketAddr| self.unreachable.iter().any(|(a, _)| a == address);
        order.sort_by_key(is_spared);
        order.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_was_never_found_is_looked_up_soon_again() {
        let now = Instant::now();
        let pauses = |name: &mut Name| {
            let mut pause = || {
                name.failed(String::new(), now);
                (name.due - now).as_secs()
            };
            (0..7).map(|_| pause()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(&mut Name::new(now)), [1, 2, 4, 4, 4, 4, 4]);
        let mut found = Name::new(now);
        found.learned(Ok(vec![SocketAddr::from(([192, 0, 2, 1], 80))]), now);
        assert_eq!(pauses(&mut found), [1, 2, 4, 8, 16, 30, 30]);
    }
}
