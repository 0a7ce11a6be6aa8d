//! The `Store` trait on books that may be here or there.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc::Sender;
use uuid::Uuid;

use super::whole::{self, whole};
use super::{MovableStore, Place};
use crate::keys::{KeyHash, KeyId, KeyRecord};
use crate::quota::{
    Amounts, Ask, GroupId, ReservationId, Reserved, Scope, ScopeClaim, Settled, Standing,
};
use crate::store::{
    AuditEntry, Freshness, GroupRecord, Invariants, KeyActivity, KeyFigures, KeyQuery, Page,
    Record, Rollup, Settlement, Store, StoreError, StoreResult, SumQuery, Totals, UsageEvent,
    UsageQuery, UsageSum, UserRecord,
};
use crate::time::UnixMs;

/// One short step. The books are not handed out while it runs. `as` says what goes to another process
/// in place of the arguments, `=>` what makes an answer of what comes back.
macro_rules! step {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        step!($self.$method($($argument),*) as ($(&$argument,)*) => std::convert::identity)
    };
    ($self:ident.$method:ident($($argument:expr),*) => $read:path) => {
        step!($self.$method($($argument),*) as ($(&$argument,)*) => $read)
    };
    ($self:ident.$method:ident($($argument:expr),*) as $sent:expr => $read:path) => {
        match &*$self.place.read().await {
            Place::Here(store) => store.$method($($argument),*).await,
            Place::There(remote) => $read(remote.ask(stringify!($method), $sent).await),
        }
    };
}

/// A query that may take long: the books may be handed out meanwhile, it goes on all the same.
macro_rules! query {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match $self.place().await {
            Place::Here(store) => store.$method($($argument),*).await,
            Place::There(remote) => remote.ask(stringify!($method), ($(&$argument,)*)).await,
        }
    };
}

/// Work on all records, which is not begun while a process ends.
macro_rules! only_here {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match $self.place().await {
            Place::Here(store) => store.$method($($argument),*).await,
            Place::There(_) => Err(StoreError::Unavailable(String::from(
                "a new process has the books now: ask again, over a new connection",
            ))),
        }
    };
}

#[async_trait]
impl Store for MovableStore {
    async fn key_by_hash(
        &self,
        hash: &KeyHash,
        freshness: Freshness,
    ) -> StoreResult<Option<Arc<KeyRecord>>> {
        step!(self.key_by_hash(hash, freshness) as (hash.to_hex(), freshness) => whole::perhaps)
    }

    async fn key(&self, id: KeyId) -> StoreResult<Option<Arc<KeyRecord>>> {
        step!(self.key(id) => whole::perhaps)
    }

