//! The running process: listens for whoever wants to take over, and gives.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, watch};

use super::socket::{self, own_user};
use super::{Asked, PATIENCE, PROTOCOL, Said, Slot};
use crate::server::engine::{Engine, Lent};
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
    sockets: parking_lot::Mutex<Vec<(Slot, OwnedFd)>>,
    engine: Engine,
    /// The configuration that a new process is to load.
    pub(super) source: Option<PathBuf>,
    reload: Arc<Reload>,
    /// It has been told to end: its place is not given any more.
    draining: Arc<AtomicBool>,
    pub(super) taken: watch::Sender<Option<Successor>>,
    /// Why the last one that came did not take over.
    pub(super) failure: parking_lot::Mutex<Option<String>>,
    taking: Mutex<()>,
    pub(super) starting: Mutex<()>,
}

/// Why nothing was given.
enum Failure {
    /// The other end was told.
    Refused(String),
    /// The other end has gone, or is about to.
    Gone(String),
    /// It lives, and does nothing or what nobody expects.
    Stuck(String),
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
            Ok(Ok(Asked::Start { binary })) => self.start(binary, connection).await,
            Ok(Ok(Asked::Reload)) => self.reload(connection).await,
            Ok(Ok(Asked::Take { protocol, release })) => {
                let pid = who.pid().unwrap_or_default();
                let successor = Successor { pid, release };
                if who.uid() != own_user() {
                    let why = format!("only user {} may take over", own_user());
                    return self
                        .failed(&successor, Failure::Refused(why), connection)
                        .await;
                }
                self.give(successor, protocol, connection).await;
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

    async fn give(&self, successor: Successor, protocol: u32, mut connection: UnixStream) {
        let Ok(_turn) = self.taking.try_lock() else {
            let why = String::from("another process is taking over just now");
            return self
                .failed(&successor, Failure::Refused(why), connection)
                .await;
        };
        let lent = match self.lend(&successor, protocol, &mut connection).await {
            Ok(lent) => lent,
            Err(failure) => return self.failed(&successor, failure, connection).await,
        };
        let Err(failure) = self.hand_over(&mut connection).await else {
            return self.given(lent, successor, connection);
        };
        // First of all the other end: it must not go on with what is taken back.
        self.failed(&successor, failure, connection).await;
        if let Err(fault) = lent.take_back() {
            log::error!("the books cannot be opened again, this process ends: {fault}");
            std::process::exit(1);
        }
    }

    fn given(&self, lent: Lent, successor: Successor, connection: UnixStream) {
        log::info!(
            "process {} (release {}) has taken over; what runs here ends here",
            successor.pid,
            successor.release
        );
        let ends = lent.follow(connection);
        self.sockets.lock().clear();
        self.taken.send_replace(Some(successor));
        tokio::spawn(async move {
            drop(ends.await);
            // Nothing can be settled any more, and nobody listens. A service manager that watches that
            // process learns of its end with ours.
            log::error!("the process that took over has ended before this one, which ends now");
            std::process::exit(1);
        });
    }

    async fn failed(&self, successor: &Successor, failure: Failure, mut connection: UnixStream) {
        let why = match failure {
            Failure::Refused(why) => {
                // It may have gone.
                drop(frame::send(&mut connection, &Said::Refused(why.clone())).await);
                why
            }
            Failure::Gone(why) => why,
            Failure::Stuck(why) => {
                // Whatever it waits for, it must not go on with our books.
                let pid = Pid::from_raw(successor.pid);
                let killed = pid.map(|pid| kill_process(pid, Signal::KILL));
                log::warn!("process {} was killed: {killed:?}", successor.pid);
                why
            }
        };
        log::warn!(
            "process {} did not take over, this one serves on: {why}",
            successor.pid
        );
        *self.failure.lock() = Some(why);
    }

    /// Gives the sockets, closes the books.
    async fn lend(
        &self,
        successor: &Successor,
        protocol: u32,
        connection: &mut UnixStream,
    ) -> Result<Lent, Failure> {
        if let Some(why) = self.refusal(protocol) {
            return Err(Failure::Refused(why));
        }
        log::info!("process {} wants to take over", successor.pid);
        self.give_sockets(connection).await?;
        match self.engine.lend().await {
            Ok(Some(lent)) => Ok(lent),
            Ok(None) => Err(Failure::Refused(String::from(
                "the books are with another process",
            ))),
            Err(fault) => Err(Failure::Refused(fault.to_string())),
        }
    }

    /// Why nobody may take over now.
    fn refusal(&self, protocol: u32) -> Option<String> {
        if let Some(other) = &*self.taken.borrow() {
            return Some(format!("process {} has taken over already", other.pid));
        }
        if self.draining.load(Ordering::Relaxed) {
            return Some(String::from("this process was told to end"));
        }
        (protocol != PROTOCOL).then(|| {
            format!(
                "it speaks version {protocol} of the take-over, this process {PROTOCOL}: restart instead"
            )
        })
    }

    async fn give_sockets(&self, connection: &mut UnixStream) -> Result<(), Failure> {
        let duplicates: io::Result<Vec<(Slot, OwnedFd)>> = {
            let sockets = self.sockets.lock();
            let duplicate = |(slot, fd): &(Slot, OwnedFd)| Ok((slot.clone(), fd.try_clone()?));
            sockets.iter().map(duplicate).collect()
        };
        let (slots, sockets): (Vec<_>, Vec<_>) = duplicates.map_err(gone)?.into_iter().unzip();
        let books = self.engine.books();
        say(connection, &Said::Sockets { slots, books }).await?;
        let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(|fd| fd.as_fd()).collect();
        socket::send(connection, &sockets).await.map_err(gone)?;
        hear(connection, "asked for the books", |asked| {
            matches!(asked, Asked::Books)
        })
        .await
    }

    /// From here on steps wait until this ends.
    async fn hand_over(&self, connection: &mut UnixStream) -> Result<(), Failure> {
        say(connection, &Said::Yours).await?;
        hear(connection, "was ready", |asked| {
            matches!(asked, Asked::Ready)
        })
        .await?;
        say(connection, &Said::Go).await?;
        hear(connection, "took the word", |asked| {
            matches!(asked, Asked::Thanks)
        })
        .await
    }
}

async fn say(connection: &mut UnixStream, said: &Said) -> Result<(), Failure> {
    frame::send(connection, said).await.map_err(gone)
}

/// Waits for the one message that may come now.
async fn hear(
    connection: &mut UnixStream,
    done: &str,
    expected: impl Fn(&Asked) -> bool,
) -> Result<(), Failure> {
    let heard = tokio::time::timeout(PATIENCE, frame::receive(connection)).await;
    match heard {
        Ok(Ok(asked)) if expected(&asked) => Ok(()),
        Ok(Ok(Asked::Failed(why))) => Err(Failure::Gone(why)),
        Ok(Ok(_)) => Err(Failure::Stuck(format!(
            "it spoke out of turn before it {done}"
        ))),
        Ok(Err(fault)) if fault.kind() == io::ErrorKind::InvalidData => Err(Failure::Stuck(
            format!("it spoke no sense before it {done}"),
        )),
        Ok(Err(_)) => Err(Failure::Gone(format!("it ended before it {done}"))),
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            Err(Failure::Stuck(format!("for {seconds} s it has not {done}")))
        }
    }
}

fn gone(fault: io::Error) -> Failure {
    Failure::Gone(fault.to_string())
}
