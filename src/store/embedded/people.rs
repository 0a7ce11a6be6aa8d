//! Users and ended sessions in memory, as the directory has keys: changed by the writer alone, and
//! only after the change is on disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use uuid::Uuid;

use crate::store::{Page, UserRecord};
use crate::time::UnixMs;

#[derive(Debug, Default)]
pub(super) struct People {
    users: HashMap<Uuid, (i64, Arc<UserRecord>), RandomState>,
    by_seq: BTreeMap<i64, Arc<UserRecord>>,
    /// Names and addresses in lower case: whose they are.
    logins: HashMap<String, Uuid, RandomState>,
    ended: HashMap<Uuid, UnixMs, RandomState>,
}

impl People {
    pub fn user(&self, id: Uuid) -> Option<&Arc<UserRecord>> {
        self.users.get(&id).map(|(_, record)| record)
    }

    pub fn number(&self, id: Uuid) -> Option<i64> {
        self.users.get(&id).map(|(seq, _)| *seq)
    }

    pub fn user_by_login(&self, login: &str) -> Option<&Arc<UserRecord>> {
        self.user(*self.logins.get(&login.to_lowercase())?)
    }

    /// The name or address of this user that another one has.
    pub fn taken<'a>(&self, record: &'a UserRecord) -> Option<&'a str> {
        let taken = |login: &&str| {
            let owner = self.logins.get(&login.to_lowercase());
            owner.is_some_and(|id| *id != record.id)
        };
        let mut logins = [record.username.as_str(), record.email.as_str()].into_iter();
        logins.find(taken)
    }

    pub fn put(&mut self, seq: i64, record: Arc<UserRecord>) {
        self.remove(record.id);
        for login in record.logins() {
            self.logins.insert(login, record.id);
        }
        self.by_seq.insert(seq, record.clone());
        self.users.insert(record.id, (seq, record));
    }

    pub fn remove(&mut self, id: Uuid) {
        if let Some((seq, record)) = self.users.remove(&id) {
            self.by_seq.remove(&seq);
            for login in record.logins() {
                self.logins.remove(&login);
            }
        }
    }

    /// In order of creation.
    pub fn page(&self, skip: i64, limit: i64) -> Page<Arc<UserRecord>> {
        let skip = usize::try_from(skip).unwrap_or(0);
        let limit = usize::try_from(limit).unwrap_or(0);
        let items = self.by_seq.values().skip(skip).take(limit);
        Page {
            items: items.cloned().collect(),
            total: i64::try_from(self.by_seq.len()).unwrap_or(i64::MAX),
        }
    }

    pub fn session_ended(&self, id: Uuid) -> bool {
        self.ended.contains_key(&id)
    }

    /// Remembers that a session was ended, and forgets those that are over by `now`.
    pub fn end_session(&mut self, id: Uuid, over_at: UnixMs, now: UnixMs) {
        self.ended.retain(|_, over_at| *over_at > now);
        self.ended.insert(id, over_at);
    }
}
