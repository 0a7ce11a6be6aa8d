//! Pools and the routing of a model or a path to one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use globset::{Glob, GlobMatcher};

use super::attempt::Attempt;
use super::failover::Need;
use super::health::Fitness;
use super::peer::{Peer, identity, seat};
use super::pick::{Candidate, pick};
use crate::config::{PeerConfig, PoolConfig};
use crate::metering::Dialect;

/// A named set of peers.
#[derive(Debug)]
pub struct Pool {
    pub config: Arc<PoolConfig>,
    pub peers: Vec<Arc<Peer>>,
    models: Vec<GlobMatcher>,
    paths: Vec<GlobMatcher>,
    turn: AtomicU64,
}

/// All pools, in the order of the configuration.
#[derive(Debug, Default)]
pub struct Pools {
    pools: Vec<Arc<Pool>>,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub struct Route {
    pub pool: Arc<Pool>,
    /// The model's name at the provider, where an alias gives another than was asked for.
    pub upstream_model: Option<String>,
}

impl Route {
    fn of(pool: &Arc<Pool>, model: &str) -> Route {
        Route {
            pool: Arc::clone(pool),
            upstream_model: pool.config.aliases.get(model).cloned(),
        }
    }
}

/// Why no pool serves a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteFault {
    NoPoolForModel,
    NoPoolForPath,
    /// A pool serves the model, but not in the dialect of the path.
    OtherDialect(Dialect),
}

impl Pools {
    /// `before` are the pools of the configuration until now: what is known of a peer that stays is
    /// kept.
    pub fn new(configs: &[Arc<PoolConfig>], before: Option<&Pools>) -> Self {
        let old = |config: &PoolConfig| {
            let pools = before.map_or(&[][..], Pools::all);
            pools.iter().find(|pool| pool.config.name == config.name)
        };
        let pool = |config: &Arc<PoolConfig>| Pool::new(Arc::clone(config), old(config));
        Pools {
            pools: configs
                .iter()
                .map(|config| Arc::new(pool(config)))
                .collect(),
        }
    }

    pub fn all(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// The first pool that serves `model` in the dialect of the path and that the caller may use, and
    /// behind it those that it falls back to: the ones it lists, else the others that serve the model.
    /// At least one.
    pub fn by_model(
        &self,
        model: &str,
        dialect: Dialect,
        allowed: impl Fn(&str) -> bool,
    ) -> Result<Vec<Route>, RouteFault> {
        let usable = || self.pools.iter().filter(|pool| allowed(&pool.config.name));
        let mut serving = usable().filter(|pool| pool.knows(model));
        let Some(first) = serving.clone().find(|pool| pool.config.dialect == dialect) else {
            let other = serving.next().map(|pool| pool.config.dialect);
            return Err(other.map_or(RouteFault::NoPoolForModel, RouteFault::OtherDialect));
        };
        let others: Vec<&Arc<Pool>> = match &first.config.fallback {
            Some(names) => {
                let named = |name: &String| usable().find(|pool| pool.config.name == *name);
                names.iter().filter_map(named).collect()
            }
            None => serving.collect(),
        };
        let others = others
            .into_iter()
            .filter(|pool| pool.config.dialect == dialect && !Arc::ptr_eq(pool, first));
        let routes = std::iter::once(first).chain(others);
        Ok(routes.map(|pool| Route::of(pool, model)).collect())
    }

    /// The pool of a path that names no model: by its `paths` globs, else the first of the dialect.
    pub fn by_path(
        &self,
        path: &str,
        dialect: Dialect,
        allowed: impl Fn(&str) -> bool,
    ) -> Result<Route, RouteFault> {
        let pools = || self.pools.iter().filter(|pool| allowed(&pool.config.name));
        let by_glob = pools().find(|pool| pool.paths.iter().any(|glob| glob.is_match(path)));
        by_glob
            .or_else(|| pools().find(|pool| pool.config.dialect == dialect))
            .map(|pool| Route {
                pool: Arc::clone(pool),
                upstream_model: None,
            })
            .ok_or(RouteFault::NoPoolForPath)
    }
}

impl Pool {
    fn new(config: Arc<PoolConfig>, before: Option<&Arc<Pool>>) -> Self {
        // Globs were checked with the configuration; one that does not compile matches nothing.
        let compile = |globs: &[String]| {
            globs
                .iter()
                .filter_map(|glob| Glob::new(glob).ok())
                .map(|glob| glob.compile_matcher())
                .collect()
        };
        let known = before.map_or(&[][..], |pool| &pool.peers);
        let mut peers: Vec<Arc<Peer>> = Vec::new();
        for (at, peer) in config.peers.iter().enumerate() {
            let earlier = config.peers.iter().take(at);
            let name = match earlier.filter(|one| one.name() == peer.name()).count() {
                0 => peer.name(),
                namesakes => format!("{}#{}", peer.name(), namesakes + 1),
            };
            let numbered = |hash: fn(&PeerConfig, usize) -> u64| {
                let earlier = config.peers.iter().take(at);
                let twins = earlier.filter(|one| hash(one, 0) == hash(peer, 0));
                hash(peer, twins.count())
            };
            let (identity, seat) = (numbered(identity), numbered(seat));
            let known = known.iter().find(|old| old.identity == identity);
            let health = known.map(|peer| Arc::clone(&peer.health));
            let health = health.unwrap_or_default();
            match &config.health_check {
                Some(check) => health.is_checked(check.rise, check.fall),
                None => health.is_unchecked(),
            }
            peers.push(Arc::new(Peer {
                config: peer.clone(),
                name,
                identity,
                seat,
                health,
            }));
        }
        Pool {
            peers,
            models: compile(&config.models),
            paths: compile(&config.paths),
            turn: AtomicU64::new(0),
            config,
        }
    }

