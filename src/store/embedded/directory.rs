//! Keys and groups in memory: looked up for every request, changed by the writer alone, and only
//! after the change is on disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::listing::Listings;
use super::people::People;
use crate::keys::{KeyHash, KeyId, KeyRecord};
use crate::quota::{GroupId, Scope};
use crate::store::{GroupRecord, KeyQuery, Page};
use crate::time::UnixMs;

#[derive(Debug, Default)]
pub(super) struct Directory {
    keys: HashMap<KeyId, Arc<KeyRecord>, RandomState>,
    by_hash: HashMap<KeyHash, KeyId, RandomState>,
    by_seq: BTreeMap<i64, Arc<KeyRecord>>,
    listings: Listings,
    groups: HashMap<GroupId, (i64, Arc<GroupRecord>), RandomState>,
    /// Numbers of keys that are gone, for events that come late.
    former: HashMap<KeyId, i64, RandomState>,
    pub people: People,
}

impl Directory {
    pub fn key(&self, id: KeyId) -> Option<&Arc<KeyRecord>> {
        self.keys.get(&id)
    }

    /// The key this secret opens now; softly deleted ones are not found.
    pub fn key_by_hash(&self, hash: &KeyHash, now: UnixMs) -> Option<&Arc<KeyRecord>> {
        let record = self.keys.get(self.by_hash.get(hash)?)?;
        if record.deleted {
            return None;
        }
        let current = record.hash.same(hash);
        let rotated = record
            .previous
            .is_some_and(|previous| previous.hash.same(hash) && now < previous.valid_until);
        (current || rotated).then_some(record)
    }

    /// Whose secret this is or was, for telling a conflict.
    pub fn owner_of(&self, hash: &KeyHash) -> Option<KeyId> {
        self.by_hash.get(hash).copied()
    }

    pub fn put_key(&mut self, record: Arc<KeyRecord>) {
        if let Some(old) = self.keys.get(&record.id).cloned() {
            self.unlist(&old);
        }
        self.by_hash.insert(record.hash, record.id);
        if let Some(previous) = &record.previous {
            self.by_hash.insert(previous.hash, record.id);
        }
        self.by_seq.insert(record.seq, record.clone());
        self.listings.put(&record);
        self.keys.insert(record.id, record);
    }

    pub fn remove_key(&mut self, id: KeyId) {
        if let Some(record) = self.keys.remove(&id) {
            self.unlist(&record);
            self.by_seq.remove(&record.seq);
            self.former.insert(id, record.seq);
        }
    }

    pub fn put_former_key(&mut self, id: KeyId, seq: i64) {
        self.former.insert(id, seq);
    }

    /// Out of what a record is found by, but for its id and number.
    fn unlist(&mut self, old: &KeyRecord) {
        self.by_hash.remove(&old.hash);
        if let Some(previous) = &old.previous {
            self.by_hash.remove(&previous.hash);
        }
        self.listings.remove(old);
    }

    pub fn key_by_seq(&self, seq: i64) -> Option<&Arc<KeyRecord>> {
        self.by_seq.get(&seq)
    }

    /// In order of creation, softly deleted ones left out.
    pub fn list_keys(&self, query: KeyQuery) -> Page<Arc<KeyRecord>> {
        self.listings.page(query)
    }

    /// Every key, softly deleted ones too.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<KeyRecord>> {
        self.keys.values()
    }

    pub fn group(&self, id: GroupId) -> Option<&Arc<GroupRecord>> {
        self.groups.get(&id).map(|(_, record)| record)
    }

    pub fn put_group(&mut self, seq: i64, record: Arc<GroupRecord>) {
        self.groups.insert(record.id, (seq, record));
    }

    pub fn remove_group(&mut self, id: GroupId) {
        self.groups.remove(&id);
    }

    /// By name.
    pub fn list_groups(&self) -> Vec<Arc<GroupRecord>> {
        let mut groups: Vec<_> = self.groups.values().map(|(_, g)| g.clone()).collect();
        groups.sort_by(|a, b| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
        groups
    }

    /// A key's number, also of one that is gone; 0 where there never was one.
    pub fn key_number(&self, id: KeyId) -> i64 {
        let present = self.keys.get(&id).map(|record| record.seq);
        present
            .or_else(|| self.former.get(&id).copied())
            .unwrap_or(0)
    }

    /// The number that names a scope's counters: a group's is below zero. `None` where it is gone.
    pub fn scope_number(&self, scope: Scope) -> Option<i64> {
        match scope {
            Scope::Key(id) => self.keys.get(&id).map(|record| record.seq),
            Scope::Group(id) => self.groups.get(&id).map(|(seq, _)| -seq),
        }
    }

    /// The reverse of `scope_number`.
    pub fn scopes_by_number(&self) -> HashMap<i64, Scope> {
        let keys = self.keys.values().map(|key| (key.seq, Scope::Key(key.id)));
        let groups = self.groups.iter();
        let groups = groups.map(|(id, (seq, _))| (-seq, Scope::Group(*id)));
        keys.chain(groups).collect()
    }
}
