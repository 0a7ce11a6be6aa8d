//! The thread that makes commits survive a power cut, and keeps the write-ahead log short.
//!
//! A commit is in the page cache when it is answered: a kill -9 loses nothing. Every 100 ms the log
//! is synced to the disk, off the writer's path. Once a second its pages are copied to the database
//! file; when the log has grown long all the same, the writer does the rest between two commits, so
//! that the log can begin anew.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use log::warn;
use rusqlite::Connection;

use super::state::Shared;
use crate::store::StoreResult;
use crate::store::file;

const SYNC_EVERY: Duration = Duration::from_millis(100);
const ROUNDS_PER_CHECKPOINT: u32 = 10;
/// Pages in the log from which the writer helps: 32 MiB.
const LONG_LOG_PAGES: i64 = 8_192;

pub(super) struct Durability {
    shared: Arc<Shared>,
    connection: Connection,
    wal_path: PathBuf,
    wal: Option<File>,
    seen_commits: u64,
    checkpointed_commits: u64,
}

impl Durability {
    pub fn new(shared: Arc<Shared>, path: &Path) -> StoreResult<Durability> {
        Ok(Durability {
            shared,
            connection: file::connect_writer(path, false)?,
            wal_path: file::wal_of(path),
            wal: None,
            seen_commits: 0,
            checkpointed_commits: 0,
        })
    }

    /// Until the store is closed.
    pub fn run(mut self) {
        let mut rounds = 0;
        while !self.shared.pause(SYNC_EVERY) {
            let commits = self.shared.commits();
            if commits != self.seen_commits && !self.shared.options.sync_full {
                self.sync();
            }
            self.seen_commits = commits;
            rounds += 1;
            if rounds % ROUNDS_PER_CHECKPOINT == 0 && commits != self.checkpointed_commits {
                self.checkpointed_commits = commits;
                self.checkpoint();
            }
        }
        self.sync();
    }

    fn sync(&mut self) {
        if self.wal.is_none() {
            self.wal = File::open(&self.wal_path).ok();
        }
        if let Some(wal) = &self.wal
            && let Err(error) = wal.sync_data()
        {
            warn!("the write-ahead log could not be synced: {error}");
            self.wal = None;
        }
    }

    fn checkpoint(&self) {
        match pages_after_checkpoint(&self.connection) {
            Ok(pages) if pages > LONG_LOG_PAGES => self.shared.push_job(Box::new(|writer, _| {
                if let Err(error) = pages_after_checkpoint(writer) {
                    warn!("the write-ahead log could not be shortened: {error}");
                }
            })),
            Ok(_) => {}
            Err(error) => warn!("the write-ahead log could not be copied: {error}"),
        }
    }
}

/// Copies what it can of the log without waiting for anyone; answers the log's length.
fn pages_after_checkpoint(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1))
}
