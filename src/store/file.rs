//! A SQLite file: who may read it, who owns it, how connections to it are set up.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::{StoreError, StoreResult};

/// How long a statement waits for a lock that a visitor (a shell, a backup) holds.
const BUSY: Duration = Duration::from_millis(250);

/// Ownership of a store's file, for as long as the value lives: also against other processes.
#[derive(Debug)]
pub(super) struct Ownership {
    _lock: File,
}

/// Creates the folder (0700) and the file (0600) where they are not, and takes ownership, waiting up
/// to `patience` for another process to let go.
///
/// # Errors
/// `Unavailable` where another process owns the file, `Fault` where the file system refuses.
pub(super) fn own(path: &Path, patience: Duration) -> StoreResult<Ownership> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| refused("create the folder", folder, &error))?;
    }
    let lock_path = beside(path, ".lock");
    let lock = create(&lock_path)?;
    let give_up_at = Instant::now() + patience;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < give_up_at => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Unavailable(format!(
                    "{} is in use by another quota-proxy process (it holds {}); stop that one, or \
                     give this one a store.path of its own",
                    path.display(),
                    lock_path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(refused("lock", &lock_path, &error)),
        }
    }
    drop(create(path)?);
    Ok(Ownership { _lock: lock })
}

/// The file beside the store's that SQLite appends commits to.
pub(super) fn wal_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn create(path: &Path) -> StoreResult<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| refused("open", path, &error))
}

fn refused(what: &str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::Fault(format!("cannot {what} {}: {error}", path.display()))
}

/// The writer's connection. Checkpoints are not its work: see `durability`.
pub(super) fn connect_writer(path: &Path, sync_full: bool) -> StoreResult<Connection> {
    let connection = Connection::open(path).map_err(fault)?;
    let set = |connection: &Connection| {
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(
            None,
            "synchronous",
            if sync_full { "FULL" } else { "NORMAL" },
        )?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "foreign_keys", false)?;
        connection.pragma_update(None, "cache_size", -16_384)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(())
    };
    set(&connection).map_err(fault)?;
    Ok(connection)
}

/// A connection that can only read.
pub(super) fn connect_reader(path: &Path) -> StoreResult<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(fault)?;
    connection.busy_timeout(BUSY).map_err(fault)?;
    Ok(connection)
}

/// What SQLite said, as a fault of the store.
pub(super) fn fault(error: rusqlite::Error) -> StoreError {
    StoreError::Fault(error.to_string())
}
