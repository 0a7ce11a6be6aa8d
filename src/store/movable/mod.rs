//! The embedded books, able to go to another process while exchanges run: what a binary upgrade needs.
//!
//! ```text
//!   here ── hand_out ──▶ out ── follow ──▶ there: each call goes to the new process, over a socket
//!     ▲                   │
//!     └──── take_back ────┘  the new process died before it had them
//! ```
//!
//! While the books are out every call waits: for the milliseconds in which one process closes the file
//! and the other opens it. None is refused, and none is carried out twice.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinHandle;

use self::remote::Remote;
use super::StoreResult;
use super::embedded::{EmbeddedOptions, EmbeddedStore};

pub mod frame;
pub mod host;
mod remote;
mod steps;
mod whole;

/// How long a process that took the file and failed may take to end, for one try.
const PATIENCE: Duration = Duration::from_secs(2);

/// Books in a file that may move to another process.
pub struct MovableStore {
    place: Arc<RwLock<Place>>,
    path: PathBuf,
    options: EmbeddedOptions,
    lease: Duration,
}

/// Where the books are.
#[derive(Clone)]
enum Place {
    Here(Arc<EmbeddedStore>),
    There(Remote),
}

impl MovableStore {
    /// Opens the file. See [`EmbeddedStore::open`]. `lease` is what reservations get when the books come
    /// back.
    ///
    /// # Errors
    /// Those of [`EmbeddedStore::open`].
    pub fn open(
        path: PathBuf,
        options: EmbeddedOptions,
        lease: Duration,
    ) -> StoreResult<Arc<Self>> {
        let store = EmbeddedStore::open(&path, options.clone())?;
        Ok(Arc::new(MovableStore {
            place: Arc::new(RwLock::new(Place::Here(store))),
            path,
            options,
            lease,
        }))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the calls that run, writes everything out and lets go of the file. Calls wait for as
    /// long as what is returned lives. `None` where the books are with another process.
    ///
    /// Cancel safe before the file is let go of; after that the books are closed.
    ///
    /// # Errors
    /// `Unavailable` where something cannot be written: the books stay here then.
    pub async fn hand_out(&self) -> StoreResult<Option<HandedOut>> {
        let place = Arc::clone(&self.place).write_owned().await;
        match &*place {
            Place::Here(store) => store.let_go().await?,
            Place::There(_) => return Ok(None),
        }
        let options = EmbeddedOptions {
            adopt: Some(self.lease),
            patience: PATIENCE,
            ..self.options.clone()
        };
        Ok(Some(HandedOut {
            place,
            path: self.path.clone(),
            options,
        }))
    }

    async fn place(&self) -> Place {
        self.place.read().await.clone()
    }
}

impl fmt::Debug for MovableStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MovableStore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Books that nobody has here. Dropped without a decision they are closed: every call is
/// `Unavailable`.
pub struct HandedOut {
    place: OwnedRwLockWriteGuard<Place>,
    path: PathBuf,
    options: EmbeddedOptions,
}

impl fmt::Debug for HandedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandedOut")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl HandedOut {
    /// Opens the file again, what ran still running. Blocks while the other process ends.
    ///
    /// # Errors
    /// Those of [`EmbeddedStore::open`]. The books stay out then, and calls wait: it can be tried again.
    pub fn take_back(&mut self) -> StoreResult<()> {
        let store = EmbeddedStore::open(&self.path, self.options.clone())?;
        *self.place = Place::Here(store);
        Ok(())
    }

    /// From here on every call goes over this connection, which [`host::host`] serves at its other end.
    /// Must be called on a runtime that lives as long as the process. What is returned ends with the
    /// connection.
    pub fn follow(mut self, connection: UnixStream) -> JoinHandle<()> {
        let (remote, ends) = Remote::start(connection);
        *self.place = Place::There(remote);
        ends
    }
}
