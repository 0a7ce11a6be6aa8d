//! Addresses of peers that are named, not numbered: looked up in the background.
//!
//! A name is looked up anew while it is in use, see `name`. Meanwhile, and for as long as the name
//! server does not answer, the old addresses serve: only the first look-up of a name is waited for.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use self::name::Name;
use crate::upstream::{Health, Peer};

mod name;

/// Longest wait for a name server. A look-up that takes longer goes on without anybody waiting.
const LOOKUP: Duration = Duration::from_secs(5);

/// Look-ups at once. The system's resolver cannot be called off: a hung one keeps a thread.
const MOST_LOOKUPS: usize = 16;

/// Who knows the addresses of a name.
#[async_trait]
pub trait Resolver: Send + Sync {
    /// The addresses of `host`, in the order of preference. May take as long as it likes.
    async fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// The system's own (`getaddrinfo`): `/etc/hosts`, then what `/etc/resolv.conf` names.
#[derive(Debug)]
struct System;

#[async_trait]
impl Resolver for System {
    async fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }
}

/// A name that led nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved(pub String);

/// What is known of the names in use. It belongs to the runtime that asks first.
pub struct Addresses {
    names: Arc<Mutex<HashMap<Target, Name>>>,
    resolver: Arc<dyn Resolver>,
    lookups: Arc<Semaphore>,
}

/// Host and port.
type Target = (String, u16);

impl std::fmt::Debug for Addresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Addresses").finish_non_exhaustive()
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Self::new(Arc::new(System))
    }
}

impl Addresses {
    pub fn new(resolver: Arc<dyn Resolver>) -> Self {
        Addresses {
            names: Arc::default(),
            resolver,
            lookups: Arc::new(Semaphore::new(MOST_LOOKUPS)),
        }
    }

    /// The addresses of `peer` in the order in which they are to be tried; at least one. A literal
    /// address is taken as it is. Waits for a name's first look-up alone, at most `patience` or five
    /// seconds. Cancel safe. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// No address is known, and none came in that time.
    pub async fn of(
        &self,
        peer: &Peer,
        patience: Duration,
    ) -> Result<VecDeque<SocketAddr>, Unresolved> {
        let config = &peer.config;
        let host = config.host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = host.parse() {
            return Ok(VecDeque::from([SocketAddr::new(ip, config.port)]));
        }
        let target = (config.host.clone(), config.port);
        let first = self.known_or_asked(&target, &peer.health, Instant::now());
        let Some((since, mut running)) = first else {
            return self.known(&target);
        };
        let patience = patience.min(LOOKUP.saturating_sub(since.elapsed()));
        // Whatever came of it stands with the name.
        drop(tokio::time::timeout(patience, running.changed()).await);
        self.known(&target)
    }

    /// An address could not be reached: others of its name come before it for a while.
    pub fn unreachable(&self, peer: &Peer, address: SocketAddr) {
        let target = (peer.config.host.clone(), peer.config.port);
        if let Some(name) = self.names.lock().get_mut(&target) {
            name.spare(address, Instant::now());
        }
    }

    /// Begins a look-up where one is due. Answers the one that runs where no address is known.
    fn known_or_asked(
        &self,
        target: &Target,
        user: &Arc<Health>,
        now: Instant,
    ) -> Option<(Instant, watch::Receiver<()>)> {
        let mut names = self.names.lock();
        if !names.contains_key(target) {
            names.insert(target.clone(), Name::new(now));
        }
        let name = names.get_mut(target)?;
        name.user = Arc::downgrade(user);
        let running = name.running();
        if running.is_none() && name.due <= now {
            name.asking = self.look_up(target, now);
            if name.asking.is_none() {
                name.failed(String::from("too many look-ups hang"), now);
            }
            names.retain(|_, name| name.user.strong_count() > 0);
        }
        let name = names.get(target)?;
        name.known.is_empty().then(|| name.running()).flatten()
    }

    fn look_up(&self, target: &Target, now: Instant) -> Option<(Instant, watch::Receiver<()>)> {
        let permit = Arc::clone(&self.lookups).try_acquire_owned().ok()?;
        let (asking, running) = watch::channel(());
        let (names, resolver) = (Arc::clone(&self.names), Arc::clone(&self.resolver));
        let target = target.clone();
        tokio::spawn(async move {
            let found = resolver.look_up(&target.0, target.1).await;
            if let Some(name) = names.lock().get_mut(&target) {
                name.learned(found, Instant::now());
            }
            drop((asking, permit));
        });
        Some((now, running))
    }

