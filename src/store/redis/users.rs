//! Users, and sessions that ended before their time.
//!
//! Users are people, so there are few: all of them lie in one slot, and a change is one step however
//! many edges make one at the same time. Nothing is left half done by an edge that dies.

use std::sync::Arc;

use redis::Cmd;
use uuid::Uuid;

use super::RedisStore;
use super::answers::{bytes, fault, int, strings};
use super::directory::Directory;
use super::link::{Link, Script};
use super::names;
use super::records::{decode_user, encode_audit, encode_user};
use super::script::script;
use crate::store::{AuditEntry, Page, StoreError, StoreResult, UserRecord};
use crate::time::UnixMs;

/// Changes of one user that come between, before a caller is told to come again.
const MOST_ROUNDS: usize = 16;

const KEYS: [&str; 4] = [
    names::USERS,
    names::LOGINS,
    names::USER_LIST,
    names::USER_AUDIT,
];

/// The steps of users' records.
#[derive(Debug)]
pub(super) struct UserSteps {
    put: Script,
    delete: Script,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Done,
    Absent,
    Conflict,
    Taken,
}

impl UserSteps {
    pub fn new() -> UserSteps {
        UserSteps {
            put: script!("audit", "put_user"),
            delete: script!("audit", "delete_user"),
        }
    }

    async fn put(
        &self,
        link: &Link,
        present: Option<&UserRecord>,
        record: &UserRecord,
        audit: Option<&AuditEntry>,
    ) -> StoreResult<Change> {
        let expected = present.map_or(0, |present| present.version);
        let [name, address] = record.logins();
        let mut args = vec![
            record.id.as_bytes().to_vec(),
            expected.to_string().into_bytes(),
            encode_user(record)?,
            name.into_bytes(),
            address.into_bytes(),
            audit.map(encode_audit).transpose()?.unwrap_or_default(),
        ];
        let former = present.map(UserRecord::logins).into_iter().flatten();
        args.extend(former.map(String::into_bytes));
        change_of(int(&link.run_background(&self.put, &KEYS, &args).await?)?)
    }

    async fn delete(
        &self,
        link: &Link,
        present: &UserRecord,
        audit: &AuditEntry,
    ) -> StoreResult<Change> {
        let [name, address] = present.logins();
        let args = [
            present.id.as_bytes().to_vec(),
            present.version.to_string().into_bytes(),
            name.into_bytes(),
            address.into_bytes(),
            encode_audit(audit)?,
        ];
        let answer = link.run_background(&self.delete, &KEYS, &args).await?;
        change_of(int(&answer)?)
    }
}

