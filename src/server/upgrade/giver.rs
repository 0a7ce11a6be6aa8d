//! The running process: listens for whoever wants to take over, or wants something else of it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, watch};

use super::giving::Failure;
use super::other::{Before, Other};
use super::socket::{self, own_user};
use super::{Asked, MOST_PATIENCE_S, PATIENCE, Said, Slot};
use crate::server::engine::Engine;
use crate::server::reload::Reload;
use crate::store::movable::frame;

/// How long one that connects may take to say what it wants.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// The process that took over.
#[derive(Clone, Debug)]
pub struct Successor {
    pub pid: i32,
    pub release: String,
}

/// What a process has to give.
#[derive(Debug)]
pub struct Giver {
    path: PathBuf,
    /// Closed when another process accepts: a queue that nobody serves would swallow clients.
    pub(super) sockets: parking_lot::Mutex<Vec<(Slot, OwnedFd)>>,
    pub(super) engine: Engine,
    /// The configuration that a new process is to load.
    pub(super) source: Option<PathBuf>,
    reload: Arc<Reload>,
    /// It has been told to end: its place is not given any more.
    draining: Arc<AtomicBool>,
    pub(super) taken: watch::Sender<Option<Successor>>,
    /// The process that took over has ended before this one, which settles by itself what it cuts.
    pub(super) alone: watch::Sender<bool>,
    /// The one that this process has taken over from.
    pub before: Before,
    /// Longest wait for the next message of one that takes over.
    pub(super) patience: parking_lot::Mutex<Duration>,
    /// Why the last one that came did not take over.
    pub(super) failure: parking_lot::Mutex<Option<String>>,
    pub(super) taking: Mutex<()>,
    pub(super) starting: Mutex<()>,
}

impl Giver {
    /// `sockets` are duplicates of those that listen.
    pub fn new(
        path: PathBuf,
        sockets: Vec<(Slot, OwnedFd)>,
        engine: Engine,
        source: Option<PathBuf>,
        reload: Arc<Reload>,
        draining: Arc<AtomicBool>,
    ) -> Self {
        Giver {
            path,
            sockets: parking_lot::Mutex::new(sockets),
            engine,
            source,
            reload,
            draining,
            taken: watch::Sender::new(None),
            alone: watch::Sender::new(false),
            before: Before::default(),
            patience: parking_lot::Mutex::new(PATIENCE),
            failure: parking_lot::Mutex::default(),
            taking: Mutex::default(),
            starting: Mutex::default(),
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says when, and by whom, all was taken.
    pub fn taken(&self) -> watch::Receiver<Option<Successor>> {
        self.taken.subscribe()
    }

    /// Becomes true where this process is left alone by the one that took over: it ends at once.
    pub fn alone(&self) -> watch::Receiver<bool> {
        self.alone.subscribe()
    }

    /// Gives nothing any more: duplicates would keep queues open that nobody serves.
    pub fn close(&self) {
        self.sockets.lock().clear();
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Listens at the path. `replace`: in place of the process that this one has taken over from.
    ///
    /// # Errors
    /// The socket cannot be there. The process can serve without it, but not be upgraded.
    pub async fn listen(self: Arc<Self>, replace: bool) -> io::Result<()> {
        let listener = UnixListener::from_std(socket::listen(&self.path, replace)?)?;
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((connection, _)) => {
                        let giver = Arc::clone(&self);
                        tokio::spawn(async move { giver.answer(connection).await });
                    }
                    Err(fault) => {
                        log::warn!("{}: {fault}", self.path.display());
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        });
        Ok(())
    }

    async fn answer(&self, mut connection: UnixStream) {
        let Ok(who) = connection.peer_cred() else {
            return;
        };
        // The folder keeps strangers out; should it not, this does.
        if who.uid() != own_user() && who.uid() != 0 {
            log::warn!("user {} was refused at the upgrade socket", who.uid());
            return;
        }
        let asked = tokio::time::timeout(FIRST_WORD, frame::receive(&mut connection)).await;
        match asked {
            Ok(Ok(Asked::Start { binary, patience_s })) => {
                let patience = Duration::from_secs(patience_s.clamp(1, MOST_PATIENCE_S));
                self.start(binary, patience, connection).await;
            }
            Ok(Ok(Asked::Reload)) => self.reload(connection).await,
            Ok(Ok(Asked::Take { protocol, release })) => {
                let Ok(other) = Other::of(&connection) else {
                    return;
                };
                if who.uid() != own_user() {
                    let why = format!("only user {} may take over", own_user());
                    let failure = Failure::Refused(why);
                    return self.failed(&other, failure, connection).await;
                }
                self.give(other, release, protocol, connection).await;
            }
            // Somebody who only looked, or does not know what to say.
            _ => {}
        }
    }

    /// Answers one `quota-proxy reload`.
    async fn reload(&self, mut connection: UnixStream) {
        let reload = Arc::clone(&self.reload);
        let done = tokio::task::spawn_blocking(move || reload.run()).await;
        let said = match done {
            Ok(Ok(waiting)) => Said::Reloaded {
                waiting: waiting.into_iter().map(String::from).collect(),
            },
            Ok(Err(why)) => Said::Refused(why),
            Err(fault) => Said::Refused(fault.to_string()),
        };
        // Where nobody waits for it the log has it.
        drop(frame::send(&mut connection, &said).await);
    }
}
