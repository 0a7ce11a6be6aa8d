//! The `Store` trait on the embedded engine: each method names the file that does the work.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc::Sender;
use uuid::Uuid;

use super::{EmbeddedStore, changes, queries, sums, users};
use crate::keys::{KeyHash, KeyId, KeyRecord};
use crate::quota::{
    Amounts, Ask, GroupId, ReservationId, Reserved, Scope, ScopeClaim, Settled, Standing,
};
use crate::store::{
    AuditEntry, Freshness, GroupRecord, Invariants, KeyActivity, KeyFigures, KeyQuery, Page,
    Record, Rollup, Settlement, Store, StoreResult, SumQuery, Totals, UsageEvent, UsageQuery,
    UsageSum, UserRecord,
};
use crate::time::UnixMs;

#[async_trait]
impl Store for EmbeddedStore {
    async fn key_by_hash(
        &self,
        hash: &KeyHash,
        _: Freshness,
    ) -> StoreResult<Option<Arc<KeyRecord>>> {
        let now = self.shared.now().wall;
        Ok(self.shared.directory.read().key_by_hash(hash, now).cloned())
    }

    async fn key(&self, id: KeyId) -> StoreResult<Option<Arc<KeyRecord>>> {
        Ok(self.shared.directory.read().key(id).cloned())
    }

