//! The new process: takes sockets and books from the running one.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::other::Other;
use super::socket::{self, own_user};
use super::{Asked, Books, PATIENCE, PROTOCOL, Said, Slot};
use crate::store::movable::frame;

/// A connection to the process that runs, and what it has given so far.
#[derive(Debug)]
pub struct Taker {
    runtime: Runtime,
    connection: UnixStream,
    /// Where the process that gives listens.
    path: PathBuf,
    giver: Other,
    books: Books,
    sockets: Vec<(Slot, OwnedFd)>,
}

/// How long a process that breaks its connection off may take to have ended.
const ENDING: Duration = Duration::from_secs(2);

/// The process before, which ends what runs in it.
#[derive(Debug)]
pub struct Predecessor {
    /// Its steps come over this.
    pub connection: UnixStream,
    pub process: Other,
}

impl Taker {
    /// Asks for the sockets. The running process serves on.
    ///
    /// # Errors
    /// Nobody is there to take over from, or it refuses.
    pub fn ask(path: &Path) -> io::Result<Taker> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let asked = runtime.block_on(async {
            let mut connection = socket::knock(path).await?;
            let who = connection.peer_cred()?;
            if who.uid() != own_user() {
                let whose = format!("it is user {}'s: run this as that user", who.uid());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, whose));
            }
            let take = Asked::Take {
                protocol: PROTOCOL,
                release: env!("CARGO_PKG_VERSION").to_owned(),
            };
            frame::send(&mut connection, &take).await?;
            let Said::Sockets { slots, books } = hear(&mut connection).await? else {
                return Err(out_of_turn());
            };
            let sockets = socket::receive(&connection).await?;
            if sockets.len() != slots.len() {
                return Err(out_of_turn());
            }
            let sockets = slots.into_iter().zip(sockets).collect();
            let giver = Other::of(&connection)?;
            Ok((connection, giver, books, sockets))
        });
        let (connection, giver, books, sockets) = asked?;
        Ok(Taker {
            runtime,
            connection,
            path: path.to_owned(),
            giver,
            books,
            sockets,
        })
    }

    /// Where the process listens that gives.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket that was made for this, once; or for the same address in another setting, which the
    /// running process still has.
    pub fn socket(&mut self, what: &str, asked: SocketAddr) -> Option<OwnedFd> {
        let made_for = |slot: &Slot| slot.asked == asked && slot.what == what;
        // Any number of settings may ask for any port.
        let of_address = |slot: &Slot| slot.asked == asked && asked.port() != 0;
        let sockets = || self.sockets.iter();
        let at = sockets()
            .position(|(slot, _)| made_for(slot))
            .or_else(|| sockets().position(|(slot, _)| of_address(slot)))?;
        Some(self.sockets.remove(at).1)
    }

    /// Waits until the running process has closed the books. From here on it waits for this one.
    /// `ours` is where this process would have its books.
    ///
    /// # Errors
    /// Its books are elsewhere or of another layout, it refuses, or has gone.
    pub fn take_books(&mut self, ours: &Books) -> io::Result<()> {
        if self.books != *ours {
            return Err(io::Error::other(format!(
                "its books are in {}, this process would have them in {ours}: that takes a restart",
                self.books
            )));
        }
        let connection = &mut self.connection;
        self.runtime.block_on(async {
            frame::send(connection, &Asked::Books).await?;
            match hear(connection).await? {
                Said::Yours => Ok(()),
                _ => Err(out_of_turn()),
            }
        })
    }

    /// Says that this process cannot, and why. It must end then.
    pub fn give_up(mut self, why: &str) {
        let failed = Asked::Failed(why.to_owned());
        let told = frame::send(&mut self.connection, &failed);
        // Where it cannot be told it learns of our end.
        drop(self.runtime.block_on(told));
    }

    /// Says that this process can serve, and takes the word: it must begin at once then. What is returned
    /// is the runtime to go on with, and the process before; `None` where that has died meanwhile.
    ///
    /// # Errors
    /// It did not let go: this process must end.
    pub fn take_the_word(mut self) -> io::Result<(Runtime, Option<Predecessor>)> {
        let connection = &mut self.connection;
        let done = self.runtime.block_on(async {
            frame::send(connection, &Asked::Ready).await?;
            match hear(connection).await? {
                Said::Go => frame::send(connection, &Asked::Thanks).await,
                _ => Err(out_of_turn()),
            }
        });
        let before = Predecessor {
            connection: self.connection,
            process: self.giver,
        };
        match done {
            Ok(()) => Ok((self.runtime, Some(before))),
            // Connections close before a process has gone.
            Err(fault)
                if is_broken_off(&fault)
                    && self.runtime.block_on(before.process.ends_within(ENDING)) =>
            {
                Ok((self.runtime, None))
            }
            Err(fault) => Err(fault),
        }
    }
}

fn is_broken_off(fault: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(fault.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

async fn hear(connection: &mut UnixStream) -> io::Result<Said> {
    match patiently(connection).await? {
        Said::Refused(why) => Err(io::Error::other(why)),
        said => Ok(said),
    }
}

async fn patiently<T: DeserializeOwned>(connection: &mut UnixStream) -> io::Result<T> {
    let heard = tokio::time::timeout(PATIENCE, frame::receive(connection)).await;
    heard.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
}

fn out_of_turn() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "it is of a release that this one cannot take over from; restart instead",
    )
}
