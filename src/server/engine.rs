//! The configured store, opened; and what of it only one process may have, on its way to another.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::StartError;
use super::upgrade::Books;
use crate::config::{Config, OnUnavailable, QuotaConfig, RedisConfig, RedisMode, StoreConfig};
use crate::store::embedded::{EmbeddedOptions, SCHEMA_VERSION};
use crate::store::movable::{HandedOut, MovableStore};
use crate::store::redis::{LinkOptions, RedisOptions, RedisStore, SliceOptions, Topology};
use crate::store::{Store, StoreResult};

/// Longest wait for a lock that its owner has given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// The engine that keeps the books.
#[derive(Clone, Debug)]
pub enum Engine {
    Embedded(Arc<MovableStore>),
    Redis(Arc<RedisStore>),
}

/// Files of an engine that this process has closed for another.
#[derive(Debug)]
pub enum Lent {
    Books(HandedOut),
    /// The journal, where there is one. The books are in Redis.
    Journal(Arc<RedisStore>),
}

impl Engine {
    /// Opens the configured store. `adopt`: a process that goes on has just let go of it.
    ///
    /// # Errors
    /// It belongs to another process, or cannot be read. A Redis that is away is none: it may come.
    pub fn open(config: &Config, adopt: bool) -> Result<Engine, StartError> {
        match &config.store {
            StoreConfig::Embedded {
                path, sync_full, ..
            } => {
                let options = EmbeddedOptions {
                    sync_full: *sync_full,
                    lost_reservation: config.quota.lost_reservation,
                    adopt: adopt.then_some(config.quota.reservation_ttl),
                    // The process before has let go; one that it starts just now may hold the lock for
                    // an instant.
                    patience: if adopt { PATIENCE } else { Duration::ZERO },
                    ..EmbeddedOptions::default()
                };
                let lease = config.quota.reservation_ttl;
                let store = MovableStore::open(path.clone(), options, lease);
                store.map(Engine::Embedded).map_err(StartError::Store)
            }
            StoreConfig::Redis(redis) => {
                let store = RedisStore::start(redis_options(redis, &config.quota));
                store.map(Engine::Redis).map_err(StartError::Store)
            }
        }
    }

    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Engine::Embedded(store) => Arc::clone(store) as Arc<dyn Store>,
            Engine::Redis(store) => Arc::clone(store) as Arc<dyn Store>,
        }
    }

    /// Where the books are.
    pub fn books(&self) -> Books {
        match self {
            Engine::Embedded(store) => books_at(store.path()),
            Engine::Redis(store) => Books::Redis {
                servers: store.servers(),
            },
        }
    }

    /// Closes what only one process may have, for another. `None` where another has it already.
    ///
    /// # Errors
    /// `Unavailable` where something in it must be done first; nothing has changed then.
    pub async fn lend(&self) -> StoreResult<Option<Lent>> {
        match self {
            Engine::Embedded(store) => Ok(store.hand_out().await?.map(Lent::Books)),
            Engine::Redis(store) => {
                store.hand_out_journal().await?;
                Ok(Some(Lent::Journal(Arc::clone(store))))
            }
        }
    }
}

/// Where the books of this configuration are.
pub fn books_of(config: &Config) -> Books {
    match &config.store {
        StoreConfig::Embedded { path, .. } => books_at(path),
        StoreConfig::Redis(redis) => Books::Redis {
            servers: redis_options(redis, &config.quota).link.servers(),
        },
    }
}

/// The same for two names of one file, as far as it is there.
fn books_at(path: &Path) -> Books {
    let whole = path.canonicalize().or_else(|_| std::path::absolute(path));
    Books::File {
        file: whole.unwrap_or_else(|_| path.to_owned()),
        schema: SCHEMA_VERSION,
    }
}

impl Lent {
    /// Whether what runs here can be settled without the other process.
    pub fn settles_alone(&self) -> bool {
        matches!(self, Lent::Journal(_))
    }

    /// The other process did not come to use it. Blocks while that ends.
    ///
    /// # Errors
    /// It cannot be opened again now; perhaps later.
    pub fn take_back(&mut self) -> StoreResult<()> {
        match self {
            Lent::Books(books) => books.take_back(),
            Lent::Journal(store) => store.take_journal_back(),
        }
    }

    /// The other process has it. What runs here is settled there, over this connection, which stays
    /// open for as long as this process lives. Call it on a runtime that does, too. What is returned
    /// ends with the other process.
    pub fn follow(self, mut connection: UnixStream) -> JoinHandle<()> {
        match self {
            Lent::Books(books) => books.follow(connection),
            // Nothing comes but its end.
            Lent::Journal(_) => tokio::spawn(async move {
                drop(connection.read_u8().await);
            }),
        }
    }
}

fn redis_options(redis: &RedisConfig, quota: &QuotaConfig) -> RedisOptions {
    let topology = match redis.mode {
        RedisMode::Standalone => Topology::Standalone,
        RedisMode::Sentinel => Topology::Sentinel,
        RedisMode::Cluster => Topology::Cluster,
    };
    let alone = redis.on_unavailable == OnUnavailable::Allow;
    RedisOptions {
        link: LinkOptions {
            topology,
            urls: redis
                .urls
                .iter()
                .map(|url| url.reveal().to_owned())
                .collect(),
            primary: redis.primary.clone(),
            pool_size: redis.pool_size,
            timeout: redis.timeout,
        },
        lost_reservation: quota.lost_reservation,
        journal: alone.then(|| redis.journal.clone()),
        slices: quota.local_slices.map(|slices| SliceOptions {
            size_percent: slices.size_percent,
            max: slices.max,
        }),
        clock: None,
    }
}
