//! The atomic steps of records: one script each, everything it touches in one slot.

use redis::Value;
use uuid::Uuid;

use super::answers::{array, bytes, fault, int};
use super::layout::{Stored, clock_figures};
use super::link::{Link, Script};
use super::names::{self, Shard};
use super::records::{Change, KeyEntry, encode_audit, encode_group, encode_homes, key_text};
use super::script::script;
use crate::keys::{KeyHash, KeyId};
use crate::quota::{GroupId, ReservationId, Scope};
use crate::store::{AuditEntry, GroupRecord, StoreResult};
use crate::time::{DAY_MS, Moment};

/// How long a secret is claimed for a record that is about to be written.
const CLAIM_MS: i64 = 60_000;
/// How long counters that left are remembered, and what was paid: longer than any step is late.
const REMEMBER_MS: i64 = DAY_MS;

/// The scripts, as every edge sends them.
#[derive(Debug)]
pub(super) struct RecordSteps {
    read: Script,
    claim: Script,
    release: Script,
    put_key: Script,
    change: Script,
    finished: Script,
    leave: Script,
    arrive: Script,
    drop: Script,
    put_group: Script,
    delete_group: Script,
    note: Script,
    pin: Script,
    pay: Script,
}

/// What a change makes of a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next<'a> {
    Record(&'a KeyEntry),
    /// Nothing, of what was this.
    Gone(&'a KeyEntry),
}

/// What became of a record that was to be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Done,
    Absent,
    Conflict,
    /// An earlier change is to be finished first.
    Unfinished,
}

impl RecordSteps {
    pub fn new() -> RecordSteps {
        RecordSteps {
            read: script!("read"),
            claim: script!("claim"),
            release: script!("release"),
            put_key: script!("audit", "put_key"),
            change: script!("change"),
            finished: script!("finished"),
            leave: script!("leave"),
            arrive: script!("arrive"),
            drop: script!("drop"),
            put_group: script!("audit", "put_group"),
            delete_group: script!("audit", "delete_group"),
            note: script!("audit", "note"),
            pin: script!("pin"),
            pay: script!("clock", "counters", "close", "book", "pay"),
        }
    }

    /// A stored string, within the deadline of a request.
    pub async fn read(&self, link: &Link, name: &str) -> StoreResult<Option<Vec<u8>>> {
        bytes(link.run(&self.read, &[name], NONE).await?)
    }

    /// Takes a secret for a key until its record is written; false where it is another key's.
    pub async fn claim(&self, link: &Link, hash: &KeyHash, id: KeyId) -> StoreResult<bool> {
        self.own(link, hash, id, CLAIM_MS).await
    }

    /// Takes a secret for a key for good; false where it is another key's.
    pub async fn keep(&self, link: &Link, hash: &KeyHash, id: KeyId) -> StoreResult<bool> {
        self.own(link, hash, id, 0).await
    }

    async fn own(&self, link: &Link, hash: &KeyHash, id: KeyId, ms: i64) -> StoreResult<bool> {
        let args = [key_text(id), ms.to_string()];
        let keys = [names::secret(hash)];
        let answer = link.run_background(&self.claim, &keys, &args).await?;
        Ok(int(&answer)? == 1)
    }

    pub async fn release(&self, link: &Link, hash: &KeyHash, id: KeyId) -> StoreResult<()> {
        let keys = [names::secret(hash)];
        link.run_background(&self.release, &keys, &[key_text(id)])
            .await?;
        Ok(())
    }

    /// Puts a record in place of the one of version `expected` (0: of none), or removes that for good.
    /// Without an audit entry it is a backup's, and may be a key that was removed for good.
    pub async fn put_key(
        &self,
        link: &Link,
        expected: i64,
        next: Next<'_>,
        change: &Change,
        audit: Option<&AuditEntry>,
    ) -> StoreResult<Put> {
        let (id, record, remembered) = match next {
            Next::Record(entry) => (entry.record.id, entry.encode()?, Vec::new()),
            Next::Gone(entry) => (entry.record.id, Vec::new(), encode_homes(&entry.homes())),
        };
        let args = [
            expected.to_string().into_bytes(),
            record,
            id.0.as_bytes().to_vec(),
            change.encode()?,
            audit.map(encode_audit).transpose()?.unwrap_or_default(),
            remembered,
            i64::from(audit.is_none()).to_string().into_bytes(),
        ];
        let shard = Shard::of_key(id);
        let keys = [
            shard.key_record(id),
            shard.gone(id),
            shard.changes(),
            shard.audit(),
        ];
        let answer = link.run_background(&self.put_key, &keys, &args).await?;
        match int(&answer)? {
            0 => Ok(Put::Done),
            1 => Ok(Put::Absent),
            2 => Ok(Put::Conflict),
            3 => Ok(Put::Unfinished),
            _ => Err(fault("an unknown answer to a change")),
        }
    }

