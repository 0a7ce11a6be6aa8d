//! Changes of keys. What a key is made of lies in several slots, which no step spans: its record,
//! its counters, its secrets, the listings. So a change is one step on the record, which also notes
//! that the rest is to be done, and then the rest, which any edge can do, again and again:
//!
//! ```text
//!   claim secrets ──▶ put record + note change + audit ──▶ counters ▸ secrets ▸ listings ──▶ clear note
//!    (for a minute)     one step: all or nothing             each may be repeated, and heeds
//!                                                            only changes that are not older
//! ```
//!
//! An edge that dies before the record is put leaves claims that end by themselves; one that dies
//! after leaves the note, and the next sweep of any edge does the rest. A key is changed again only
//! once nothing is left to do of its last change.

use std::sync::Arc;

use uuid::Uuid;

use super::answers::int;
use super::directory::Directory;
use super::names;
use super::record_steps::{Next, Put};
use super::records::{Change, KeyEntry};
use crate::keys::{KeyHash, KeyId, KeyRecord};
use crate::store::{AuditEntry, StoreError, StoreResult};

/// Changes of one key that come between, before a caller is told to come again.
pub(super) const MOST_ROUNDS: usize = 16;

impl Directory {
    /// Stores a new key and gives it its `seq`.
    pub async fn create_key(
        &self,
        mut record: KeyRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<KeyRecord>> {
        let id = record.id;
        if let (Some(_), _) = self.steps.change(&self.link, id).await? {
            return Err(id_exists());
        }
        record.version = 1;
        let mut entry = KeyEntry {
            record,
            former_homes: Vec::new(),
        };
        self.claim(id, entry.hashes()).await?;
        let next = redis::cmd("INCR").arg(names::LAST_SEQ).to_owned();
        entry.record.seq = int(&self.link.ask(next).await?)?;
        let change = Change::new();
        let put = self
            .steps
            .put_key(&self.link, 0, Next::Record(&entry), &change, Some(&audit));
        match put.await? {
            Put::Done => {}
            Put::Absent | Put::Conflict | Put::Unfinished => return Err(id_exists()),
        }
        self.finish_mine(id).await?;
        Ok(self.remember(entry).await)
    }

    /// Replaces the record if its version is still `record.version`.
    pub async fn update_key(
        &self,
        record: KeyRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<KeyRecord>> {
        let id = record.id;
        for _ in 0..MOST_ROUNDS {
            let (present, unfinished) = self.steps.change(&self.link, id).await?;
            let present = present.ok_or(StoreError::NotFound)?;
            if present.record.version != record.version {
                return Err(changed_meanwhile());
            }
            if unfinished.is_some() {
                self.finish(id).await?;
                continue;
            }
            let (entry, change) = next_of(&present, record.clone());
            let new = entry.hashes().filter(|hash| !has(&present, hash));
            self.claim(id, new).await?;
            let expected = present.record.version;
            let put = self.steps.put_key(
                &self.link,
                expected,
                Next::Record(&entry),
                &change,
                Some(&audit),
            );
            match put.await? {
                Put::Done => {
                    self.finish_mine(id).await?;
                    for hash in &change.dropped {
                        self.cache.drop_owner(hash).await;
                    }
                    return Ok(self.remember(entry).await);
                }
                Put::Absent => return Err(StoreError::NotFound),
                Put::Conflict => return Err(changed_meanwhile()),
                Put::Unfinished => {}
            }
        }
        Err(changed_meanwhile())
    }

    /// Removes the record and its counters for good.
    pub async fn delete_key(&self, id: KeyId, audit: AuditEntry) -> StoreResult<()> {
        for _ in 0..MOST_ROUNDS {
            let (present, unfinished) = self.steps.change(&self.link, id).await?;
            let present = present.ok_or(StoreError::NotFound)?;
            if unfinished.is_some() {
                self.finish(id).await?;
                continue;
            }
            let expected = present.record.version;
            let change = Change {
                id: Uuid::now_v7(),
                dropped: present.hashes().collect(),
                from: Some(present.home().shard),
                removed: Some(expected + 1),
                owner: present.record.owner,
            };
            let put = self.steps.put_key(
                &self.link,
                expected,
                Next::Gone(&present),
                &change,
                Some(&audit),
            );
            match put.await? {
                Put::Done => {
                    self.finish_mine(id).await?;
                    self.cache.put_key(id, None).await;
                    for hash in &change.dropped {
                        self.cache.drop_owner(hash).await;
                    }
                    return Ok(());
                }
                Put::Absent => return Err(StoreError::NotFound),
                Put::Conflict | Put::Unfinished => {}
            }
        }
        Err(changed_meanwhile())
    }

    /// Does what is left to do of a key's last change. May be repeated, by several edges at once.
    pub(super) async fn finish(&self, id: KeyId) -> StoreResult<()> {
        let mut owners = Vec::new();
        for round in 0..MOST_ROUNDS {
            let (entry, change) = self.steps.change(&self.link, id).await?;
            if change.is_none() && round == 0 {
                return Ok(());
            }
            let change = change.unwrap_or_default();
            owners.extend(change.owner);
            match &entry {
                Some(entry) => self.apply(entry, &change, &owners).await?,
                None => self.clear(id, &change, &owners).await?,
            }
            owners.extend(entry.as_ref().and_then(|entry| entry.record.owner));
            // Lists know no versions: where the record was changed meanwhile, they are told again.
            let now = self.steps.finished(&self.link, id, change.id).await?;
            if now == entry.map_or(0, |entry| entry.record.version) {
                return Ok(());
            }
        }
        Err(changed_meanwhile())
    }

    /// `former`: whose lists it may be in.
    async fn apply(&self, entry: &KeyEntry, change: &Change, former: &[Uuid]) -> StoreResult<()> {
        let KeyRecord { id, version, .. } = entry.record;
        let home = entry.home().shard;
        let left = change.from.filter(|from| *from != home);
        let mut counters = None;
        if let Some(from) = left {
            counters = self.steps.leave(&self.link, from, id, version).await?;
        }
        let arrive = self.steps.arrive(&self.link, home, id, version, counters);
        arrive.await?;
        // Only now: until they have arrived, the copy that was left behind is the only one.
        if let Some(from) = left {
            let drop = self.steps.drop_counters(&self.link, from, id, version);
            drop.await?;
        }
        for hash in entry.hashes() {
            if !self.steps.keep(&self.link, &hash, id).await? {
                log::error!("key {} has a secret that is another key's too", id.0);
            }
        }
        for hash in &change.dropped {
            self.steps.release(&self.link, hash, id).await?;
        }
        self.list_key(&entry.record, former).await
    }

    async fn clear(&self, id: KeyId, change: &Change, former: &[Uuid]) -> StoreResult<()> {
        if let (Some(home), Some(version)) = (change.from, change.removed) {
            let drop = self.steps.drop_counters(&self.link, home, id, version);
            drop.await?;
        }
        for hash in &change.dropped {
            self.steps.release(&self.link, hash, id).await?;
        }
        self.unlist_key(id, former).await
    }

    /// As `finish`, where a failure must say that the change is made.
    pub(super) async fn finish_mine(&self, id: KeyId) -> StoreResult<()> {
        self.finish(id).await.map_err(|error| {
            let why = "the change is made, and takes effect everywhere once Redis answers";
            StoreError::Unavailable(format!("{why}: {error}"))
        })
    }

    /// Takes secrets for a key whose record is about to say so.
    pub(super) async fn claim(
        &self,
        id: KeyId,
        hashes: impl Iterator<Item = KeyHash>,
    ) -> StoreResult<()> {
        for hash in hashes {
            if !self.steps.claim(&self.link, &hash, id).await? {
                return Err(StoreError::Conflict(String::from(
                    "the secret exists already",
                )));
            }
        }
        Ok(())
    }

    pub(super) async fn remember(&self, entry: KeyEntry) -> Arc<KeyRecord> {
        for hash in entry.hashes() {
            self.cache.put_owner(hash, entry.record.id).await;
        }
        let record = Arc::new(entry.record);
        self.cache.put_key(record.id, Some(&record)).await;
        record
    }
}

/// What the record becomes, and what is to be done for it.
pub(super) fn next_of(present: &KeyEntry, mut record: KeyRecord) -> (KeyEntry, Change) {
    record.seq = present.record.seq;
    record.version = present.record.version + 1;
    let mut entry = KeyEntry {
        record,
        former_homes: present.former_homes.clone(),
    };
    let (from, home) = (present.home().shard, entry.home().shard);
    if from != home {
        entry.former_homes = present.homes();
        entry.former_homes.retain(|former| *former != home);
    }
    let change = Change {
        id: Uuid::now_v7(),
        dropped: present.hashes().filter(|hash| !has(&entry, hash)).collect(),
        from: (from != home).then_some(from),
        removed: None,
        owner: present
            .record
            .owner
            .filter(|owner| entry.record.owner != Some(*owner)),
    };
    (entry, change)
}

pub(super) fn has(entry: &KeyEntry, hash: &KeyHash) -> bool {
    entry.hashes().any(|of| of.same(hash))
}

fn id_exists() -> StoreError {
    StoreError::Conflict(String::from("the key id exists already"))
}

pub(super) fn changed_meanwhile() -> StoreError {
    StoreError::Conflict(String::from("the key was changed meanwhile: read it again"))
}

#[cfg(test)]
mod tests;