    async fn create_key(
        &self,
        record: KeyRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<KeyRecord>> {
        let job = move |connection: &mut _, shared: &_| {
            changes::create_key(connection, shared, record, &audit)
        };
        self.shared.on_writer(job).await
    }

    async fn update_key(
        &self,
        record: KeyRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<KeyRecord>> {
        let job = move |connection: &mut _, shared: &_| {
            changes::update_key(connection, shared, record, &audit)
        };
        self.shared.on_writer(job).await
    }

    async fn delete_key(&self, id: KeyId, audit: AuditEntry) -> StoreResult<()> {
        let job = move |connection: &mut _, shared: &_| {
            changes::delete_key(connection, shared, id, &audit)
        };
        self.shared.on_writer(job).await
    }

    async fn key_by_seq(&self, seq: i64) -> StoreResult<Option<Arc<KeyRecord>>> {
        Ok(self.shared.directory.read().key_by_seq(seq).cloned())
    }

    async fn list_keys(&self, query: KeyQuery) -> StoreResult<Page<Arc<KeyRecord>>> {
        let directory = self.shared.directory.read();
        Ok(directory.list_keys(query))
    }

    async fn activity(&self, id: KeyId) -> StoreResult<KeyActivity> {
        let state = self.shared.state.lock();
        Ok(state.activity.get(&id).copied().unwrap_or_default())
    }

    async fn key_figures(&self, claims: Vec<ScopeClaim>) -> StoreResult<Vec<KeyFigures>> {
        self.figures(&claims)
    }

    async fn create_user(
        &self,
        record: UserRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<UserRecord>> {
        let job =
            move |connection: &mut _, shared: &_| users::create(connection, shared, record, &audit);
        self.shared.on_writer(job).await
    }

    async fn user(&self, id: Uuid) -> StoreResult<Option<Arc<UserRecord>>> {
        Ok(self.shared.directory.read().people.user(id).cloned())
    }

    async fn user_by_login(&self, login: &str) -> StoreResult<Option<Arc<UserRecord>>> {
        let directory = self.shared.directory.read();
        Ok(directory.people.user_by_login(login).cloned())
    }

    async fn update_user(
        &self,
        record: UserRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<UserRecord>> {
        let job =
            move |connection: &mut _, shared: &_| users::update(connection, shared, record, &audit);
        self.shared.on_writer(job).await
    }

    async fn delete_user(&self, id: Uuid, audit: AuditEntry) -> StoreResult<()> {
        let job =
            move |connection: &mut _, shared: &_| users::delete(connection, shared, id, &audit);
        self.shared.on_writer(job).await
    }

    async fn list_users(&self, skip: i64, limit: i64) -> StoreResult<Page<Arc<UserRecord>>> {
        Ok(self.shared.directory.read().people.page(skip, limit))
    }

    async fn end_session(&self, id: Uuid, until: UnixMs) -> StoreResult<()> {
        let job =
            move |connection: &mut _, shared: &_| users::end_session(connection, shared, id, until);
        self.shared.on_writer(job).await
    }

    async fn session_ended(&self, id: Uuid) -> StoreResult<bool> {
        Ok(self.shared.directory.read().people.session_ended(id))
    }

    async fn group(&self, id: GroupId, _: Freshness) -> StoreResult<Option<Arc<GroupRecord>>> {
        Ok(self.shared.directory.read().group(id).cloned())
    }

    async fn put_group(
        &self,
        record: GroupRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<GroupRecord>> {
        let job = move |connection: &mut _, shared: &_| {
            changes::put_group(connection, shared, record, &audit)
        };
        self.shared.on_writer(job).await
    }

    async fn delete_group(&self, id: GroupId, audit: AuditEntry) -> StoreResult<()> {
        let job = move |connection: &mut _, shared: &_| {
            changes::delete_group(connection, shared, id, &audit)
        };
        self.shared.on_writer(job).await
    }

    async fn list_groups(&self) -> StoreResult<Vec<Arc<GroupRecord>>> {
        Ok(self.shared.directory.read().list_groups())
    }

    async fn reserve(&self, ask: Ask) -> StoreResult<Reserved> {
        self.take_reservation(ask).await
    }

    async fn top_up(
        &self,
        id: ReservationId,
        scopes: &[ScopeClaim],
        more: Amounts,
    ) -> StoreResult<bool> {
        self.take_more(id, scopes, more).await
    }

    async fn renew(&self, ids: &[ReservationId], lease_ms: i64) -> StoreResult<()> {
        let mut state = self.shared.state.lock();
        state.check_open()?;
        state.ledger.renew(ids, lease_ms, self.shared.now());
        Ok(())
    }

    async fn settle(&self, settlement: Settlement) -> StoreResult<Settled> {
        self.resolve(settlement)
    }

    async fn book_refusal(&self, event: UsageEvent) -> StoreResult<()> {
        self.refuse(event)
    }

    async fn sweep(&self) -> StoreResult<usize> {
        self.sweep_leases()
    }

    async fn standing(&self, claim: ScopeClaim) -> StoreResult<Standing> {
        self.standing_now(&claim)
    }

    async fn reset_used(&self, scope: Scope, audit: AuditEntry) -> StoreResult<()> {
        self.reset(scope, audit).await
    }

    async fn totals(&self) -> StoreResult<Totals> {
        self.sum()
    }

    async fn usage_events(&self, query: UsageQuery) -> StoreResult<Page<UsageEvent>> {
        self.written().await;
        let query = move |connection: &mut _| queries::usage_events(connection, &query);
        self.readers.query(query).await
    }

    async fn rollups(
        &self,
        key: Option<KeyId>,
        since_day: &str,
        until_day: &str,
    ) -> StoreResult<Vec<Rollup>> {
        self.written().await;
        let (since, until) = (since_day.to_owned(), until_day.to_owned());
        let query = move |connection: &mut _| queries::rollups(connection, key, &since, &until);
        self.readers.query(query).await
    }

    async fn usage_sums(&self, query: SumQuery) -> StoreResult<Vec<UsageSum>> {
        self.written().await;
        let query = move |connection: &mut _| sums::usage_sums(connection, &query);
        self.readers.query(query).await
    }

    fn usual_output(&self, key: KeyId, model: &str) -> Option<i64> {
        self.usual(key, model)
    }

    async fn prune_events(&self, before: UnixMs) -> StoreResult<usize> {
        let mut pruned = 0;
        loop {
            let job = move |connection: &mut _, _: &_| queries::prune_slice(connection, before);
            let slice = self.shared.on_writer(job).await?;
            if slice == 0 {
                return Ok(pruned);
            }
            pruned += slice;
        }
    }

    async fn audit(&self, skip: i64, limit: i64) -> StoreResult<Page<AuditEntry>> {
        let query = move |connection: &mut _| queries::audit(connection, skip, limit);
        self.readers.query(query).await
    }

    async fn invariants(&self) -> StoreResult<Invariants> {
        self.inspect().await
    }

    async fn export(&self, records: Sender<Record>) -> StoreResult<()> {
        self.back_up(records).await
    }

    async fn import(&self, records: Vec<Record>) -> StoreResult<()> {
        self.restore(records).await
    }

    async fn setting_or_insert(&self, name: &str, value: &str) -> StoreResult<String> {
        let (name, value) = (name.to_owned(), value.to_owned());
        let job =
            move |connection: &mut _, _: &_| changes::setting_or_insert(connection, &name, &value);
        self.shared.on_writer(job).await
    }

    async fn ping(&self) -> StoreResult<()> {
        self.shared.flush().await
    }

    async fn close(&self) {
        drop(self.shared.flush().await);
        self.shut();
    }
}
