//! The embedded engine: the ledger in memory, one SQLite file, one writer, group commit.
//!
//! ```text
//!   reserve ─┐                     ┌─ waits for its commit
//!   settle  ─┼─▶ State (one lock) ─┴─▶ Pending ──▶ writer ──▶ file-wal ──▶ durability (sync, 100 ms)
//!   admin   ─┘   ledger, activity      (jobs)      thread                  thread
//!   queries ────────────────────────────────────▶ reader threads, connections of their own
//! ```
//!
//! A hold is on disk before its exchange goes upstream, so that a kill -9 loses nothing a client
//! received. A settlement is written within some 10 ms; until then its hold is on disk in its stead.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use self::durability::Durability;
use self::readers::Readers;
use self::state::Shared;
use self::writer::Writer;
use crate::quota::LostReservation;
use crate::store::file;
use crate::store::usual::UsualOutputs;
use crate::store::{StoreError, StoreResult};
use crate::time::Clock;

mod backup;
mod changes;
mod commit;
mod directory;
mod durability;
mod engine;
mod inspect;
mod listing;
mod load;
mod people;
mod queries;
mod readers;
mod restore;
mod rows;
mod schema;
mod state;
mod steps;
mod sums;
mod usage_rows;
mod users;
mod writer;

pub use backup::export_file;
pub use schema::VERSION as SCHEMA_VERSION;

/// How an embedded store behaves.
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// Sync each commit to the disk, so that a power cut loses nothing. Slow on most disks.
    pub sync_full: bool,
    pub lost_reservation: LostReservation,
    /// How long to wait for another process to let go of the file.
    pub patience: Duration,
    /// The reservations in the file still run, in the process that hands it over: each keeps its
    /// hold, and has this lease from now on.
    pub adopt: Option<Duration>,
    pub clock: Clock,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        EmbeddedOptions {
            sync_full: false,
            lost_reservation: LostReservation::default(),
            patience: Duration::ZERO,
            adopt: None,
            clock: state::system_clock(),
        }
    }
}

impl fmt::Debug for EmbeddedOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedOptions")
            .field("sync_full", &self.sync_full)
            .field("lost_reservation", &self.lost_reservation)
            .field("patience", &self.patience)
            .field("adopt", &self.adopt)
            .finish_non_exhaustive()
    }
}

/// The store in one file. Dropping it writes out what is pending and lets go of the file.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    readers: Readers,
    threads: Mutex<Vec<JoinHandle<()>>>,
    ownership: Mutex<Option<file::Ownership>>,
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmbeddedStore(…)")
    }
}

impl EmbeddedStore {
    /// Opens the file, creating it where there is none. Every reservation that a dead process left
    /// in it is resolved here, by `lost_reservation`, with an event whose reason is `edge_died`; those
    /// of a living one are adopted instead where the options say so.
    /// Starts threads: call it after a daemon's fork.
    ///
    /// # Errors
    /// `Unavailable` where another process owns the file, `Fault` where it cannot be read.
    pub fn open(path: &Path, options: EmbeddedOptions) -> StoreResult<Arc<Self>> {
        let ownership = file::own(path, options.patience)?;
        let mut connection = file::connect_writer(path, options.sync_full)?;
        schema::migrate(&mut connection)?;
        let now = (options.clock)();
        let directory = load::directory(&connection, now.wall)?;
        let state = load::state(&connection, &directory, &options, now)?;
        let shared = Arc::new(Shared {
            options,
            directory: RwLock::new(directory),
            state: Mutex::new(state),
            work: Condvar::new(),
            rest: Condvar::new(),
            commits: Default::default(),
            usual: Mutex::new(UsualOutputs::default()),
        });
        let readers = Readers::start(path)?;
        let durability = Durability::new(shared.clone(), path)?;
        let writer = Writer::new(shared.clone(), connection);
        let threads = vec![
            spawn("store-writer", move || writer.run())?,
            spawn("store-durability", move || durability.run())?,
        ];
        Ok(Arc::new(EmbeddedStore {
            shared,
            readers,
            threads: Mutex::new(threads),
            ownership: Mutex::new(Some(ownership)),
        }))
    }

    /// Writes out what is pending and lets go of the file, for another process to write it. What is
    /// still open is left open in it. Queries that run go on; every other call is `Unavailable` then.
    /// Blocks the thread for the last commit.
    ///
    /// # Errors
    /// `Unavailable` where it cannot be written: nothing has changed then.
    pub async fn let_go(&self) -> StoreResult<()> {
        // The writer says so when the last of it is written; joining it after that does not block long.
        self.shared.flush().await?;
        self.end_writing();
        Ok(())
    }

    /// Blocks until what is pending is written.
    fn end_writing(&self) {
        {
            let mut state = self.shared.state.lock();
            if !state.closed {
                state.note_drawn_on();
            }
            state.closed = true;
        }
        self.shared.work.notify_all();
        self.shared.rest.notify_all();
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked has nothing left to write.
            drop(thread.join());
        }
        drop(self.ownership.lock().take());
    }

    fn shut(&self) {
        self.end_writing();
        self.readers.stop();
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.shut();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> StoreResult<JoinHandle<()>> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(run).map_err(no_thread)
}

fn no_thread(error: std::io::Error) -> StoreError {
    StoreError::Fault(format!("cannot start a thread: {error}"))
}