    async fn create_key(
        &self,
        record: KeyRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<KeyRecord>> {
        step!(self.create_key(record, audit) as (whole(record), audit) => whole::one)
    }

    async fn update_key(
        &self,
        record: KeyRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<KeyRecord>> {
        step!(self.update_key(record, audit) as (whole(record), audit) => whole::one)
    }

    async fn delete_key(&self, id: KeyId, audit: AuditEntry) -> StoreResult<()> {
        step!(self.delete_key(id, audit))
    }

    async fn key_by_seq(&self, seq: i64) -> StoreResult<Option<Arc<KeyRecord>>> {
        step!(self.key_by_seq(seq) => whole::perhaps)
    }

    async fn list_keys(&self, query: KeyQuery) -> StoreResult<Page<Arc<KeyRecord>>> {
        step!(self.list_keys(query) => whole::page)
    }

    async fn activity(&self, id: KeyId) -> StoreResult<KeyActivity> {
        step!(self.activity(id))
    }

    async fn key_figures(&self, claims: Vec<ScopeClaim>) -> StoreResult<Vec<KeyFigures>> {
        step!(self.key_figures(claims))
    }

    async fn create_user(
        &self,
        record: UserRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<UserRecord>> {
        step!(self.create_user(record, audit) as (whole(record), audit) => whole::one)
    }

    async fn user(&self, id: Uuid) -> StoreResult<Option<Arc<UserRecord>>> {
        step!(self.user(id) => whole::perhaps)
    }

    async fn user_by_login(&self, login: &str) -> StoreResult<Option<Arc<UserRecord>>> {
        step!(self.user_by_login(login) => whole::perhaps)
    }

    async fn update_user(
        &self,
        record: UserRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<UserRecord>> {
        step!(self.update_user(record, audit) as (whole(record), audit) => whole::one)
    }

    async fn delete_user(&self, id: Uuid, audit: AuditEntry) -> StoreResult<()> {
        step!(self.delete_user(id, audit))
    }

    async fn list_users(&self, skip: i64, limit: i64) -> StoreResult<Page<Arc<UserRecord>>> {
        step!(self.list_users(skip, limit) => whole::page)
    }

    async fn end_session(&self, id: Uuid, until: UnixMs) -> StoreResult<()> {
        step!(self.end_session(id, until))
    }

    async fn session_ended(&self, id: Uuid) -> StoreResult<bool> {
        step!(self.session_ended(id))
    }

    async fn group(
        &self,
        id: GroupId,
        freshness: Freshness,
    ) -> StoreResult<Option<Arc<GroupRecord>>> {
        step!(self.group(id, freshness))
    }

    async fn put_group(
        &self,
        record: GroupRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<GroupRecord>> {
        step!(self.put_group(record, audit))
    }

    async fn delete_group(&self, id: GroupId, audit: AuditEntry) -> StoreResult<()> {
        step!(self.delete_group(id, audit))
    }

    async fn list_groups(&self) -> StoreResult<Vec<Arc<GroupRecord>>> {
        step!(self.list_groups())
    }

    async fn reserve(&self, ask: Ask) -> StoreResult<Reserved> {
        step!(self.reserve(ask))
    }

    async fn top_up(
        &self,
        id: ReservationId,
        scopes: &[ScopeClaim],
        more: Amounts,
    ) -> StoreResult<bool> {
        step!(self.top_up(id, scopes, more))
    }

    async fn renew(&self, ids: &[ReservationId], lease_ms: i64) -> StoreResult<()> {
        step!(self.renew(ids, lease_ms))
    }

    async fn settle(&self, settlement: Settlement) -> StoreResult<Settled> {
        step!(self.settle(settlement))
    }

    async fn book_refusal(&self, event: UsageEvent) -> StoreResult<()> {
        step!(self.book_refusal(event))
    }

    /// The process that has the books sweeps them.
    async fn sweep(&self) -> StoreResult<usize> {
        match &*self.place.read().await {
            Place::Here(store) => store.sweep().await,
            Place::There(_) => Ok(0),
        }
    }

    async fn standing(&self, claim: ScopeClaim) -> StoreResult<Standing> {
        step!(self.standing(claim))
    }

    async fn reset_used(&self, scope: Scope, audit: AuditEntry) -> StoreResult<()> {
        step!(self.reset_used(scope, audit))
    }

    async fn totals(&self) -> StoreResult<Totals> {
        step!(self.totals())
    }

    async fn usage_events(&self, query: UsageQuery) -> StoreResult<Page<UsageEvent>> {
        query!(self.usage_events(query))
    }

    async fn rollups(
        &self,
        key: Option<KeyId>,
        since_day: &str,
        until_day: &str,
    ) -> StoreResult<Vec<Rollup>> {
        query!(self.rollups(key, since_day, until_day))
    }

    async fn usage_sums(&self, query: SumQuery) -> StoreResult<Vec<UsageSum>> {
        query!(self.usage_sums(query))
    }

    /// Unknown while the books are on their way, and when they are there.
    fn usual_output(&self, key: KeyId, model: &str) -> Option<i64> {
        match &*self.place.try_read().ok()? {
            Place::Here(store) => store.usual_output(key, model),
            Place::There(_) => None,
        }
    }

    async fn prune_events(&self, before: UnixMs) -> StoreResult<usize> {
        match self.place().await {
            Place::Here(store) => store.prune_events(before).await,
            Place::There(_) => Ok(0),
        }
    }

    async fn audit(&self, skip: i64, limit: i64) -> StoreResult<Page<AuditEntry>> {
        query!(self.audit(skip, limit))
    }

    async fn invariants(&self) -> StoreResult<Invariants> {
        query!(self.invariants())
    }

    async fn export(&self, records: Sender<Record>) -> StoreResult<()> {
        only_here!(self.export(records))
    }

    async fn import(&self, records: Vec<Record>) -> StoreResult<()> {
        only_here!(self.import(records))
    }

    async fn setting_or_insert(&self, name: &str, value: &str) -> StoreResult<String> {
        step!(self.setting_or_insert(name, value))
    }

    async fn ping(&self) -> StoreResult<()> {
        step!(self.ping())
    }

    /// Books that are there are that process's to close.
    async fn close(&self) {
        if let Place::Here(store) = self.place().await {
            store.close().await;
        }
    }
}
