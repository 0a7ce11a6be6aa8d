//! The `Store` trait on the Redis engine: each method names the file that does the work.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc::Sender;
use uuid::Uuid;

use super::{RedisStore, queries, sums, usage_sums};
use crate::keys::{KeyHash, KeyId, KeyRecord};
use crate::quota::{
    Amounts, Ask, GroupId, ReservationId, Reserved, Scope, ScopeClaim, Settled, Standing,
};
use crate::store::{
    AuditEntry, Condition, Freshness, GroupRecord, Invariants, KeyActivity, KeyFigures, KeyQuery,
    Page, Reconciled, Record, Rollup, Settlement, Store, StoreResult, SumQuery, Totals, UsageEvent,
    UsageQuery, UsageSum, UserRecord,
};
use crate::time::UnixMs;

#[async_trait]
impl Store for RedisStore {
    async fn key_by_hash(
        &self,
        hash: &KeyHash,
        freshness: Freshness,
    ) -> StoreResult<Option<Arc<KeyRecord>>> {
        self.directory.key_by_hash(hash, freshness).await
    }

    async fn key(&self, id: KeyId) -> StoreResult<Option<Arc<KeyRecord>>> {
        self.directory.key(id).await
    }

    async fn create_key(
        &self,
        record: KeyRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<KeyRecord>> {
        self.directory.create_key(record, audit).await
    }

    async fn update_key(
        &self,
        record: KeyRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<KeyRecord>> {
        self.directory.update_key(record, audit).await
    }

    async fn delete_key(&self, id: KeyId, audit: AuditEntry) -> StoreResult<()> {
        self.directory.delete_key(id, audit).await
    }

    async fn list_keys(&self, query: KeyQuery) -> StoreResult<Page<Arc<KeyRecord>>> {
        self.directory.list_keys(query).await
    }

    async fn key_by_seq(&self, seq: i64) -> StoreResult<Option<Arc<KeyRecord>>> {
        self.directory.key_by_seq(seq).await
    }

    async fn activity(&self, id: KeyId) -> StoreResult<KeyActivity> {
        self.activity_of(id).await
    }

    async fn key_figures(&self, claims: Vec<ScopeClaim>) -> StoreResult<Vec<KeyFigures>> {
        self.figures_of(&claims).await
    }

    async fn create_user(
        &self,
        record: UserRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<UserRecord>> {
        self.directory.create_user(record, audit).await
    }

    async fn user(&self, id: Uuid) -> StoreResult<Option<Arc<UserRecord>>> {
        self.directory.user(id).await
    }

    async fn user_by_login(&self, login: &str) -> StoreResult<Option<Arc<UserRecord>>> {
        self.directory.user_by_login(login).await
    }

    async fn update_user(
        &self,
        record: UserRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<UserRecord>> {
        self.directory.update_user(record, audit).await
    }

    async fn delete_user(&self, id: Uuid, audit: AuditEntry) -> StoreResult<()> {
        self.directory.delete_user(id, audit).await
    }

    async fn list_users(&self, skip: i64, limit: i64) -> StoreResult<Page<Arc<UserRecord>>> {
        self.directory.list_users(skip, limit).await
    }

    async fn end_session(&self, id: Uuid, until: UnixMs) -> StoreResult<()> {
        self.note_ended(id, until).await
    }

    async fn session_ended(&self, id: Uuid) -> StoreResult<bool> {
        self.has_ended(id).await
    }

    async fn group(
        &self,
        id: GroupId,
        freshness: Freshness,
    ) -> StoreResult<Option<Arc<GroupRecord>>> {
        self.directory.group(id, freshness).await
    }

    async fn put_group(
        &self,
        record: GroupRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<GroupRecord>> {
        self.directory.put_group(record, audit).await
    }

    async fn delete_group(&self, id: GroupId, audit: AuditEntry) -> StoreResult<()> {
        self.directory.delete_group(id, audit).await
    }

    async fn list_groups(&self) -> StoreResult<Vec<Arc<GroupRecord>>> {
        self.directory.list_groups().await
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
        self.extend(ids, lease_ms).await
    }

    async fn settle(&self, settlement: Settlement) -> StoreResult<Settled> {
        self.resolve(settlement).await
    }

    async fn book_refusal(&self, event: UsageEvent) -> StoreResult<()> {
        self.refuse(event).await
    }

    async fn sweep(&self) -> StoreResult<usize> {
        self.sweep_leases().await
    }

    async fn reconcile(&self) -> StoreResult<Reconciled> {
        let lost = self.book_lost().await?;
        let mut done = match self.journal() {
            Some(journal) => self.take_home(&journal).await?,
            None => Reconciled::default(),
        };
        done.exchanges += lost;
        Ok(done)
    }

    async fn standing(&self, claim: ScopeClaim) -> StoreResult<Standing> {
        self.standing_now(&claim).await
    }

    async fn reset_used(&self, scope: Scope, audit: AuditEntry) -> StoreResult<()> {
        self.reset(scope, audit).await
    }

    async fn totals(&self) -> StoreResult<Totals> {
        queries::totals(&self.link).await
    }

    async fn usage_events(&self, query: UsageQuery) -> StoreResult<Page<UsageEvent>> {
        queries::usage_events(&self.link, &self.directory, &query).await
    }

    async fn rollups(
        &self,
        key: Option<KeyId>,
        since_day: &str,
        until_day: &str,
    ) -> StoreResult<Vec<Rollup>> {
        sums::rollups(&self.link, &self.directory, key, since_day, until_day).await
    }

    async fn usage_sums(&self, query: SumQuery) -> StoreResult<Vec<UsageSum>> {
        usage_sums::usage_sums(&self.link, &self.directory, &query).await
    }

    fn usual_output(&self, key: KeyId, model: &str) -> Option<i64> {
        self.usual.lock().p95(key, model)
    }

    async fn prune_events(&self, before: UnixMs) -> StoreResult<usize> {
        queries::prune_events(&self.link, before).await
    }

    async fn audit(&self, skip: i64, limit: i64) -> StoreResult<Page<AuditEntry>> {
        self.directory.audit(skip, limit).await
    }

    async fn invariants(&self) -> StoreResult<Invariants> {
        self.inspect_books().await
    }

    async fn export(&self, records: Sender<Record>) -> StoreResult<()> {
        self.back_up(records).await
    }

    async fn import(&self, records: Vec<Record>) -> StoreResult<()> {
        self.restore(&records).await
    }

    async fn setting_or_insert(&self, name: &str, value: &str) -> StoreResult<String> {
        self.directory.setting_or_insert(name, value).await
    }

    async fn ping(&self) -> StoreResult<()> {
        self.link.ping().await
    }

    async fn condition(&self) -> Condition {
        match self.ping().await {
            Ok(()) => Condition::Serving,
            Err(_) if self.journal().is_some() => Condition::Degraded,
            Err(_) => Condition::Away,
        }
    }

    async fn close(&self) {
        if let Some(slices) = &self.slices {
            slices.close().await;
        }
        self.link.close();
    }
}
