//! The running process: listens for whoever wants to take over, and gives.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, watch};

use super::socket::{self, own_user};
use super::{Asked, PATIENCE, PROTOCOL, Said, Slot};
use crate::server::engine::{Engine, Lent};
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
    sockets: Vec<(Slot, OwnedFd)>,
    engine: Engine,
    /// The configuration that a new process is to load.
    pub(super) source: Option<PathBuf>,
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
    /// It lives and does nothing.
    Stuck(String),
}

impl Giver {
    /// `sockets` are duplicates of those that listen.
    pub fn new(
        path: PathBuf,
        sockets: Vec<(Slot, OwnedFd)>,
        engine: Engine,
        source: Option<PathBuf>,
    ) -> Self {
        Giver {
            path,
            sockets,
            engine,
            source,
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

    async fn give(&self, successor: Successor, protocol: u32, mut connection: UnixStream) {
        let given = self.give_all(&successor, protocol, &mut connection).await;
        match given {
            Ok(lent) => {
                log::info!(
                    "process {} (release {}) has taken over; what runs here ends here",
                    successor.pid,
                    successor.release
                );
                lent.follow(connection);
                self.taken.send_replace(Some(successor));
            }
            Err(failure) => self.failed(&successor, failure, connection).await,
        }
    }

    async fn failed(&self, successor: &Successor, failure: Failure, mut connection: UnixStream) {
        let why = match failure {
            Failure::Refused(why) => {
                // It may have gone.
                drop(frame::send(&mut connection, &Said::Refused(why.clone())).await);
                why
            }
            Failure::Gone(why) | Failure::Stuck(why) => why,
        };
        log::warn!(
            "process {} did not take over, this one serves on: {why}",
            successor.pid
        );
        *self.failure.lock() = Some(why);
    }

    async fn give_all(
        &self,
        successor: &Successor,
        protocol: u32,
        connection: &mut UnixStream,
    ) -> Result<Lent, Failure> {
        let refused = |why: String| Err(Failure::Refused(why));
        let Ok(_turn) = self.taking.try_lock() else {
            return refused(String::from("another process is taking over just now"));
        };
        if let Some(other) = &*self.taken.borrow() {
            return refused(format!("process {} has taken over already", other.pid));
        }
        if protocol != PROTOCOL {
            return refused(format!(
                "it speaks version {protocol} of the take-over, this process {PROTOCOL}: restart instead"
            ));
        }
        let slots = self.sockets.iter().map(|(slot, _)| slot.clone()).collect();
        let sockets: Vec<BorrowedFd<'_>> = self.sockets.iter().map(|(_, fd)| fd.as_fd()).collect();
        let books = self.engine.file();
        say(connection, &Said::Sockets { slots, books }).await?;
        socket::send(connection, &sockets).await.map_err(gone)?;
        hear(connection, "asked for the books", |asked| {
            matches!(asked, Asked::Books)
        })
        .await?;
        let lent = match self.engine.lend().await {
            Ok(Some(lent)) => lent,
            Ok(None) => return refused(String::from("the books are with another process")),
            Err(fault) => return refused(fault.to_string()),
        };
        match self.hand_over(connection).await {
            Ok(()) => Ok(lent),
            Err(failure) => Err(Self::take_back(lent, successor, failure)),
        }
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

    /// Answers why nothing was given, to be told.
    fn take_back(lent: Lent, successor: &Successor, failure: Failure) -> Failure {
        if let Failure::Stuck(_) = failure
            && let Some(pid) = Pid::from_raw(successor.pid)
        {
            // Whatever it waits for, it must not go on with our books.
            let killed = kill_process(pid, Signal::KILL);
            log::warn!("process {} was killed: {killed:?}", successor.pid);
        }
        if let Err(fault) = lent.take_back() {
            log::error!("the books cannot be opened again, nothing is admitted any more: {fault}");
        }
        failure
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
        Ok(Ok(_)) => Err(Failure::Refused(format!(
            "it spoke out of turn before it {done}"
        ))),
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
