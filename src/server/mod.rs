//! The composition root: builds every part, in order, and takes them down in order.
//!
//! Sockets are bound first, so that a taken port is an ordinary error; then the store opens, which is
//! where a dead process's unsettled reservations are resolved; then Pingora runs. At the end the
//! settlements of cut exchanges are booked before the store closes. A process that takes over from a
//! running one has sockets and store from there: see `upgrade`.

pub mod bind;
mod books;
mod checks;
mod descriptors;
mod edge;
mod engine;
mod notify;
#[cfg(test)]
mod panics;
mod reload;
mod shutdown;
mod signals;
pub mod upgrade;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};

use arc_swap::ArcSwap;
use pingora::server::configuration::{Opt, ServerConf};
use pingora::server::{RunArgs, Server};

use crate::admin::{self, AdminState, EdgePort};
use crate::config::{Config, Loaded};
use crate::exchange::{Desk, Live, Settler};
use crate::proxy::Edge;
use crate::store::{Store, StoreError};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::log as logging;
use crate::telemetry::metrics::Metrics;
use crate::time::UnixMs;

use tokio::sync::watch;

use bind::{Bound, Sockets, Term, WithSockets};
use books::Books;
use checks::Checks;
pub use engine::Engine;
use notify::ServiceManager;
use reload::Reload;
use shutdown::Closing;
use signals::Signals;
use upgrade::{Giver, Succession, Taker};

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
    #[error(
        "cannot take over from the process at {path}: {cause}; where none runs, start without --upgrade"
    )]
    TakeOver { path: PathBuf, cause: io::Error },
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A server that is built and bound, but does not run yet.
pub struct Prepared {
    server: Server,
    closing: Arc<Closing>,
    signals: Signals,
    sockets: Sockets,
    parts: Parts,
    giver: Arc<Giver>,
    taker: Option<Taker>,
    serving: Option<Box<dyn FnOnce() + Send>>,
}

/// Where a process has its sockets and its books from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    Fresh,
    /// From the process that runs and listens there; `None`: at `server.upgrade_sock`.
    TakeOver(Option<PathBuf>),
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

/// Binds, opens the store and builds every part. Signals and commands read the file again that `loaded` is
/// from.
///
/// # Errors
/// An address is taken, the store belongs to another process or cannot be read, a file cannot be
/// written, there is nobody to take over from. Nothing runs then, and a process that runs goes on.
pub fn prepare(loaded: Loaded, start: Start) -> Result<Prepared, StartError> {
    let mut taker = match start {
        Start::Fresh => None,
        Start::TakeOver(socket) => {
            let path = socket.unwrap_or_else(|| loaded.config.server.upgrade_sock.clone());
            let asked = Taker::ask(&path);
            Some(asked.map_err(|cause| StartError::TakeOver { path, cause })?)
        }
    };
    match build(loaded, taker.as_mut()) {
        Ok(prepared) => Ok(Prepared { taker, ..prepared }),
        Err(fault) => {
            if let Some(taker) = taker {
                taker.give_up(&fault.to_string());
            }
            Err(fault)
        }
    }
}

fn build(loaded: Loaded, mut taker: Option<&mut Taker>) -> Result<Prepared, StartError> {
    let (source, files) = (loaded.source, loaded.files);
    let config = Arc::new(loaded.config);
    let sockets = Sockets::bind(&config, taker.as_deref_mut())?;
    let metrics = Arc::new(Metrics::new().map_err(|fault| StartError::Metrics(fault.to_string()))?);
    metrics.certificates(&config.certificate_expiries());
    let access_log = open_access_log(&config, &metrics)?;
    let engine = open_books(&config, taker)?;
    let store = engine.store();
    let (settler, queue) = Settler::new(config.quota.reservation_ttl);
    let queue = Arc::new(tokio::sync::Mutex::new(queue));
    let desk = desk(&config, &store, &settler);
    let closing = Arc::new(Closing::new(
        store,
        Arc::clone(&queue),
        access_log.clone(),
        settler,
    ));
    let manager = Arc::new(ServiceManager::of_this_process());
    let reload = Arc::new(Reload::new(
        Arc::clone(&desk),
        source.clone(),
        files,
        Arc::clone(&manager),
        Arc::clone(&metrics),
    ));
    let giver = Arc::new(Giver::new(
        config.server.upgrade_sock.clone(),
        sockets.duplicates()?,
        engine,
        source,
        Arc::clone(&reload),
        closing.draining(),
    ));
    let signals = Signals::new(
        Arc::clone(&desk),
        access_log.clone(),
        reload,
        Arc::clone(&closing),
        Arc::clone(&giver),
        manager,
    );
    let parts = Parts {
        admin: admin_state(&desk, &metrics, closing.draining()),
        books: Books::new(Arc::clone(&desk), queue, Arc::clone(&metrics)),
        checks: Checks::new(Arc::clone(&desk), Arc::clone(&metrics)),
        desk,
        metrics,
        access_log,
    };
    Ok(Prepared {
        server: pingora_server(&config),
        closing,
        signals,
        sockets,
        parts,
        giver,
        taker: None,
        serving: None,
    })
}

