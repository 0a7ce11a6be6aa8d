//! The audit log: each shard keeps the entries of what is changed in it, so that a change and its
//! entry are one step; read together, newest first.

use super::answers::int;
use super::directory::Directory;
use super::names::{self, Shard};
use super::newest::{Range, newest};
use super::records::decode_audit;
use crate::store::{AuditEntry, Page, StoreResult};

impl Directory {
    /// Notes what an operator did in a shard.
    pub async fn note(&self, shard: Shard, audit: &AuditEntry) -> StoreResult<()> {
        self.steps.note(&self.link, shard, audit).await
    }

    pub async fn audit(&self, skip: i64, limit: i64) -> StoreResult<Page<AuditEntry>> {
        let names = logs();
        let counts = names
            .iter()
            .map(|name| redis::cmd("ZCARD").arg(name).to_owned());
        let counts = self.link.ask_all(counts.collect()).await?;
        let total = counts.iter().map(int).sum::<StoreResult<i64>>()?;
        let entries = newest(&self.link, &names, &Range::default(), skip, limit).await?;
        let items = entries.iter().map(|entry| decode_audit(&entry.member));
        Ok(Page {
            items: items.collect::<StoreResult<_>>()?,
            total,
        })
    }
}

/// Every part of the log.
pub(super) fn logs() -> Vec<String> {
    let shards = Shard::all().map(Shard::audit);
    shards.chain([String::from(names::USER_AUDIT)]).collect()
}
