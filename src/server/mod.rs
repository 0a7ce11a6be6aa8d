//! The composition root: builds every part, in order, and takes them down in order.
//!
//! Sockets are bound first, so that a taken port is an ordinary error; then the store opens, which is
//! where a previous process's unsettled reservations are resolved; then Pingora runs. At the end the
//! settlements of cut exchanges are booked before the store closes.

pub mod bind;
mod books;
mod checks;
mod notify;
#[cfg(test)]
mod panics;
mod shutdown;
mod signals;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use pingora::apps::HttpServerOptions;
use pingora::proxy::ProxyServiceBuilder;
use pingora::server::configuration::{Opt, ServerConf};
use pingora::server::{RunArgs, Server};

use crate::admin::{self, AdminState, EdgePort};
use crate::config::{Config, OnUnavailable, QuotaConfig, RedisConfig, RedisMode, StoreConfig};
use crate::exchange::{Desk, Live, Settler};
use crate::proxy::{self, Edge};
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::store::redis::{LinkOptions, RedisOptions, RedisStore, SliceOptions, Topology};
use crate::store::{Store, StoreError};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::log as logging;
use crate::telemetry::metrics::Metrics;
use crate::time::UnixMs;

use bind::{Bound, WithSockets, bind};
use books::Books;
use checks::Checks;
use shutdown::Closing;
use signals::Signals;

/// Above any sum of `retry.attempts` that makes sense: ten pools of ten, and stale connections.
const MAX_RETRIES: usize = 128;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{what} {address}: {cause}")]
    Bind {
        what: &'static str,
        address: String,
        cause: io::Error,
    },
    #[error("{0}")]
    Store(StoreError),
    #[error("log.access {path}: {cause}")]
    AccessLog { path: PathBuf, cause: io::Error },
    #[error("edge.tls {address}: {cause}")]
    Tls { address: String, cause: String },
    #[error("metrics: {0}")]
    Metrics(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A server that is built and bound, but does not run yet.
pub struct Prepared {
    server: Server,
    closing: Arc<Closing>,
    signals: Signals,
    edge: Vec<Bound>,
    tls: Vec<Bound>,
    admin: Bound,
    parts: Parts,
}

/// What the services share.
struct Parts {
    desk: Arc<Desk>,
    metrics: Arc<Metrics>,
    access_log: Option<Arc<AccessLog>>,
    admin: AdminState,
    books: Books,
    checks: Checks,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").finish_non_exhaustive()
    }
}

/// Binds, opens the store and builds every part. `source` is the file that `SIGHUP` reads again.
///
/// # Errors
/// An address is taken, the store belongs to another process or cannot be read, a file cannot be
/// written. Nothing runs then.
pub fn prepare(config: Config, source: Option<PathBuf>) -> Result<Prepared, StartError> {
    let config = Arc::new(config);
    let bind_all = |what, addresses: &[std::net::SocketAddr]| -> Result<Vec<Bound>, StartError> {
        let bound = addresses.iter().map(|address| {
            let named = |cause| StartError::Bind {
                what,
                address: address.to_string(),
                cause,
            };
            bind(*address).map_err(named)
        });
        bound.collect()
    };
    let edge = bind_all("edge.listen", &config.edge.listen)?;
    let tls_addresses: Vec<_> = config.edge.tls.iter().map(|tls| tls.listen).collect();
    let tls = bind_all("edge.tls", &tls_addresses)?;
    let admin = bind(config.admin.listen).map_err(|cause| StartError::Bind {
        what: "admin.listen",
        address: config.admin.listen.to_string(),
        cause,
    })?;
    let metrics = Arc::new(Metrics::new().map_err(|fault| StartError::Metrics(fault.to_string()))?);
    let access_log = open_access_log(&config, &metrics)?;
    let store = open_store(&config)?;
    let draining = Arc::new(AtomicBool::new(false));
    let (settler, queue) = Settler::new(config.quota.reservation_ttl);
    let queue = Arc::new(tokio::sync::Mutex::new(queue));
    let desk = Arc::new(Desk {
        store: Arc::clone(&store),
        settler: Arc::clone(&settler),
        live: ArcSwap::from_pointee(Live::new(Arc::clone(&config))),
    });
    let closing = Arc::new(Closing::new(
        Arc::clone(&store),
        Arc::clone(&queue),
        access_log.clone(),
        settler,
    ));
    let admin_state = AdminState {
        desk: Arc::clone(&desk),
        metrics: Arc::clone(&metrics),
        draining: Arc::clone(&draining),
        clock: Arc::new(UnixMs::now),
    };
    let signals = Signals::new(
        Arc::clone(&draining),
        Arc::clone(&desk),
        access_log.clone(),
        source,
    );
    let books = Books::new(Arc::clone(&desk), queue, Arc::clone(&metrics));
    let checks = Checks::new(Arc::clone(&desk), Arc::clone(&metrics));
    let parts = Parts {
        desk,
        metrics,
        access_log,
        admin: admin_state,
        books,
        checks,
    };
    Ok(Prepared {
        server: pingora_server(&config),
        closing,
        signals,
        edge,
        tls,
        admin,
        parts,
    })
}