fn desk(config: &Arc<Config>, store: &Arc<dyn Store>, settler: &Arc<Settler>) -> Arc<Desk> {
    Arc::new(Desk {
        store: Arc::clone(store),
        settler: Arc::clone(settler),
        live: ArcSwap::from_pointee(Live::new(Arc::clone(config))),
    })
}

fn admin_state(desk: &Arc<Desk>, metrics: &Arc<Metrics>, draining: Arc<AtomicBool>) -> AdminState {
    AdminState {
        desk: Arc::clone(desk),
        metrics: Arc::clone(metrics),
        draining,
        clock: Arc::new(UnixMs::now),
    }
}

/// The last thing that can fail: until a new process has the books the old one waits for it.
fn open_books(config: &Config, taker: Option<&mut Taker>) -> Result<Engine, StartError> {
    let adopt = taker.is_some();
    if let Some(taker) = taker {
        let path = taker.path().to_owned();
        let refused = |cause| StartError::TakeOver { path, cause };
        taker
            .take_books(&engine::books_of(config))
            .map_err(refused)?;
    }
    Engine::open(config, adopt)
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

fn pingora_server(config: &Config) -> Server {
    let conf = ServerConf {
        threads: config.server.threads,
        upstream_keepalive_pool_size: 1024,
        // Attempts are counted by the exchange; this only ends a loop that should never be one.
        max_retries: MAX_RETRIES,
        ..ServerConf::default()
    };
    Server::new_with_opt_and_conf(None::<Opt>, conf)
}

impl Prepared {
    /// Where the edge listens, in the order of the configuration.
    pub fn edge_addresses(&self) -> Vec<SocketAddr> {
        self.sockets.edge.iter().map(Bound::addr).collect()
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.sockets.admin.addr()
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

    /// What is done when it serves, which may be long after it says where it listens: one that takes over
    /// takes its time.
    pub fn when_serving(&mut self, act: impl FnOnce() + Send + 'static) {
        self.serving = Some(Box::new(act));
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
            sockets,
            parts,
            giver,
            taker,
            serving,
        } = self;
        signals.listen()?;
        sockets.announce(out);
        let (ready, are_ready) = mpsc::channel();
        let (begin, begins) = watch::channel(taker.is_none());
        let term = Term {
            ready,
            begin: begins,
            taken: giver.taken(),
        };
        let succession = Succession {
            giver,
            taker,
            are_ready,
            begin,
            store: Arc::clone(&parts.desk.store),
            active: closing.active(),
            access_log: parts.access_log.clone(),
            reload: signals.reload(),
            manager: signals.manager(),
            serving,
        };
        succession.begin()?;
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
        let Sockets { edge, tls, admin } = sockets;
        let service = edge::service(&server.configuration, proxy, &desk, (&edge, &tls))?;
        let sockets = edge.into_iter().chain(tls).collect();
        let service = WithSockets::new(service, sockets).within(term.clone());
        server.add_service(service.until(closing.edge_end()));
        let service = admin::listen::service(router, &admin.endpoint());
        let service = WithSockets::new(service, vec![admin]).within(term);
        server.add_service(service.until(closing.admin_end()));
        server.add_service(parts.books.service());
        server.add_service(parts.checks.service());
        server.run(RunArgs {
            shutdown_signal: Box::new(signals),
        });
        closing.close();
        match closing.code() {
            0 => Ok(()),
            code => std::process::exit(code),
        }
    }
}

/// Installs the process's logger; a second call changes only the level.
pub fn install_logger(level: log::LevelFilter) {
    if logging::install(level).is_err() {
        logging::set_level(level);
    }
}
