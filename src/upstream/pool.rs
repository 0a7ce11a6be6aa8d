//! Pools and the routing of a model or a path to one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use globset::{Glob, GlobMatcher};

use super::health::Health;
use super::pick::{Candidate, pick};
use crate::config::{PeerConfig, PoolConfig};
use crate::metering::Dialect;
use crate::time::UnixMs;

/// One endpoint with its credential, and what traffic has shown of it.
#[derive(Debug)]
pub struct Peer {
    pub config: PeerConfig,
    /// `host:port`.
    pub name: String,
    pub health: Health,
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

/// Why no pool serves a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteFault {
    NoPoolForModel,
    NoPoolForPath,
    /// A pool serves the model, but not in the dialect of the path.
    OtherDialect(Dialect),
}

impl Pools {
    pub fn new(configs: &[Arc<PoolConfig>]) -> Self {
        Pools {
            pools: configs
                .iter()
                .map(|config| Arc::new(Pool::new(Arc::clone(config))))
                .collect(),
        }
    }

    pub fn all(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// The first pool that serves `model` in the dialect of the path and that the caller may use.
    pub fn by_model(
        &self,
        model: &str,
        dialect: Dialect,
        allowed: impl Fn(&str) -> bool,
    ) -> Result<Route, RouteFault> {
        let mut fault = RouteFault::NoPoolForModel;
        for pool in self.pools.iter().filter(|pool| allowed(&pool.config.name)) {
            let alias = pool.config.aliases.get(model);
            let known = alias.is_some() || pool.serves(model);
            if !known {
                continue;
            }
            if pool.config.dialect == dialect {
                return Ok(Route {
                    pool: Arc::clone(pool),
                    upstream_model: alias.cloned(),
                });
            }
            fault = RouteFault::OtherDialect(pool.config.dialect);
        }
        Err(fault)
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
    fn new(config: Arc<PoolConfig>) -> Self {
        // Globs were checked with the configuration; one that does not compile matches nothing.
        let compile = |globs: &[String]| {
            globs
                .iter()
                .filter_map(|glob| Glob::new(glob).ok())
                .map(|glob| glob.compile_matcher())
                .collect()
        };
        Pool {
            peers: config
                .peers
                .iter()
                .map(|peer| Arc::new(Peer::new(peer.clone())))
                .collect(),
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

    /// The next peer for an exchange that has tried those for which `tried` is true.
    pub fn next_peer(
        &self,
        tried: impl Fn(&Peer) -> bool,
        key_hash: u64,
        now: UnixMs,
    ) -> Option<Arc<Peer>> {
        if let [only] = self.peers.as_slice() {
            return (!tried(only)).then(|| Arc::clone(only));
        }
        let candidates: Vec<Candidate> = self
            .peers
            .iter()
            .map(|peer| Candidate {
                weight: peer.config.weight,
                running: peer.health.running(),
                tried: tried(peer),
                cooling: peer.health.is_cooling(now),
            })
            .collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        pick(self.config.balance, &candidates, turn, key_hash)
            .map(|index| Arc::clone(&self.peers[index]))
    }
}

impl Peer {
    fn new(config: PeerConfig) -> Self {
        Peer {
            name: config.name(),
            config,
            health: Health::default(),
        }
    }
}
