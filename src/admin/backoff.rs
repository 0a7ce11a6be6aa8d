//! Guesses at a password or token get slower and slower: a few are free, then each doubles the wait.
//!
//! Pure: time is an argument. An attempt counts as failed when it is let through and is forgiven
//! when it turns out right, so that many at once cannot all slip by before the first has failed.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::time::UnixMs;

/// Failed attempts before waiting begins.
const FREE: u32 = 5;
/// The longest wait.
const MAX_WAIT_MS: i64 = 900_000;
/// After this time without an attempt all is forgotten.
const MEMORY_MS: i64 = 3_600_000;
/// Callers that are remembered at most.
const MAX_CALLERS: usize = 10_000;
/// Characters of a name that count.
const MAX_NAME: usize = 64;

/// Who guesses: an address (of an IPv6 one its /64, which is one household) and a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Guesser {
    network: Option<IpAddr>,
    name: String,
}

impl Guesser {
    pub fn new(from: Option<IpAddr>, name: &str) -> Self {
        let network = from.map(|ip| match ip.to_canonical() {
            IpAddr::V6(v6) => IpAddr::from((u128::from(v6) >> 64 << 64).to_be_bytes()),
            v4 => v4,
        });
        Guesser {
            network,
            name: name.chars().take(MAX_NAME).collect(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Record {
    failures: u32,
    last: UnixMs,
    /// No attempt is let through before this.
    until: UnixMs,
}

/// Failures by guesser. Bounded: when it is full, the one idle longest is forgotten.
#[derive(Debug, Default)]
pub struct Backoff {
    records: HashMap<Guesser, Record>,
}

impl Backoff {
    /// Lets an attempt through, or says how many milliseconds to wait. An attempt that is not let
    /// through changes nothing: nobody can be kept out for ever by a stranger behind the same address.
    pub fn attempt(&mut self, guesser: &Guesser, now: UnixMs) -> Result<(), i64> {
        let known = self.records.get(guesser).copied();
        let known = known.filter(|r| now.0.saturating_sub(r.last.0) < MEMORY_MS);
        if let Some(record) = known
            && now < record.until
        {
            return Err(record.until.0 - now.0);
        }
        let failures = known.map_or(0, |r| r.failures).saturating_add(1);
        let wait = match failures.checked_sub(FREE) {
            None => 0,
            Some(over) => 1_000_i64
                .checked_shl(over)
                .filter(|ms| over < 20 && *ms < MAX_WAIT_MS)
                .unwrap_or(MAX_WAIT_MS),
        };
        if known.is_none() {
            self.make_room();
        }
        let record = Record {
            failures,
            last: now,
            until: now.plus_ms(wait),
        };
        self.records.insert(guesser.clone(), record);
        Ok(())
    }

    /// The attempt was right.
    pub fn forgive(&mut self, guesser: &Guesser) {
        self.records.remove(guesser);
    }

    fn make_room(&mut self) {
        if self.records.len() < MAX_CALLERS {
            return;
        }
        let idle = self.records.iter().min_by_key(|(_, r)| r.last);
        if let Some(idle) = idle.map(|(guesser, _)| guesser.clone()) {
            self.records.remove(&idle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guesser(ip: &str, name: &str) -> Guesser {
        Guesser::new(Some(ip.parse().unwrap()), name)
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        let mut backoff = Backoff::default();
        let who = guesser("192.0.2.1", "admin");
        let mut now = UnixMs(0);
        let mut waits = Vec::new();
        for _ in 0..40 {
            backoff.attempt(&who, now).unwrap();
            let wait = backoff.attempt(&who, now).err();
            // A free attempt: the check above was the next one.
            waits.push(wait.unwrap_or(0));
            now = now.plus_ms(wait.unwrap_or(0));
        }
        assert_eq!(&waits[..6], [0, 0, 1_000, 2_000, 4_000, 8_000]);
        assert_eq!(waits.last(), Some(&MAX_WAIT_MS));
    }

    #[test]
    fn attempts_at_once_count_before_they_fail() {
        let mut backoff = Backoff::default();
        let who = guesser("192.0.2.1", "admin");
        let through = (0..100)
            .filter(|_| backoff.attempt(&who, UnixMs(0)).is_ok())
            .count();
        assert_eq!(through, 5);
    }

    #[test]
    fn a_right_attempt_is_forgiven_and_others_are_not_touched() {
        let mut backoff = Backoff::default();
        let (who, other) = (guesser("192.0.2.1", "admin"), guesser("192.0.2.2", "admin"));
        for _ in 0..5 {
            backoff.attempt(&who, UnixMs(0)).unwrap();
        }
        assert!(backoff.attempt(&who, UnixMs(0)).is_err());
        assert!(backoff.attempt(&other, UnixMs(0)).is_ok());
        backoff.forgive(&who);
        assert!(backoff.attempt(&who, UnixMs(0)).is_ok());
    }

    #[test]
    fn one_household_is_one_guesser() {
        assert_eq!(guesser("2001:db8::1", "a"), guesser("2001:db8::ffff", "a"));
        assert_ne!(guesser("2001:db8::1", "a"), guesser("2001:db8:0:1::1", "a"));
        assert_eq!(guesser("::ffff:192.0.2.1", "a"), guesser("192.0.2.1", "a"));
    }

    #[test]
    fn memory_is_bounded() {
        let mut backoff = Backoff::default();
        for n in 0..MAX_CALLERS + 10 {
            let who = Guesser::new(None, &n.to_string());
            backoff
                .attempt(&who, UnixMs(i64::try_from(n).unwrap()))
                .unwrap();
        }
        assert_eq!(backoff.records.len(), MAX_CALLERS);
        assert!(!backoff.records.contains_key(&Guesser::new(None, "0")));
    }
}
