//! WHERE STATE LIVES: one trait, its contract, and the records every engine keeps.
//!
//! A store is shared by every exchange of a process. All methods are cancel safe in this sense: a
//! step whose future is dropped has either happened whole or not at all, and repeating it by the
//! same id changes nothing twice.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::keys::{KeyHash, KeyId, KeyRecord};
use crate::quota::{
    Amounts, Ask, Charge, GroupId, ReservationId, Reserved, Scope, ScopeClaim, Settled, Standing,
};
use crate::time::UnixMs;

pub use crate::quota::LostReservation;

mod backup;
#[cfg(test)]
mod contract;
pub mod embedded;
mod event;
mod file;
mod invariants;
pub mod movable;
mod record;
pub mod redis;
mod span;
mod usage;
pub mod usage_log;
mod usual;

pub use backup::{BACKUP_VERSION, PreviousHash, Record};
pub use event::UsageEvent;
pub use invariants::{Check, Invariants};
pub use record::{
    AuditEntry, GroupRecord, KeyActivity, KeyFigures, KeyQuery, Page, Role, UserRecord,
};
pub use usage::{Rollup, SumBy, SumQuery, UsageQuery, UsageSum};

/// A step that could not be carried out. Nothing of it has happened, unless the message says so.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
pub enum StoreError {
    /// The engine is away or too slow: the caller may try again.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// A name, secret or id is taken already.
    #[error("{0}")]
    Conflict(String),
    #[error("not found")]
    NotFound,
    /// What was read back makes no sense, or a bound of the engine was met.
    #[error("store fault: {0}")]
    Fault(String),
}

pub type StoreResult<T> = Result<T, StoreError>;

/// What to book for one reservation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settlement {
    pub id: ReservationId,
    pub charge: Charge,
    pub event: UsageEvent,
    /// Further events of the same reservation: the items of a batch. Their `requests` are part of the
    /// charge; `event` says what is left of it.
    pub further: Vec<UsageEvent>,
}

impl Settlement {
    /// One reservation, one event.
    pub fn new(id: ReservationId, charge: Charge, event: UsageEvent) -> Settlement {
        Settlement {
            id,
            charge,
            event,
            further: Vec::new(),
        }
    }
}

/// How fresh a record must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Freshness {
    /// It may be some seconds old: for a caller that goes on to `reserve`, which compares versions.
    Checked,
    /// As it is now.
    Now,
}

/// Whether a store can do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Serving,
    /// Its server is away; exchanges are admitted without it, and reconciled on its return.
    Degraded,
    /// Exchanges are refused.
    Away,
}

/// The sums that invariants are checked by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub open_reservations: i64,
    pub held: Amounts,
}

/// What was booked of exchanges that were admitted while the server was away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    pub exchanges: usize,
    /// How far their scopes are over their limits now, all together.
    pub overrun: Amounts,
}