    /// Whether one of the pool's globs covers this model.
    pub fn serves(&self, model: &str) -> bool {
        self.models.iter().any(|glob| glob.is_match(model))
    }

    /// The same, or by an alias.
    fn knows(&self, model: &str) -> bool {
        self.config.aliases.contains_key(model) || self.serves(model)
    }

    /// The peers that take exchanges: a weight of 0 drains one.
    pub fn takers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.iter().filter(|peer| peer.takes())
    }

    /// The next peer for an exchange that has tried those for which `tried` is true, none worse than
    /// `worst`. At a doubtful one the exchange is its probe.
    pub fn next_peer(
        &self,
        tried: impl Fn(&Arc<Peer>) -> bool,
        need: Need,
        now: Instant,
        worst: Fitness,
    ) -> Option<Attempt> {
        let candidate = |peer: &Arc<Peer>| Candidate {
            seat: peer.seat,
            weight: peer.config.weight,
            running: peer.health.running(),
            is_out: !peer.takes() || tried(peer),
            fitness: peer.health.fitness(&need, now),
        };
        // A doubtful peer whose probe another exchange has become meanwhile is doubtful no more.
        for _ in 0..=self.peers.len() {
            let candidates: Vec<Candidate> = self.peers.iter().map(candidate).collect();
            if !candidates.iter().any(|candidate| candidate.fits(worst)) {
                return None;
            }
            // A turn is taken by those alone that find a peer, or some peers would never have theirs.
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let balance = self.config.balance;
            let index = pick(balance, &candidates, turn, need.key_hash, worst)?;
            let fitness = candidates[index].fitness;
            let attempt = Attempt::begin(&self.peers[index], need, now, fitness);
            if attempt.is_some() {
                return attempt;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use std::time::Duration;

    fn configs(yaml: &str) -> Vec<Arc<PoolConfig>> {
        let here = std::path::Path::new(".");
        let parsed = config::parse(yaml, "test", here, &|_| None).unwrap();
        parsed.config.pools
    }

    #[test]
    fn two_credentials_for_one_host_are_two_peers_also_after_a_reload() {
        let yaml = "pools: [{name: a, dialect: openai, models: ['m'], peers: \
                    [{url: 'http://h:1', credential: x}, {url: 'http://h:1', credential: y}]}]";
        let configs = configs(yaml);
        let before = Pools::new(&configs, None);
        let names: Vec<&str> = before.all()[0]
            .peers
            .iter()
            .map(|p| p.name.as_str())
            .collect();
        assert_eq!(names, ["h:1", "h:1#2"]);
        fail(&before.all()[0].peers[1]);
        let failures = |after: &Pools| {
            let peers = after.all()[0].peers.iter();
            peers.map(|peer| peer.health.failures()).collect::<Vec<_>>()
        };
        let after = Pools::new(&configs, Some(&before));
        assert_eq!(failures(&after), [0, 1]);
        // What is known goes with the credential, not with the place.
        let first = yaml.replace("{url: 'http://h:1', credential: x}, ", "");
        assert_eq!(
            failures(&Pools::new(&self::configs(&first), Some(&before))),
            [1]
        );
        let other = yaml.replace("credential: y", "credential: z");
        let after = Pools::new(&self::configs(&other), Some(&before));
        assert_eq!(failures(&after), [0, 0]);
    }

    fn fail(peer: &Arc<Peer>) {
        let now = Instant::now();
        let attempt = Attempt::begin(peer, Need::NOTHING, now, Fitness::Fit).unwrap();
        attempt.failed(now, 1, Duration::from_secs(1));
    }

    #[test]
    fn peers_alike_to_the_letter_are_still_two() {
        let yaml = "pools: [{name: a, dialect: openai, models: ['m'], peers: \
                    [{url: 'http://h:1'}, {url: 'http://h:1'}]}]";
        let pools = Pools::new(&configs(yaml), None);
        fail(&pools.all()[0].peers[1]);
        let after = Pools::new(&configs(yaml), Some(&pools));
        let peers = &after.all()[0].peers;
        assert_ne!(peers[0].identity, peers[1].identity);
        assert_eq!(
            (peers[0].health.failures(), peers[1].health.failures()),
            (0, 1)
        );
    }

    /// What is known of a credential goes with it; the keys of a peer do not.
    #[test]
    fn a_credential_that_changes_moves_no_key() {
        let yaml = "pools: [{name: a, dialect: openai, models: ['m'], balance: consistent_hash, peers: \
                    [{url: 'http://a:1', credential: x}, {url: 'http://a:1', credential: y}, \
                    {url: 'http://b:1', credential: x}]}]";
        let homes = |yaml: &str| {
            let pools = Pools::new(&configs(yaml), None);
            let pool = &pools.all()[0];
            let home = |key_hash| {
                let need = Need {
                    key_hash,
                    ..Need::NOTHING
                };
                let now = Instant::now();
                let attempt = pool.next_peer(|_| false, need, now, Fitness::Fit).unwrap();
                attempt.peer().name.clone()
            };
            (0..200).map(home).collect::<Vec<_>>()
        };
        let before = homes(yaml);
        assert_eq!(
            homes(&yaml.replace("credential: x", "credential: z")),
            before
        );
        assert!(before.iter().any(|name| name == "a:1#2"), "{before:?}");
    }

    /// Two exchanges find the same peer doubtful: one is its probe, the other goes elsewhere.
    #[test]
    fn who_misses_the_probe_picks_again() {
        let yaml = "pools: [{name: a, dialect: openai, models: ['m'], balance: fallback, peers: \
                    [{url: 'http://a:1'}, {url: 'http://b:1'}]}]";
        let pools = Pools::new(&configs(yaml), None);
        let pool = &pools.all()[0];
        fail(&pool.peers[0]);
        let later = Instant::now() + Duration::from_secs(1);
        let next = || {
            let worst = Fitness::Doubtful;
            let attempt = pool
                .next_peer(|_| false, Need::NOTHING, later, worst)
                .unwrap();
            (attempt.peer().name.clone(), attempt)
        };
        let (first, probe) = next();
        let (second, _running) = next();
        assert_eq!((first.as_str(), second.as_str()), ("a:1", "b:1"));
        drop(probe);
        assert_eq!(next().0, "a:1");
    }

    #[test]
    fn a_peer_that_is_no_longer_checked_is_not_down_for_ever() {
        let yaml = "pools: [{name: a, dialect: openai, models: ['m'], health_check: {path: /x, fall: 1}, \
                    peers: [{url: 'http://h:1'}]}]";
        let before = Pools::new(&configs(yaml), None);
        before.all()[0].peers[0].health.checked(false);
        let unchecked = configs(&yaml.replace("health_check: {path: /x, fall: 1}, ", ""));
        let after = Pools::new(&unchecked, Some(&before));
        assert!(!after.all()[0].peers[0].health.is_down());
        // One that was under way then has nothing to say any more.
        before.all()[0].peers[0].health.checked(false);
        assert!(!after.all()[0].peers[0].health.is_down());
    }
}
