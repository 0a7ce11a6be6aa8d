//! The running process gives, and takes back where the other does not come to use it.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::net::UnixStream;

use super::giver::{Giver, Successor};
use super::other::Other;
use super::{Asked, PROTOCOL, Said, Slot, socket};
use crate::server::engine::Lent;
use crate::store::StoreResult;
use crate::store::movable::frame;

/// How long a process that has said that it ends may take to.
const ENDING: Duration = Duration::from_secs(2);
/// Longest wait for the end of one that was killed.
const KILLED: Duration = Duration::from_secs(5);
/// For how long books that cannot be opened again are tried; steps wait.
const TAKE_BACK: Duration = Duration::from_secs(60);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Why nothing was given.
pub(super) enum Failure {
    /// The other end was told.
    Refused(String),
    /// The other end has gone, or is about to.
    Gone(String),
    /// It lives, and does nothing or what nobody expects.
    Stuck(String),
}

impl Giver {
    /// All or nothing: afterwards the other process serves, or this one as before.
    pub(super) async fn give(
        &self,
        other: Other,
        release: String,
        protocol: u32,
        mut connection: UnixStream,
    ) {
        let Ok(_turn) = self.taking.try_lock() else {
            let why = String::from("another process is taking over just now");
            return self.failed(&other, Failure::Refused(why), connection).await;
        };
        let lent = match self.lend(&other, protocol, &mut connection).await {
            Ok(lent) => lent,
            Err(failure) => return self.failed(&other, failure, connection).await,
        };
        let Err(failure) = self.hand_over(&mut connection).await else {
            let pid = other.pid();
            return self.given(lent, Successor { pid, release }, connection);
        };
        // First of all the other end: it must not go on with what is taken back.
        let end_by = match failure {
            Failure::Stuck(_) => Duration::ZERO,
            Failure::Refused(_) | Failure::Gone(_) => ENDING,
        };
        self.failed(&other, failure, connection).await;
        if !other.ends_within(end_by).await && other.is_held() {
            kill(&other);
            other.ends_within(KILLED).await;
        }
        take_back(lent).await;
    }

    fn given(&self, lent: Lent, successor: Successor, connection: UnixStream) {
        log::info!(
            "process {} (release {}) has taken over; what runs here ends here",
            successor.pid,
            successor.release
        );
        let settles_alone = lent.settles_alone();
        let ends = lent.follow(connection);
        self.close();
        self.taken.send_replace(Some(successor));
        let alone = self.alone.clone();
        tokio::spawn(async move {
            drop(ends.await);
            // Nobody listens. A service manager that watches that process learns of its end with ours.
            log::error!("the process that took over has ended before this one, which ends now");
            if settles_alone {
                alone.send_replace(true);
            } else {
                std::process::exit(1);
            }
        });
    }

    pub(super) async fn failed(&self, other: &Other, failure: Failure, mut connection: UnixStream) {
        let why = match failure {
            Failure::Refused(why) => {
                // It may have gone.
                drop(frame::send(&mut connection, &Said::Refused(why.clone())).await);
                why
            }
            Failure::Gone(why) => why,
            Failure::Stuck(why) => {
                // Whatever it waits for, it must not go on. Its connection is open: it lives.
                kill(other);
                why
            }
        };
        log::warn!(
            "process {} did not take over, this one serves on: {why}",
            other.pid()
        );
        *self.failure.lock() = Some(why);
    }

    /// Gives the sockets, closes the books.
    async fn lend(
        &self,
        other: &Other,
        protocol: u32,
        connection: &mut UnixStream,
    ) -> Result<Lent, Failure> {
        if let Some(why) = self.refusal(protocol) {
            return Err(Failure::Refused(why));
        }
        log::info!("process {} wants to take over", other.pid());
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
        if self.is_draining() {
            return Some(told_to_end());
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
        self.hear(connection, "asked for the books", |asked| {
            matches!(asked, Asked::Books)
        })
        .await
    }

    /// From here on steps wait until this ends.
    async fn hand_over(&self, connection: &mut UnixStream) -> Result<(), Failure> {
        say(connection, &Said::Yours).await?;
        self.hear(connection, "was ready", |asked| {
            matches!(asked, Asked::Ready)
        })
        .await?;
        if self.is_draining() {
            return Err(Failure::Refused(told_to_end()));
        }
        say(connection, &Said::Go).await?;
        self.hear(connection, "took the word", |asked| {
            matches!(asked, Asked::Thanks)
        })
        .await
    }

    /// Waits for the one message that may come now.
    async fn hear(
        &self,
        connection: &mut UnixStream,
        done: &str,
        expected: impl Fn(&Asked) -> bool,
    ) -> Result<(), Failure> {
        let patience = *self.patience.lock();
        let heard = tokio::time::timeout(patience, frame::receive(connection)).await;
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
                let seconds = patience.as_secs();
                Err(Failure::Stuck(format!("for {seconds} s it has not {done}")))
            }
        }
    }
}

fn kill(other: &Other) {
    let killed = other.signal(Signal::KILL);
    log::warn!("process {} was killed: {killed:?}", other.pid());
}

/// Steps wait meanwhile; only where it cannot be for a minute this process ends, unless it can do without.
async fn take_back(mut lent: Lent) {
    let give_up_at = Instant::now() + TAKE_BACK;
    let mut told = false;
    loop {
        let (back, done) = match taken_back(lent).await {
            Ok(tried) => tried,
            Err(fault) => {
                log::error!("the books are lost to this process, which ends: {fault}");
                std::process::exit(1);
            }
        };
        lent = back;
        match done {
            Ok(()) => return,
            Err(fault) if Instant::now() < give_up_at => {
                if !std::mem::replace(&mut told, true) {
                    log::warn!("the books cannot be opened again, which is tried on: {fault}");
                }
            }
            Err(fault) if lent.settles_alone() => {
                return log::error!("from here on nothing is served without Redis: {fault}");
            }
            Err(fault) => {
                log::error!("the books cannot be opened again, this process ends: {fault}");
                std::process::exit(1);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Opening blocks; connections of other processes live on this runtime.
async fn taken_back(mut lent: Lent) -> Result<(Lent, StoreResult<()>), tokio::task::JoinError> {
    let open = move || {
        let done = lent.take_back();
        (lent, done)
    };
    tokio::task::spawn_blocking(open).await
}

async fn say(connection: &mut UnixStream, said: &Said) -> Result<(), Failure> {
    frame::send(connection, said).await.map_err(gone)
}

fn told_to_end() -> String {
    String::from("this process was told to end")
}

fn gone(fault: io::Error) -> Failure {
    Failure::Gone(fault.to_string())
}