    fn known(&self, target: &Target) -> Result<VecDeque<SocketAddr>, Unresolved> {
        let mut names = self.names.lock();
        let name = names.get_mut(target);
        let known = name.map(|name| {
            let order = name.order(Instant::now());
            if order.is_empty() {
                return Err(name.fault.clone());
            }
            Ok(order)
        });
        let known = known.unwrap_or_else(|| Err(String::from("it was forgotten")));
        known.map_err(|why| Unresolved(format!("{}: {why}", target.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::upstream::Pools;
    use std::path::Path;
    use tokio::sync::Notify;

    /// Answers what it is told, and hangs while it is told to.
    #[derive(Default)]
    struct Fake {
        answer: Mutex<Vec<SocketAddr>>,
        hangs: Mutex<Option<Arc<Notify>>>,
        asked: Mutex<usize>,
    }

    #[async_trait]
    impl Resolver for Fake {
        async fn look_up(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
            *self.asked.lock() += 1;
            let hangs = self.hangs.lock().clone();
            if let Some(hangs) = hangs {
                hangs.notified().await;
            }
            let answer = self.answer.lock().clone();
            (!answer.is_empty())
                .then_some(answer)
                .ok_or_else(|| io::Error::other("no such name"))
        }
    }

    fn all(last: &[u8]) -> Vec<SocketAddr> {
        let of = |last: &u8| SocketAddr::from(([192, 0, 2, *last], 80));
        last.iter().map(of).collect()
    }

    fn peer() -> Arc<Peer> {
        let yaml =
            "pools: [{name: a, dialect: openai, models: [m], peers: [{url: 'http://h.test'}]}]";
        let parsed = config::parse(yaml, "test", Path::new("."), &|_| None).unwrap();
        let pools = Pools::new(&parsed.config.pools, None);
        Arc::clone(&pools.all()[0].peers[0])
    }

    fn asked(answer: &[u8]) -> (Arc<Fake>, Addresses, Arc<Peer>) {
        let fake = Arc::new(Fake::default());
        *fake.answer.lock() = all(answer);
        (Arc::clone(&fake), Addresses::new(fake), peer())
    }

    impl Addresses {
        /// As if the addresses were old enough to be looked up again.
        fn grow_old(&self) {
            for name in self.names.lock().values_mut() {
                name.due = Instant::now();
            }
        }

        async fn order(&self, peer: &Peer) -> Vec<SocketAddr> {
            self.of(peer, LOOKUP).await.unwrap().into()
        }
    }

    async fn until(done: impl Fn() -> bool) {
        while !done() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn addresses_take_turns_from_the_first() {
        let (fake, addresses, peer) = asked(&[1, 2, 3]);
        assert_eq!(addresses.order(&peer).await, all(&[1, 2, 3]));
        assert_eq!(addresses.order(&peer).await, all(&[2, 3, 1]));
        assert_eq!(addresses.order(&peer).await, all(&[3, 1, 2]));
        assert_eq!(addresses.order(&peer).await, all(&[1, 2, 3]));
        assert_eq!(*fake.asked.lock(), 1);
    }

    #[tokio::test]
    async fn one_that_could_not_be_reached_comes_last() {
        let (_, addresses, peer) = asked(&[1, 2]);
        assert_eq!(addresses.order(&peer).await, all(&[1, 2]));
        addresses.unreachable(&peer, all(&[2])[0]);
        assert_eq!(addresses.order(&peer).await, all(&[1, 2]));
        assert_eq!(addresses.order(&peer).await, all(&[1, 2]));
    }

    #[tokio::test]
    async fn the_old_ones_serve_while_a_look_up_hangs_and_a_change_is_picked_up() {
        let (fake, addresses, peer) = asked(&[1]);
        assert_eq!(addresses.order(&peer).await, all(&[1]));
        let hangs = Arc::new(Notify::new());
        *fake.hangs.lock() = Some(Arc::clone(&hangs));
        *fake.answer.lock() = all(&[9]);
        addresses.grow_old();
        for _ in 0..3 {
            assert_eq!(addresses.order(&peer).await, all(&[1]));
        }
        until(|| *fake.asked.lock() == 2).await;
        // One look-up, for however many.
        addresses.grow_old();
        assert_eq!(addresses.order(&peer).await, all(&[1]));
        hangs.notify_one();
        until(|| addresses.known(&(String::from("h.test"), 80)).unwrap() == all(&[9])).await;
        assert_eq!(*fake.asked.lock(), 2);
    }

    #[tokio::test]
    async fn a_name_server_that_fails_is_given_time_and_the_old_ones_serve() {
        let (fake, addresses, peer) = asked(&[1]);
        assert_eq!(addresses.order(&peer).await, all(&[1]));
        fake.answer.lock().clear();
        addresses.grow_old();
        assert_eq!(addresses.order(&peer).await, all(&[1]));
        let failed = || {
            addresses
                .names
                .lock()
                .values()
                .all(|name| name.failures == 1)
        };
        until(failed).await;
        for _ in 0..5 {
            assert_eq!(addresses.order(&peer).await, all(&[1]));
        }
        assert_eq!(*fake.asked.lock(), 2);
    }

    #[tokio::test]
    async fn a_name_that_leads_nowhere_is_waited_for_once() {
        let (fake, addresses, peer) = asked(&[]);
        let fault = addresses.of(&peer, LOOKUP).await.unwrap_err();
        assert_eq!(fault.0, "h.test: no such name");
        assert_eq!(addresses.of(&peer, LOOKUP).await.unwrap_err(), fault);
        assert_eq!(*fake.asked.lock(), 1);
    }

    #[tokio::test]
    async fn a_look_up_that_hangs_is_waited_for_in_bounds_and_asked_once_by_all() {
        let (fake, addresses, peer) = asked(&[1]);
        *fake.hangs.lock() = Some(Arc::default());
        let patience = Duration::from_millis(20);
        let both = tokio::join!(addresses.of(&peer, patience), addresses.of(&peer, patience));
        assert!(both.0.is_err() && both.1.is_err());
        assert_eq!(*fake.asked.lock(), 1);
        assert_eq!(addresses.lookups.available_permits(), MOST_LOOKUPS - 1);
    }

    #[tokio::test]
    async fn what_no_peer_uses_is_forgotten() {
        let (_, addresses, gone) = asked(&[1]);
        addresses.order(&gone).await;
        drop(gone);
        let other = peer();
        addresses.grow_old();
        let mut config = other.config.clone();
        config.host = String::from("other.test");
        let other = Peer {
            config,
            name: other.name.clone(),
            identity: other.identity,
            seat: other.seat,
            health: Arc::clone(&other.health),
        };
        addresses.order(&other).await;
        assert_eq!(addresses.names.lock().len(), 1);
    }
}