    /// A key's record, and what is left to do of its last change.
    pub async fn change(
        &self,
        link: &Link,
        id: KeyId,
    ) -> StoreResult<(Option<KeyEntry>, Option<Change>)> {
        let shard = Shard::of_key(id);
        let keys = [shard.key_record(id), shard.changes()];
        let args = [id.0.as_bytes().as_slice()];
        let answer = link.run_background(&self.change, &keys, &args).await?;
        let mut parts = array(answer)?.into_iter();
        let mut next = || bytes(parts.next().unwrap_or(Value::Nil));
        let (record, change) = (next()?, next()?);
        Ok((
            record.map(|record| KeyEntry::decode(&record)).transpose()?,
            change.map(|change| Change::decode(&change)).transpose()?,
        ))
    }

    /// Nothing is left to do of a change; answers the record's version as it is now, 0 for none.
    pub async fn finished(&self, link: &Link, id: KeyId, change: Uuid) -> StoreResult<i64> {
        let shard = Shard::of_key(id);
        let keys = [shard.key_record(id), shard.changes()];
        let args = [id.0.as_bytes().as_slice(), change.as_bytes()];
        int(&link.run_background(&self.finished, &keys, &args).await?)
    }

    /// Takes a key's counters away from `shard` by the change that made `version`.
    pub async fn leave(
        &self,
        link: &Link,
        shard: Shard,
        id: KeyId,
        version: i64,
    ) -> StoreResult<Option<Vec<u8>>> {
        let keys = [shard.counters(Scope::Key(id))];
        let args = [version.to_string()];
        bytes(link.run_background(&self.leave, &keys, &args).await?)
    }

    /// Puts counters into `shard`, fresh ones where there are none; or tells those that are there of
    /// the version.
    pub async fn arrive(
        &self,
        link: &Link,
        shard: Shard,
        id: KeyId,
        version: i64,
        counters: Option<Vec<u8>>,
    ) -> StoreResult<()> {
        let keys = [shard.counters(Scope::Key(id))];
        let counters = counters.unwrap_or_else(|| Stored::fresh(version).packed());
        let args = [version.to_string().into_bytes(), counters];
        link.run_background(&self.arrive, &keys, &args).await?;
        Ok(())
    }

    /// Clears counters away that left, or whose key was removed.
    pub async fn drop_counters(
        &self,
        link: &Link,
        shard: Shard,
        id: KeyId,
        version: i64,
    ) -> StoreResult<()> {
        let keys = [shard.counters(Scope::Key(id))];
        let args = [version, REMEMBER_MS].map(|n| n.to_string());
        link.run_background(&self.drop, &keys, &args).await?;
        Ok(())
    }

    /// Answers the new version. Without an audit entry it is a backup's, and keeps the version it has
    /// there if it can.
    pub async fn put_group(
        &self,
        link: &Link,
        record: &GroupRecord,
        audit: Option<&AuditEntry>,
    ) -> StoreResult<i64> {
        let wanted = audit.map_or(record.version, |_| 0);
        let args = [
            encode_group(record)?,
            Stored::fresh(0).packed(),
            audit.map(encode_audit).transpose()?.unwrap_or_default(),
            wanted.to_string().into_bytes(),
        ];
        let keys = group_keys(record.id);
        int(&link.run_background(&self.put_group, &keys, &args).await?)
    }

    /// False where there is no such group.
    pub async fn delete_group(
        &self,
        link: &Link,
        id: GroupId,
        audit: &AuditEntry,
    ) -> StoreResult<bool> {
        let args = [encode_audit(audit)?, REMEMBER_MS.to_string().into_bytes()];
        let keys = group_keys(id);
        let answer = link.run_background(&self.delete_group, &keys, &args);
        Ok(int(&answer.await?)? == 1)
    }

    pub async fn note(&self, link: &Link, shard: Shard, audit: &AuditEntry) -> StoreResult<()> {
        let args = [encode_audit(audit)?];
        link.run_background(&self.note, &[shard.audit()], &args)
            .await?;
        Ok(())
    }

    /// Names the shard where something owed is to be paid, unless another than `known` was named
    /// meanwhile; answers the entry as it is now, `None` where it was paid.
    pub async fn pin(
        &self,
        link: &Link,
        owed: Shard,
        field: &[u8],
        known: Option<Shard>,
        place: Shard,
    ) -> StoreResult<Option<Vec<u8>>> {
        let known = known.map(Shard::number);
        let args = [field, known.as_slice(), &[place.number()]];
        bytes(
            link.run_background(&self.pin, &[owed.owed()], &args)
                .await?,
        )
    }

    /// Pays once what is owed, at `place`; false where the key's counters are not there.
    pub async fn pay(
        &self,
        link: &Link,
        place: Shard,
        key: KeyId,
        (id, late): (ReservationId, bool),
        figures: &[u8],
        now: Option<Moment>,
    ) -> StoreResult<bool> {
        let keys = [place.paid(id, late), place.counters(Scope::Key(key))];
        let (wall, steady) = clock_figures(now);
        let args = [
            wall.to_string().into_bytes(),
            steady.to_string().into_bytes(),
            figures.to_vec(),
            REMEMBER_MS.to_string().into_bytes(),
        ];
        Ok(int(&link.run_background(&self.pay, &keys, &args).await?)? == 1)
    }
}

const NONE: &[&str] = &[];

fn group_keys(id: GroupId) -> [String; 3] {
    let shard = Shard::of_group(id);
    [
        shard.group_record(id),
        shard.counters(Scope::Group(id)),
        shard.audit(),
    ]
}