/// Keys, counters, reservations, usage, audit. See the module documentation for cancel safety.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    // ── keys ──────────────────────────────────────────────────────────────────────────────────
    /// The key whose current secret, or rotated secret within its grace period, has this hash.
    /// Softly deleted keys are not found. Cheap where `Checked`: called for every request.
    async fn key_by_hash(
        &self,
        hash: &KeyHash,
        freshness: Freshness,
    ) -> StoreResult<Option<Arc<KeyRecord>>>;
    /// By id, deleted ones too.
    async fn key(&self, id: KeyId) -> StoreResult<Option<Arc<KeyRecord>>>;
    /// Stores a new key and gives it its `seq`. `Conflict` where the id or secret exists.
    async fn create_key(&self, record: KeyRecord, audit: AuditEntry)
    -> StoreResult<Arc<KeyRecord>>;
    /// Replaces the record if its version is still `record.version`, and increments the version.
    /// `Conflict` where it is not, `NotFound` where the key is gone.
    async fn update_key(&self, record: KeyRecord, audit: AuditEntry)
    -> StoreResult<Arc<KeyRecord>>;
    /// Removes the record and its counters for good; usage events and rollups stay.
    async fn delete_key(&self, id: KeyId, audit: AuditEntry) -> StoreResult<()>;
    /// By its number, deleted ones too.
    async fn key_by_seq(&self, seq: i64) -> StoreResult<Option<Arc<KeyRecord>>>;
    async fn list_keys(&self, query: KeyQuery) -> StoreResult<Page<Arc<KeyRecord>>>;
    async fn activity(&self, id: KeyId) -> StoreResult<KeyActivity>;
    /// Counters and activity of many keys at once, in the order of the claims.
    async fn key_figures(&self, claims: Vec<ScopeClaim>) -> StoreResult<Vec<KeyFigures>>;

    // ── users ─────────────────────────────────────────────────────────────────────────────────
    /// `Conflict` where the id, the name or the address is taken, whatever the case of its letters: a
    /// name cannot be another user's address either.
    async fn create_user(
        &self,
        record: UserRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<UserRecord>>;
    async fn user(&self, id: Uuid) -> StoreResult<Option<Arc<UserRecord>>>;
    /// By name or e-mail address, whatever the case of its letters.
    async fn user_by_login(&self, login: &str) -> StoreResult<Option<Arc<UserRecord>>>;
    /// As `update_key`; `Conflict` too where the new name or address is taken.
    async fn update_user(
        &self,
        record: UserRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<UserRecord>>;
    /// Their keys stay, without an owner's eyes on them.
    async fn delete_user(&self, id: Uuid, audit: AuditEntry) -> StoreResult<()>;
    /// In order of creation.
    async fn list_users(&self, skip: i64, limit: i64) -> StoreResult<Page<Arc<UserRecord>>>;
    /// Ends a session before its time. It is remembered until `until`, when it is over anyway.
    async fn end_session(&self, id: Uuid, until: UnixMs) -> StoreResult<()>;
    async fn session_ended(&self, id: Uuid) -> StoreResult<bool>;

    // ── groups ────────────────────────────────────────────────────────────────────────────────
    async fn group(
        &self,
        id: GroupId,
        freshness: Freshness,
    ) -> StoreResult<Option<Arc<GroupRecord>>>;
    /// Creates, or replaces whatever the version.
    async fn put_group(
        &self,
        record: GroupRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<GroupRecord>>;
    async fn delete_group(&self, id: GroupId, audit: AuditEntry) -> StoreResult<()>;
    async fn list_groups(&self) -> StoreResult<Vec<Arc<GroupRecord>>>;

    // ── quota ─────────────────────────────────────────────────────────────────────────────────
    /// Checks and takes every claim of the ask, all or nothing. When it answers `Granted`, the hold
    /// survives a kill -9. Repeated with the same id it answers what it granted first. A group among
    /// the scopes is the one of the key's record; by an older record the answer is `KeyChanged`.
    async fn reserve(&self, ask: Ask) -> StoreResult<Reserved>;
    /// Takes more output tokens for an open reservation under the same rules as `Admission::Strict`:
    /// true where granted. False too where the reservation is no longer open.
    async fn top_up(
        &self,
        id: ReservationId,
        scopes: &[ScopeClaim],
        more: Amounts,
    ) -> StoreResult<bool>;
    /// Extends the leases of those still open to now + `lease_ms`.
    async fn renew(&self, ids: &[ReservationId], lease_ms: i64) -> StoreResult<()>;
    /// Resolves a reservation, once; books the event and the rollup in the same step. Later calls
    /// answer `Already`, or `Late` after an expiry. Returns as soon as the step is decided and sure
    /// to be written; after a crash before that, the hold is still there.
    async fn settle(&self, settlement: Settlement) -> StoreResult<Settled>;
    /// Books a refused request of a known key: error counts and rollups move, `used` and `held` never.
    async fn book_refusal(&self, event: UsageEvent) -> StoreResult<()>;
    /// Resolves reservations whose lease has run out; answers how many. Those of a process that died,
    /// which an opening resolves, are among the first answer.
    async fn sweep(&self) -> StoreResult<usize>;
    /// The counters of a scope under these limits.
    async fn standing(&self, claim: ScopeClaim) -> StoreResult<Standing>;
    /// Sets `used` of all three resources to 0 in the current windows. Held stays.
    async fn reset_used(&self, scope: Scope, audit: AuditEntry) -> StoreResult<()>;
    async fn totals(&self) -> StoreResult<Totals>;

    /// Takes to the server what was admitted without it. Nothing to do for most engines. Cancel safe.
    async fn reconcile(&self) -> StoreResult<Reconciled> {
        Ok(Reconciled::default())
    }

    // ── usage ─────────────────────────────────────────────────────────────────────────────────
    async fn usage_events(&self, query: UsageQuery) -> StoreResult<Page<UsageEvent>>;
    /// Rollups of `since_day..=until_day`, oldest first.
    async fn rollups(
        &self,
        key: Option<KeyId>,
        since_day: &str,
        until_day: &str,
    ) -> StoreResult<Vec<Rollup>>;
    /// Sums, in the order of [`SumBy::sort`]. Whole UTC days come from the rollups, parts of a day at
    /// either end, and end users, from the events.
    async fn usage_sums(&self, query: SumQuery) -> StoreResult<Vec<UsageSum>>;
    /// Output tokens that 95 % of this key's recent answers of this model stayed below; `None` where
    /// fewer than 20 are known. Cheap: from memory.
    fn usual_output(&self, key: KeyId, model: &str) -> Option<i64>;
    /// Deletes usage events older than this; answers how many.
    async fn prune_events(&self, before: UnixMs) -> StoreResult<usize>;

    // ── the rest ──────────────────────────────────────────────────────────────────────────────
    async fn audit(&self, skip: i64, limit: i64) -> StoreResult<Page<AuditEntry>>;
    /// What must hold of the books, checked now. Reads everything: for operators.
    async fn invariants(&self) -> StoreResult<Invariants>;
    /// Sends every record, in the order of [`Record`]. Exchanges may go on meanwhile. Ends early, with
    /// no error, where nobody receives any more.
    async fn export(&self, records: tokio::sync::mpsc::Sender<Record>) -> StoreResult<()>;
    /// Takes in records of a backup, in their order, in as many calls as is handy. What is there
    /// already is replaced by what comes: repeating an import changes nothing twice.
    async fn import(&self, records: Vec<Record>) -> StoreResult<()>;
    /// A named setting that is made once and then shared: answers what is stored, which is `value`
    /// only where nothing was.
    async fn setting_or_insert(&self, name: &str, value: &str) -> StoreResult<String>;
    /// Whether the store answers now.
    async fn ping(&self) -> StoreResult<()>;
    /// Whether exchanges are admitted now. Within the store's own deadline.
    async fn condition(&self) -> Condition {
        match self.ping().await {
            Ok(()) => Condition::Serving,
            Err(_) => Condition::Away,
        }
    }
    /// Writes out what is pending and closes; later calls are `Unavailable`.
    async fn close(&self);
}
