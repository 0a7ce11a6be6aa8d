//! The journal goes to the process that takes over from this one: it is a file of one process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::RedisStore;
use super::journal::Journal;
use crate::store::{StoreError, StoreResult};

/// Longest wait for steps that write to it just now.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a process that took the journal and failed may take to end, for one try.
const ENDING: Duration = Duration::from_secs(2);

impl RedisStore {
    /// See [`LinkOptions::servers`](super::LinkOptions::servers).
    pub fn servers(&self) -> String {
        self.options.link.servers()
    }

    pub(super) fn journal(&self) -> Option<Arc<Journal>> {
        self.journal.read().clone()
    }

    /// Closes the journal, so that another process can open it. From here on nothing is admitted
    /// without Redis. Cancel safe: a wait that is given up gives the journal back.
    ///
    /// # Errors
    /// `Unavailable` where exchanges in it have not been taken to Redis: the journal stays then.
    pub async fn hand_out_journal(&self) -> StoreResult<()> {
        let Some(journal) = self.journal.write().take() else {
            return Ok(());
        };
        let returned = Returned {
            store: self,
            journal: Some(journal),
        };
        let give_up_at = Instant::now() + PATIENCE;
        while returned.is_in_use() && Instant::now() < give_up_at {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if returned.is_in_use() || !returned.is_empty()? {
            return Err(StoreError::Unavailable(String::from(
                "exchanges that were served without Redis wait for it; try again when it has them",
            )));
        }
        returned.let_go();
        Ok(())
    }

    /// Opens the journal again.
    ///
    /// # Errors
    /// `Unavailable` where the other process has it still, `Fault` where it cannot be opened.
    pub fn take_journal_back(&self) -> StoreResult<()> {
        if let Some(path) = &self.options.journal {
            *self.journal.write() = Some(Arc::new(Journal::open(path, ENDING)?));
        }
        Ok(())
    }
}

/// A journal that comes back unless it is let go of.
struct Returned<'a> {
    store: &'a RedisStore,
    journal: Option<Arc<Journal>>,
}

impl Returned<'_> {
    fn is_in_use(&self) -> bool {
        let users = self.journal.as_ref().map_or(0, Arc::strong_count);
        users > 1
    }

    fn is_empty(&self) -> StoreResult<bool> {
        self.journal
            .as_ref()
            .map_or(Ok(true), |journal| journal.is_empty())
    }

    fn let_go(mut self) {
        self.journal = None;
    }
}

impl Drop for Returned<'_> {
    fn drop(&mut self) {
        if let Some(journal) = self.journal.take() {
            *self.store.journal.write() = Some(journal);
        }
    }
}
