//! Keys of a backup, put in place of whatever there is by the same steps as any change of a key.

use super::RedisStore;
use super::answers::bytes;
use super::changes::{MOST_ROUNDS, changed_meanwhile, has, next_of};
use super::layout::Figures;
use super::names::{self, Home};
use super::record_steps::{Next, Put};
use super::records::{Change, KeyEntry};
use crate::keys::KeyRecord;
use crate::quota::Scope;
use crate::store::StoreResult;

impl RedisStore {
    /// Its number stays the one it has here; else it is the one it had, or a new one where that is
    /// another key's. Its version is a later one than any edge knows, where the record differs.
    pub(super) async fn import_key(&self, record: KeyRecord) -> StoreResult<()> {
        let (directory, id) = (&self.directory, record.id);
        for _ in 0..MOST_ROUNDS {
            let (present, unfinished) = directory.steps.change(&self.link, id).await?;
            if unfinished.is_some() {
                directory.finish(id).await?;
                continue;
            }
            let (entry, change) = match &present {
                Some(present) if is_same(&present.record, &record) => return Ok(()),
                Some(present) => {
                    let (mut entry, change) = next_of(present, record.clone());
                    entry.record.version = entry.record.version.max(record.version);
                    (entry, change)
                }
                None => (self.entry_of(record.clone()).await?, Change::new()),
            };
            let has_already = |hash: &_| present.as_ref().is_some_and(|present| has(present, hash));
            let new = entry.hashes().filter(|hash| !has_already(hash));
            directory.claim(id, new).await?;
            let expected = present.map_or(0, |present| present.record.version);
            let put =
                directory
                    .steps
                    .put_key(&self.link, expected, Next::Record(&entry), &change, None);
            if put.await? == Put::Done {
                directory.finish_mine(id).await?;
                for hash in &change.dropped {
                    directory.cache.drop_owner(hash).await;
                }
                drop(directory.remember(entry).await);
                return Ok(());
            }
        }
        Err(changed_meanwhile())
    }

    /// Of a key that is not here, or not any more.
    async fn entry_of(&self, mut record: KeyRecord) -> StoreResult<KeyEntry> {
        let holder = self.directory.numbered(record.seq).await?;
        let is_free = record.seq > 0 && holder.is_none_or(|holder| holder == record.id);
        if is_free {
            self.take_numbers(names::LAST_SEQ, record.seq, 0).await?;
        } else {
            record.seq = self.take_numbers(names::LAST_SEQ, 0, 1).await?;
        }
        // Counters that were removed remember by which version.
        let home = Home::of(record.id, record.group).shard;
        let mut head = redis::cmd("GETRANGE");
        head.arg(home.counters(Scope::Key(record.id))).arg(0).arg(7);
        let head = bytes(self.link.ask(head).await?)?.unwrap_or_default();
        let removed = Figures(&head).next().map_or(0, i64::abs);
        record.version = record.version.max(removed + 1);
        let mut former_homes = self.directory.homes(record.id).await?;
        former_homes.retain(|former| *former != home);
        Ok(KeyEntry {
            record,
            former_homes,
        })
    }
}

/// Whether a key says already what the backup has: its number and a later version are its own.
fn is_same(present: &KeyRecord, record: &KeyRecord) -> bool {
    let record = KeyRecord {
        seq: present.seq,
        version: present.version.max(record.version),
        ..record.clone()
    };
    *present == record
}
