//! WHERE STATE LIVES: one trait, its contract, and the records every engine keeps.
//!
//! A store is shared by every exchange of a process. All methods are cancel safe in this sense: a
//! step whose future is dropped has either happened whole or not at all, and repeating it by the
//! same id changes nothing twice.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::keys::{KeyHash, KeyId, KeyRecord};
use crate::quota::{
    Amounts, Ask, Charge, GroupId, Quotas, ReservationId, Reserved, Scope, ScopeClaim, Settled,
    Standing,
};
use crate::time::UnixMs;

pub use crate::quota::LostReservation;

#[cfg(test)]
mod contract;
pub mod embedded;
mod event;
mod file;
pub mod redis;
pub mod usage_log;
mod usual;

/// A step that could not be carried out. Nothing of it has happened, unless the message says so.
#[derive(Debug, Clone, thiserror::Error)]
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

/// A group of keys with quotas of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    pub id: GroupId,
    pub name: String,
    pub quotas: Quotas,
    /// Empty: all.
    pub allowed_pools: Vec<String>,
    pub allowed_models: Vec<String>,
    pub version: i64,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
}

/// One request and its answer, as the books keep it. `total_tokens` and `total_cost` are exactly what
/// was charged to the token and USD counters (invariant I5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsageEvent {
    pub id: Uuid,
    pub api_key_id: KeyId,
    pub request_id: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub request_method: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub request_path: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub request_size: i64,
    /// 0 where no answer was begun.
    #[serde(default, skip_serializing_if = "is_default")]
    pub response_status: u16,
    #[serde(default, skip_serializing_if = "is_default")]
    pub response_size: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub response_time_ms: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub first_byte_ms: Option<i64>,
    /// Requests charged to the request counter: 1, or 0 where it was void or refused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub requests: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub prompt_tokens: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub completion_tokens: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub cached_tokens: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub cache_write_tokens: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub reasoning_tokens: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub total_tokens: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub pool: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub peer: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_error: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub error_code: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub error_message: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub total_error_message: Option<String>,
    /// Nano-USD.
    #[serde(default, skip_serializing_if = "is_default")]
    pub total_cost_nano: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub estimated: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub end_user: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub client_disconnected: bool,
    /// Why the figures are what they are, where that is not plain: `capped`, `lease_expired`, `late` …
    #[serde(default, skip_serializing_if = "is_default")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub metadata: Option<Value>,
    pub created_at: UnixMs,
}

/// Left out where an event is written: most fields of most events say nothing.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What to book for one reservation.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub id: ReservationId,
    pub charge: Charge,
    pub event: UsageEvent,
}

/// What lives beside a key record and moves with traffic: requests charged, failed answers and
/// refusals, and when something was charged last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeyActivity {
    pub request_count: i64,
    pub error_count: i64,
    pub last_used_at: Option<UnixMs>,
}

/// How fresh a record must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// A page of a listing.
#[derive(Clone, Debug, Serialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub total: i64,
}

/// Which usage events to read, newest first.
#[derive(Clone, Debug, Default)]
pub struct UsageQuery {
    pub key: Option<KeyId>,
    pub since: Option<UnixMs>,
    /// Exclusive.
    pub until: Option<UnixMs>,
    pub skip: i64,
    pub limit: i64,
}

/// One day of one key and model. Kept for good. `requests`, `tokens` and `cost_nano` are what was
/// charged; `errors` counts failed answers and refusals, charged or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rollup {
    /// `2026-11-21`, UTC.
    pub day: String,
    pub key: KeyId,
    /// Empty where no model was named.
    pub model: String,
    pub requests: i64,
    pub tokens: i64,
    pub prompt_tokens: i64,
    pub completion_tokens: i64,
    pub cost_nano: i64,
    pub errors: i64,
    pub response_time_ms: i64,
}

/// One change an operator made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    pub at: UnixMs,
    pub who: String,
    pub what: String,
    /// The id of what was changed.
    pub subject: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// The sums that invariants are checked by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// In order of creation, softly deleted ones left out.
    async fn list_keys(
        &self,
        skip: i64,
        limit: i64,
        active_only: bool,
    ) -> StoreResult<Page<Arc<KeyRecord>>>;
    async fn activity(&self, id: KeyId) -> StoreResult<KeyActivity>;

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
    /// Resolves reservations whose lease has run out; answers how many.
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
    /// Refusals and failed answers per error code, of `since_day..=until_day`.
    async fn error_counts(
        &self,
        key: Option<KeyId>,
        since_day: &str,
        until_day: &str,
    ) -> StoreResult<Vec<(String, i64)>>;
    /// Output tokens that 95 % of this key's recent answers of this model stayed below; `None` where
    /// fewer than 20 are known. Cheap: from memory.
    fn usual_output(&self, key: KeyId, model: &str) -> Option<i64>;
    /// Deletes usage events older than this; answers how many.
    async fn prune_events(&self, before: UnixMs) -> StoreResult<usize>;

    // ── the rest ──────────────────────────────────────────────────────────────────────────────
    async fn audit(&self, skip: i64, limit: i64) -> StoreResult<Page<AuditEntry>>;
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
