//! Groups. A group's record and counters lie in one slot, so each change is one step; only the list
//! of all groups is elsewhere.

use std::sync::Arc;

use super::answers::{bytes, fault, strings};
use super::directory::Directory;
use super::names::{self, Shard};
use super::records::decode_group;
use crate::quota::GroupId;
use crate::store::{AuditEntry, Freshness, GroupRecord, StoreError, StoreResult};

impl Directory {
    pub async fn group(
        &self,
        id: GroupId,
        freshness: Freshness,
    ) -> StoreResult<Option<Arc<GroupRecord>>> {
        if freshness == Freshness::Checked {
            return self.cache.group(id, self.read_group(id)).await;
        }
        let record = match self.read_group(id).await {
            Err(away @ StoreError::Unavailable(_)) if self.cache.keeps_last_known() => {
                return self.cache.group(id, async { Err(away) }).await;
            }
            record => record?,
        };
        self.cache.put_group(id, record.as_ref()).await;
        Ok(record)
    }

    async fn read_group(&self, id: GroupId) -> StoreResult<Option<Arc<GroupRecord>>> {
        let name = Shard::of_group(id).group_record(id);
        let stored = self.steps.read(&self.link, &name).await?;
        stored
            .map(|stored| decode_group(&stored).map(Arc::new))
            .transpose()
    }

    /// Creates, or replaces whatever the version.
    pub async fn put_group(
        &self,
        record: GroupRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<GroupRecord>> {
        self.replace_group(record, Some(&audit)).await
    }

    /// Without an audit entry it is a backup's.
    pub(super) async fn replace_group(
        &self,
        mut record: GroupRecord,
        audit: Option<&AuditEntry>,
    ) -> StoreResult<Arc<GroupRecord>> {
        // Listed first: a name in the list without a record is passed over, a record that is in no
        // list would never be seen.
        self.list_group("SADD", record.id).await?;
        record.version = self.steps.put_group(&self.link, &record, audit).await?;
        let record = Arc::new(record);
        self.cache.put_group(record.id, Some(&record)).await;
        Ok(record)
    }

    /// Removes the record and its counters.
    pub async fn delete_group(&self, id: GroupId, audit: AuditEntry) -> StoreResult<()> {
        let was_there = self.steps.delete_group(&self.link, id, &audit).await?;
        self.cache.put_group(id, None).await;
        self.list_group("SREM", id).await?;
        // Somebody may have made it anew in between.
        if self.read_group(id).await?.is_some() {
            self.list_group("SADD", id).await?;
        }
        if was_there {
            Ok(())
        } else {
            Err(StoreError::NotFound)
        }
    }

    async fn list_group(&self, change: &str, id: GroupId) -> StoreResult<()> {
        let mut command = redis::cmd(change);
        command.arg(names::GROUPS).arg(id.0.as_bytes());
        self.link.ask(command).await.map(drop)
    }

    /// By name.
    pub async fn list_groups(&self) -> StoreResult<Vec<Arc<GroupRecord>>> {
        let members = redis::cmd("SMEMBERS").arg(names::GROUPS).to_owned();
        let ids = strings(self.link.ask(members).await?)?;
        let mut reads = Vec::with_capacity(ids.len());
        for id in ids {
            let id = uuid::Uuid::from_slice(&id).map(GroupId);
            let id = id.map_err(|_| fault("a group without an id"))?;
            let name = Shard::of_group(id).group_record(id);
            reads.push(redis::cmd("GET").arg(name).to_owned());
        }
        let mut groups = Vec::with_capacity(reads.len());
        for answer in self.link.ask_all(reads).await? {
            if let Some(stored) = bytes(answer)? {
                groups.push(Arc::new(decode_group(&stored)?));
            }
        }
        groups.sort_by(|a, b| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
        Ok(groups)
    }
}