impl Directory {
    pub async fn create_user(
        &self,
        mut record: UserRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<UserRecord>> {
        if self.user(record.id).await?.is_some() {
            return Err(id_exists());
        }
        record.version = 1;
        match self
            .users
            .put(&self.link, None, &record, Some(&audit))
            .await?
        {
            Change::Done => Ok(Arc::new(record)),
            Change::Taken => Err(login_exists()),
            Change::Absent | Change::Conflict => Err(id_exists()),
        }
    }

    pub async fn user(&self, id: Uuid) -> StoreResult<Option<Arc<UserRecord>>> {
        let stored = bytes(self.link.ask(record_of(id.as_bytes())).await?)?;
        let record = stored.map(|stored| decode_user(&stored)).transpose()?;
        Ok(record.map(Arc::new))
    }

    /// By name or e-mail address.
    pub async fn user_by_login(&self, login: &str) -> StoreResult<Option<Arc<UserRecord>>> {
        let get = redis::cmd("HGET")
            .arg(names::LOGINS)
            .arg(login.to_lowercase())
            .to_owned();
        let Some(id) = bytes(self.link.ask(get).await?)? else {
            return Ok(None);
        };
        let id = Uuid::from_slice(&id).map_err(|_| fault("a login of no user"))?;
        let user = self.user(id).await?;
        // Renamed in between.
        Ok(user.filter(|user| user.logins().contains(&login.to_lowercase())))
    }

    /// Replaces the record if its version is still `record.version`.
    pub async fn update_user(
        &self,
        mut record: UserRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<UserRecord>> {
        let present = self.user(record.id).await?.ok_or(StoreError::NotFound)?;
        if present.version != record.version {
            return Err(changed_meanwhile());
        }
        record.version += 1;
        let put = self
            .users
            .put(&self.link, Some(&present), &record, Some(&audit));
        match put.await? {
            Change::Done => Ok(Arc::new(record)),
            Change::Absent => Err(StoreError::NotFound),
            Change::Conflict => Err(changed_meanwhile()),
            Change::Taken => Err(login_exists()),
        }
    }

    pub async fn delete_user(&self, id: Uuid, audit: AuditEntry) -> StoreResult<()> {
        for _ in 0..MOST_ROUNDS {
            let present = self.user(id).await?.ok_or(StoreError::NotFound)?;
            match self.users.delete(&self.link, &present, &audit).await? {
                Change::Done => return Ok(()),
                Change::Absent => return Err(StoreError::NotFound),
                Change::Conflict | Change::Taken => {}
            }
        }
        Err(changed_meanwhile())
    }

    /// In order of creation.
    pub async fn list_users(&self, skip: i64, limit: i64) -> StoreResult<Page<Arc<UserRecord>>> {
        let total = redis::cmd("ZCARD").arg(names::USER_LIST).to_owned();
        let total = int(&self.link.ask(total).await?)?;
        let skip = skip.max(0);
        let last = skip.saturating_add(limit.clamp(0, total)) - 1;
        if last < skip {
            let items = Vec::new();
            return Ok(Page { items, total });
        }
        let range = redis::cmd("ZRANGE")
            .arg(names::USER_LIST)
            .arg(skip)
            .arg(last)
            .to_owned();
        let ids = strings(self.link.ask(range).await?)?;
        let reads = ids.iter().map(|id| record_of(id)).collect();
        let mut items = Vec::with_capacity(ids.len());
        for stored in self.link.ask_all(reads).await? {
            if let Some(stored) = bytes(stored)? {
                items.push(Arc::new(decode_user(&stored)?));
            }
        }
        Ok(Page { items, total })
    }

    /// Puts a user of a backup in place of whatever there is.
    pub(super) async fn import_user(&self, mut record: UserRecord) -> StoreResult<()> {
        for _ in 0..MOST_ROUNDS {
            let present = self.user(record.id).await?;
            if let Some(present) = &present {
                if **present == record {
                    return Ok(());
                }
                record.version = record.version.max(present.version + 1);
            }
            let put = self
                .users
                .put(&self.link, present.as_deref(), &record, None);
            match put.await? {
                Change::Done => return Ok(()),
                Change::Taken => return Err(login_exists()),
                Change::Absent | Change::Conflict => {}
            }
        }
        Err(changed_meanwhile())
    }
}

impl RedisStore {
    /// Remembers that a session is over, until it would be anyway.
    pub(super) async fn note_ended(&self, id: Uuid, until: UnixMs) -> StoreResult<()> {
        let left_ms = until.0.saturating_sub(self.wall().0);
        if left_ms <= 0 {
            return Ok(());
        }
        let mut set = redis::cmd("SET");
        set.arg(names::ended_session(id)).arg(until.0);
        set.arg("PX").arg(left_ms);
        self.link.ask(set).await.map(drop)
    }

    pub(super) async fn has_ended(&self, id: Uuid) -> StoreResult<bool> {
        let get = redis::cmd("GET").arg(names::ended_session(id)).to_owned();
        let Some(until) = bytes(self.link.ask(get).await?)? else {
            return Ok(false);
        };
        let until = std::str::from_utf8(&until).ok();
        let until: Option<i64> = until.and_then(|until| until.parse().ok());
        let until = until.ok_or_else(|| fault("the end of a session that is none"))?;
        Ok(self.wall().0 < until)
    }
}

fn record_of(id: &[u8]) -> Cmd {
    redis::cmd("HGET").arg(names::USERS).arg(id).to_owned()
}

fn change_of(answer: i64) -> StoreResult<Change> {
    match answer {
        0 => Ok(Change::Done),
        1 => Ok(Change::Absent),
        2 => Ok(Change::Conflict),
        3 => Ok(Change::Taken),
        _ => Err(fault("an unknown answer to a change of a user")),
    }
}

fn id_exists() -> StoreError {
    StoreError::Conflict(String::from("the user id exists already"))
}

fn login_exists() -> StoreError {
    StoreError::Conflict(String::from("the name or the e-mail address is taken"))
}

fn changed_meanwhile() -> StoreError {
    StoreError::Conflict(String::from(
        "the user was changed meanwhile: read it again",
    ))
}
