//! One group commit, and those who wait for it. Works on any async runtime.

use std::sync::OnceLock;

use tokio::sync::Notify;

use crate::store::{StoreError, StoreResult};

#[derive(Debug, Default)]
pub(super) struct Commit {
    result: OnceLock<StoreResult<()>>,
    waiters: Notify,
}

impl Commit {
    /// Waits until the commit is on disk or has failed. Cancel safe.
    pub async fn wait(&self) -> StoreResult<()> {
        loop {
            // Made before the look: a commit that ends in between still wakes it.
            let ended = self.waiters.notified();
            if let Some(result) = self.result.get() {
                return result.clone();
            }
            ended.await;
        }
    }

    /// Ends it and wakes all waiters. Only the first end counts.
    pub fn end(&self, result: Result<(), &StoreError>) {
        if self.result.set(result.map_err(StoreError::clone)).is_ok() {
            self.waiters.notify_waiters();
        }
    }
}
