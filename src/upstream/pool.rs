//! Pools and the routing of a model or a path to one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use globset::{Glob, GlobMatcher};

use super::failover::Need;
use super::health::{Fitness, Health, Probe};
use super::pick::{Candidate, pick};
use crate::config::{PeerConfig, PoolConfig};
use crate::metering::Dialect;
use crate::time::UnixMs;

/// One endpoint with its credential, and what traffic has shown of it.
#[derive(Debug)]
pub struct Peer {
    pub config: PeerConfig,
    /// `host:port`, and `#2` after it where the pool has another of that name before (a second
    /// credential for one host). One of a kind in its pool.
    pub name: String,
    pub health: Arc<Health>,
}

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
        let old = |name: &str, peer: &PeerConfig| {
            let peers = before.map_or(&[][..], |pool| &pool.peers);
            let same =
                |old: &&Arc<Peer>| old.name == name && old.config.base_path == peer.base_path;
            peers.iter().find(same)
        };
        let is_checked = config.health_check.is_some();
        let mut peers: Vec<Arc<Peer>> = Vec::new();
        for (at, peer) in config.peers.iter().enumerate() {
            let earlier = config.peers.iter().take(at);
            let name = match earlier.filter(|one| one.name() == peer.name()).count() {
                0 => peer.name(),
                namesakes => format!("{}#{}", peer.name(), namesakes + 1),
            };
            let known = old(&name, peer);
            let health = known.map(|peer| Arc::clone(&peer.health));
            let health = health.unwrap_or_default();
            if !is_checked {
                health.is_unchecked();
            }
            let config = peer.clone();
            peers.push(Arc::new(Peer {
                config,
                name,
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

    /// The next peer for an exchange that has tried those for which `tried` is true, none worse than
    /// `worst`. A doubtful one is claimed for its probe.
    pub fn next_peer(
        &self,
        tried: impl Fn(&Arc<Peer>) -> bool,
        need: Need,
        now: UnixMs,
        worst: Fitness,
    ) -> Option<(Arc<Peer>, Option<Probe>)> {
        let candidate = |peer: &Arc<Peer>| Candidate {
            weight: peer.config.weight,
            running: peer.health.running(),
            tried: tried(peer),
            fitness: peer.health.fitness(need.tokens, now),
        };
        let index = if let [only] = self.peers.as_slice() {
            candidate(only).fits(worst).then_some(0)
        } else {
            let candidates: Vec<Candidate> = self.peers.iter().map(candidate).collect();
            let any = candidates.iter().any(|candidate| candidate.fits(worst));
            // A turn is taken by those alone that find a peer, or some peers would never have theirs.
            let turn = any.then(|| self.turn.fetch_add(1, Ordering::Relaxed));
            let balance = self.config.balance;
            turn.and_then(|turn| pick(balance, &candidates, turn, need.key_hash, worst))
        };
        let peer = self.peers.get(index?)?;
        // Where another exchange was faster, this is one probe too many, and does no harm.
        Some((Arc::clone(peer), peer.health.begin_probe(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

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
        before.all()[0].peers[1].health.failed(UnixMs(0), 1, 1_000);
        let after = Pools::new(&configs, Some(&before));
        let failures = |at: usize| after.all()[0].peers[at].health.failures();
        assert_eq!((failures(0), failures(1)), (0, 1));
    }

    #[test]
    fn a_peer_that_is_no_longer_checked_is_not_down_for_ever() {
        let yaml = "pools: [{name: a, dialect: openai, models: ['m'], health_check: {path: /x}, \
                    peers: [{url: 'http://h:1'}]}]";
        let before = Pools::new(&configs(yaml), None);
        before.all()[0].peers[0].health.checked(false);
        let unchecked = configs(&yaml.replace("health_check: {path: /x}, ", ""));
        let after = Pools::new(&unchecked, Some(&before));
        assert!(!after.all()[0].peers[0].health.is_down());
    }
}
