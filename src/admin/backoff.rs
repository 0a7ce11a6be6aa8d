//! Guesses at a password or token get slower and slower: a few are free, then each doubles the wait.
//!
//! Pure: time is an argument. An attempt counts as failed when it is let through and is forgiven
//! when it turns out right, so that many at once cannot all slip by before the first has failed.
//! Passwords are counted twice: for a user name from a network, and for the network whatever the name,
//! or ten thousand made-up names would be as many fresh starts.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use crate::time::UnixMs;

/// Failed attempts before waiting begins.
const FREE: u32 = 5;
/// The same for a network and all names in it: several people may mistype behind one address.
const FREE_OF_NETWORK: u32 = 20;
/// The longest wait.
const MAX_WAIT_MS: i64 = 900_000;
/// After this time without an attempt all is forgotten.
const MEMORY_MS: i64 = 3_600_000;
/// Guessers, and networks, that are remembered at most.
const MAX_CALLERS: usize = 10_000;
/// Characters of a name that count.
const MAX_NAME: usize = 64;

/// An address, of an IPv6 one its /64, which is one household; none where it is not known.
type Network = Option<IpAddr>;

fn network(from: Option<IpAddr>) -> Network {
    from.map(|ip| match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::from((u128::from(v6) >> 64 << 64).to_be_bytes()),
        v4 => v4,
    })
}

/// Who guesses, and at what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Guesser {
    network: Network,
    /// The user whose password it is; none for the token.
    name: Option<String>,
}

impl Guesser {
    /// Someone who guesses at the admin token. Those who guess at passwords do not keep it out.
    pub fn at_token(from: Option<IpAddr>) -> Self {
        Guesser {
            network: network(from),
            name: None,
        }
    }

    /// Someone who guesses at a user's password.
    pub fn at_password(from: Option<IpAddr>, name: &str) -> Self {
        Guesser {
            network: network(from),
            name: Some(name.chars().take(MAX_NAME).collect()),
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

/// Failures by guesser, and at passwords by network. Bounded: when it is full, the one idle longest is
/// forgotten.
#[derive(Debug, Default)]
pub struct Backoff {
    guessers: HashMap<Guesser, Record>,
    networks: HashMap<Network, Record>,
}

impl Backoff {
    /// Lets an attempt through, or says how many milliseconds to wait. An attempt that is not let
    /// through changes nothing: nobody can be kept out for ever by a stranger behind the same address.
    pub fn attempt(&mut self, guesser: &Guesser, now: UnixMs) -> Result<(), i64> {
        let by_name = Count::of(&self.guessers, guesser, now);
        let by_network = guesser
            .name
            .is_some()
            .then(|| Count::of(&self.networks, &guesser.network, now));
        let network_wait = by_network.map_or(0, |count| count.wait);
        let wait = by_name.wait.max(network_wait);
        if wait > 0 {
            return Err(wait);
        }
        let record = Record::after(by_name.failures, FREE, now);
        remember(&mut self.guessers, guesser, record);
        if let Some(count) = by_network {
            let record = Record::after(count.failures, FREE_OF_NETWORK, now);
            remember(&mut self.networks, &guesser.network, record);
        }
        Ok(())
    }

    /// The attempt was right: whoever is behind that address may well be ours.
    pub fn forgive(&mut self, guesser: &Guesser) {
        self.guessers.remove(guesser);
        if guesser.name.is_some() {
            self.networks.remove(&guesser.network);
        }
    }
}

/// What is remembered of one guesser or network.
#[derive(Clone, Copy, Default)]
struct Count {
    failures: u32,
    /// Milliseconds.
    wait: i64,
}

impl Count {
    fn of<K: Eq + Hash>(records: &HashMap<K, Record>, key: &K, now: UnixMs) -> Self {
        let known = records.get(key);
        let known = known.filter(|record| now.0.saturating_sub(record.last.0) < MEMORY_MS);
        known.map_or_else(Count::default, |record| Count {
            failures: record.failures,
            wait: record.until.0.saturating_sub(now.0).max(0),
        })
    }
}

impl Record {
    /// One more failure, of which `free` cost no wait.
    fn after(failures: u32, free: u32, now: UnixMs) -> Self {
        let failures = failures.saturating_add(1);
        let wait = match failures.checked_sub(free) {
            None => 0,
            Some(over) => 1_000_i64
                .checked_shl(over)
                .filter(|ms| over < 20 && *ms < MAX_WAIT_MS)
                .unwrap_or(MAX_WAIT_MS),
        };
        Record {
            failures,
            last: now,
            until: now.plus_ms(wait),
        }
    }
}

fn remember<K: Clone + Eq + Hash>(records: &mut HashMap<K, Record>, key: &K, record: Record) {
    if !records.contains_key(key) && records.len() >= MAX_CALLERS {
        let idle = records.iter().min_by_key(|(_, record)| record.last);
        if let Some(idle) = idle.map(|(key, _)| key.clone()) {
            records.remove(&idle);
        }
    }
    records.insert(key.clone(), record);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guesser(ip: &str, name: &str) -> Guesser {
        Guesser::at_password(Some(ip.parse().unwrap()), name)
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
    fn many_names_from_one_network_are_one_guesser() {
        let mut backoff = Backoff::default();
        let admin = guesser("192.0.2.1", "admin");
        for _ in 0..5 {
            backoff.attempt(&admin, UnixMs(0)).unwrap();
        }
        let names = (0..MAX_CALLERS + 10).map(|n| guesser("192.0.2.1", &n.to_string()));
        let through = names
            .filter(|name| backoff.attempt(name, UnixMs(1)).is_ok())
            .count();
        assert_eq!(through, 15, "20 in all");
        assert!(backoff.guessers.contains_key(&admin), "none is evicted");
        assert!(
            backoff
                .attempt(&guesser("192.0.2.2", "admin"), UnixMs(1))
                .is_ok()
        );
        let token = Guesser::at_token(Some("192.0.2.1".parse().unwrap()));
        assert!(backoff.attempt(&token, UnixMs(1)).is_ok());
    }

    #[test]
    fn memory_is_bounded() {
        let mut backoff = Backoff::default();
        let nth = |n: usize| {
            let ip = std::net::Ipv4Addr::from(u32::try_from(n).unwrap());
            Guesser::at_password(Some(ip.into()), "admin")
        };
        for n in 0..MAX_CALLERS + 10 {
            let now = UnixMs(i64::try_from(n).unwrap());
            backoff.attempt(&nth(n), now).unwrap();
        }
        assert_eq!(backoff.guessers.len(), MAX_CALLERS);
        assert_eq!(backoff.networks.len(), MAX_CALLERS);
        assert!(!backoff.guessers.contains_key(&nth(0)));
    }
}