fn open_access_log(
    config: &Config,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<AccessLog>>, StartError> {
    let Some(path) = &config.log.access else {
        return Ok(None);
    };
    let opened = AccessLog::open(path, Arc::clone(metrics));
    opened
        .map(|log| Some(Arc::new(log)))
        .map_err(|cause| StartError::AccessLog {
            path: path.clone(),
            cause,
        })
}

/// Opens the configured store. The embedded one belongs to one process at a time.
///
/// # Errors
/// It belongs to another process, or cannot be read. A Redis that is away is none: it may come.
pub fn open_store(config: &Config) -> Result<Arc<dyn Store>, StartError> {
    match &config.store {
        StoreConfig::Embedded {
            path, sync_full, ..
        } => {
            let options = EmbeddedOptions {
                sync_full: *sync_full,
                lost_reservation: config.quota.lost_reservation,
                ..EmbeddedOptions::default()
            };
            let store = EmbeddedStore::open(path, options).map_err(StartError::Store)?;
            Ok(store)
        }
        StoreConfig::Redis(redis) => {
            let store = RedisStore::start(redis_options(redis, &config.quota));
            Ok(store.map_err(StartError::Store)?)
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

fn pingora_server(config: &Config) -> Server {
    let conf = ServerConf {
        threads: config.server.threads,
        grace_period_seconds: Some(config.server.grace_period.as_secs()),
        graceful_shutdown_timeout_seconds: Some(1),
        upgrade_sock: config.server.upgrade_sock.display().to_string(),
        upstream_keepalive_pool_size: 1024,
        // Attempts are counted by the exchange; this only ends a loop that should never be one.
        max_retries: MAX_RETRIES,
        ..ServerConf::default()
    };
    Server::new_with_opt_and_conf(None::<Opt>, conf)
}

impl Prepared {
    /// Where the edge listens, in the order of the configuration.
    pub fn edge_addresses(&self) -> Vec<std::net::SocketAddr> {
        self.edge.iter().map(Bound::addr).collect()
    }

    pub fn admin_address(&self) -> std::net::SocketAddr {
        self.admin.addr()
    }

    /// The store, for a caller that makes keys before anything runs.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.parts.desk.store)
    }

    /// What is done when the books are closed, also where a signal ends the process. Dropped undone
    /// where the server does not come to run.
    pub fn at_end(&self, act: impl FnOnce() + Send + 'static) {
        self.closing.after(act);
    }

    /// Says where it listens, serves until a signal ends it, then closes the books.
    ///
    /// # Errors
    /// A certificate that cannot be used. After that, none: faults are answered and logged.
    pub fn run(self, out: &mut dyn Write) -> Result<(), StartError> {
        let Prepared {
            mut server,
            closing,
            signals,
            edge,
            tls,
            admin,
            parts,
        } = self;
        signals.listen()?;
        announce(&edge, &tls, &admin, out)?;
        server.bootstrap();
        let desk = parts.desk;
        let router = admin::router(parts.admin);
        let proxy = Edge::new(
            Arc::clone(&desk),
            parts.metrics,
            parts.access_log,
            EdgePort::new(router.clone(), Arc::clone(&desk)),
            closing.active(),
        );
        let mut service = ProxyServiceBuilder::new(&server.configuration, proxy)
            .name("edge")
            .server_options(edge_options())
            .build();
        for bound in &edge {
            service.add_tcp(&bound.endpoint());
        }
        for (place, bound) in tls.iter().enumerate() {
            let named = |cause: Box<pingora::Error>| StartError::Tls {
                address: bound.endpoint(),
                cause: cause.to_string(),
            };
            let settings = proxy::tls::settings(&desk, place).map_err(named)?;
            service.add_tls_with_settings(&bound.endpoint(), None, settings);
        }
        server.add_service(WithSockets::new(
            service,
            edge.into_iter().chain(tls).collect(),
        ));
        let service = admin::listen::service(router, &admin.endpoint());
        let service = WithSockets::new(service, vec![admin]);
        server.add_service(service.until(closing.admin_end()));
        server.add_service(parts.books.service());
        server.add_service(parts.checks.service());
        closing.watch(server.watch_execution_phase());
        signals.tell_ready();
        server.run(RunArgs {
            shutdown_signal: Box::new(signals),
        });
        closing.close();
        Ok(())
    }
}

/// Says where it listens.
fn announce(edge: &[Bound], tls: &[Bound], admin: &Bound, out: &mut dyn Write) -> io::Result<()> {
    for bound in edge {
        writeln!(out, "listening on http://{} (edge)", bound.addr())?;
    }
    for bound in tls {
        writeln!(out, "listening on https://{} (edge)", bound.addr())?;
    }
    writeln!(out, "listening on http://{} (admin)", admin.addr())?;
    out.flush()
}

fn edge_options() -> HttpServerOptions {
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    options.h2_idle_timeout = Some(std::time::Duration::from_secs(120));
    options
}

/// Installs the process's logger; a second call changes only the level.
pub fn install_logger(level: log::LevelFilter) {
    if logging::install(level).is_err() {
        logging::set_level(level);
    }
}
