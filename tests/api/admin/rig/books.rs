//! The embedded store in a folder of its own, which can be made to fail and to race.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use quota_proxy::keys::{KeyHash, KeyId, KeyRecord};
use quota_proxy::quota::{
    Admission, Amounts, Ask, Charge, GroupId, Rates, ReservationId, Reserved, Scope, ScopeClaim,
    Settled, Standing, Subject,
};
use quota_proxy::store::embedded::{EmbeddedOptions, EmbeddedStore};
use quota_proxy::store::{
    AuditEntry, Freshness, GroupRecord, Invariants, KeyActivity, KeyFigures, KeyQuery, Page,
    Record, Rollup, Settlement, Store, StoreError, StoreResult, SumQuery, Totals, UsageEvent,
    UsageQuery, UsageSum, UserRecord,
};
use quota_proxy::time::{Moment, UnixMs};
use uuid::Uuid;

#[derive(Default)]
struct Mishaps {
    failing: Option<StoreError>,
    /// Updates that another change comes before.
    races: usize,
    /// Keys that can still be made; `None` is any number.
    room: Option<usize>,
}

pub struct Books {
    store: Arc<EmbeddedStore>,
    mishaps: Mutex<Mishaps>,
    _folder: tempfile::TempDir,
}

impl Books {
    pub fn open(clock: Arc<dyn Fn() -> UnixMs + Send + Sync>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions {
            clock: Arc::new(move || Moment::at(clock().0)),
            ..EmbeddedOptions::default()
        };
        Books {
            store: EmbeddedStore::open(&folder.path().join("q.db"), options).unwrap(),
            mishaps: Mutex::default(),
            _folder: folder,
        }
    }

    /// Every step fails so from now on, until `None`.
    pub fn fail(&self, error: Option<StoreError>) {
        self.mishaps.lock().failing = error;
    }

    pub fn race(&self, times: usize) {
        self.mishaps.lock().races = times;
    }

    /// So many keys can be made from now on, and no more.
    pub fn room_for(&self, keys: usize) {
        self.mishaps.lock().room = Some(keys);
    }

    fn here(&self) -> StoreResult<&EmbeddedStore> {
        self.mishaps
            .lock()
            .failing
            .clone()
            .map_or(Ok(&*self.store), Err)
    }

    /// Newest first.
    pub async fn audit_entries(&self) -> Vec<AuditEntry> {
        self.store.audit(0, 1_000).await.unwrap().items
    }

    /// Reserves one request of a key, and leaves it open.
    pub async fn hold(&self, id: KeyId, tokens: i64) -> ReservationId {
        let key = self.store.key(id).await.unwrap().unwrap();
        let reservation = ReservationId(Uuid::new_v4());
        let ask = Ask {
            id: reservation,
            key_version: key.version,
            group_version: None,
            scopes: vec![ScopeClaim {
                scope: Scope::Key(id),
                quotas: key.quotas,
                rates: Rates::default(),
            }],
            admission: Admission::Open,
            requests: 1,
            input_tokens: tokens,
            output_tokens: 0,
            least_output_tokens: 1,
            fixed_nano_usd: 0,
            output_nano_per_million: 0,
            rate_limited: true,
            lease_ms: 60_000,
            subject: Arc::new(Subject {
                key: id,
                request_id: String::from("r"),
                method: String::from("POST"),
                path: String::from("/v1/chat/completions"),
                model: Some(String::from("gpt-4o")),
                pool: None,
                end_user: None,
                input_tokens: tokens,
            }),
        };
        let reserved = self.store.reserve(ask).await.unwrap();
        assert!(matches!(reserved, Reserved::Granted(_)), "{reserved:?}");
        reservation
    }

    /// Books one request of a key, its event dated `at`.
    pub async fn book(&self, key: KeyId, tokens: i64, nano_usd: i64, at: UnixMs) {
        let id = self.hold(key, 1).await;
        let charge = Charge::Exact(Amounts {
            requests: 1,
            tokens,
            nano_usd,
        });
        let event = event(id, key, tokens, nano_usd, at);
        let settlement = Settlement {
            id,
            charge,
            event,
            further: Vec::new(),
        };
        let settled = self.store.settle(settlement).await.unwrap();
        assert!(matches!(settled, Settled::Applied { .. }), "{settled:?}");
    }
}

fn event(
    id: ReservationId,
    key: KeyId,
    tokens: i64,
    nano_usd: i64,
    created_at: UnixMs,
) -> UsageEvent {
    UsageEvent {
        id: id.0,
        api_key_id: key,
        request_id: String::from("r"),
        request_method: String::from("POST"),
        request_path: String::from("/v1/chat/completions"),
        request_size: 10,
        response_status: 200,
        response_size: 20,
        response_time_ms: 30,
        first_byte_ms: Some(5),
        requests: 1,
        requests_remaining: None,
        prompt_tokens: tokens,
        completion_tokens: 0,
        cached_tokens: 0,
        cache_write_tokens: 0,
        reasoning_tokens: 0,
        total_tokens: tokens,
        model: Some(String::from("gpt-4o")),
        pool: None,
        peer: None,
        is_error: false,
        error_code: None,
        error_message: None,
        total_error_message: None,
        total_cost_nano: nano_usd,
        estimated: false,
        end_user: None,
        client_disconnected: false,
        reason: None,
        metadata: None,
        created_at,
    }
}

#[async_trait]
impl Store for Books {
    async fn key_by_hash(
        &self,
        hash: &KeyHash,
        freshness: Freshness,
    ) -> StoreResult<Option<Arc<KeyRecord>>> {
        self.here()?.key_by_hash(hash, freshness).await
    }

    async fn key(&self, id: KeyId) -> StoreResult<Option<Arc<KeyRecord>>> {
        self.here()?.key(id).await
    }

    async fn create_key(&self, key: KeyRecord, audit: AuditEntry) -> StoreResult<Arc<KeyRecord>> {
        let store = self.here()?;
        match &mut self.mishaps.lock().room {
            Some(0) => return Err(StoreError::Unavailable(String::from("full"))),
            Some(room) => *room -= 1,
            None => {}
        }
        store.create_key(key, audit).await
    }

    async fn update_key(&self, key: KeyRecord, audit: AuditEntry) -> StoreResult<Arc<KeyRecord>> {
        let store = self.here()?;
        let raced = {
            let mut mishaps = self.mishaps.lock();
            let raced = mishaps.races > 0;
            mishaps.races = mishaps.races.saturating_sub(1);
            raced
        };
        if raced {
            let other = (*store.key(key.id).await?.unwrap()).clone();
            store.update_key(other, audit.clone()).await?;
        }
        store.update_key(key, audit).await
    }

    async fn delete_key(&self, id: KeyId, audit: AuditEntry) -> StoreResult<()> {
        self.here()?.delete_key(id, audit).await
    }

    async fn key_by_seq(&self, seq: i64) -> StoreResult<Option<Arc<KeyRecord>>> {
        self.here()?.key_by_seq(seq).await
    }

    async fn list_keys(&self, query: KeyQuery) -> StoreResult<Page<Arc<KeyRecord>>> {
        self.here()?.list_keys(query).await
    }

    async fn activity(&self, id: KeyId) -> StoreResult<KeyActivity> {
        self.here()?.activity(id).await
    }

    async fn key_figures(&self, claims: Vec<ScopeClaim>) -> StoreResult<Vec<KeyFigures>> {
        self.here()?.key_figures(claims).await
    }

    async fn create_user(
        &self,
        user: UserRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<UserRecord>> {
        self.here()?.create_user(user, audit).await
    }

    async fn user(&self, id: Uuid) -> StoreResult<Option<Arc<UserRecord>>> {
        self.here()?.user(id).await
    }

    async fn user_by_login(&self, login: &str) -> StoreResult<Option<Arc<UserRecord>>> {
        self.here()?.user_by_login(login).await
    }

    async fn update_user(
        &self,
        user: UserRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<UserRecord>> {
        self.here()?.update_user(user, audit).await
    }

    async fn delete_user(&self, id: Uuid, audit: AuditEntry) -> StoreResult<()> {
        self.here()?.delete_user(id, audit).await
    }

    async fn list_users(&self, skip: i64, limit: i64) -> StoreResult<Page<Arc<UserRecord>>> {
        self.here()?.list_users(skip, limit).await
    }

    async fn end_session(&self, id: Uuid, until: UnixMs) -> StoreResult<()> {
        self.here()?.end_session(id, until).await
    }

    async fn session_ended(&self, id: Uuid) -> StoreResult<bool> {
        self.here()?.session_ended(id).await
    }

    async fn group(
        &self,
        id: GroupId,
        freshness: Freshness,
    ) -> StoreResult<Option<Arc<GroupRecord>>> {
        self.here()?.group(id, freshness).await
    }

    async fn put_group(
        &self,
        group: GroupRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<GroupRecord>> {
        self.here()?.put_group(group, audit).await
    }

    async fn delete_group(&self, id: GroupId, audit: AuditEntry) -> StoreResult<()> {
        self.here()?.delete_group(id, audit).await
    }

    async fn list_groups(&self) -> StoreResult<Vec<Arc<GroupRecord>>> {
        self.here()?.list_groups().await
    }

    async fn reserve(&self, ask: Ask) -> StoreResult<Reserved> {
        self.here()?.reserve(ask).await
    }

    async fn top_up(
        &self,
        id: ReservationId,
        scopes: &[ScopeClaim],
        more: Amounts,
    ) -> StoreResult<bool> {
        self.here()?.top_up(id, scopes, more).await
    }

    async fn renew(&self, ids: &[ReservationId], lease_ms: i64) -> StoreResult<()> {
        self.here()?.renew(ids, lease_ms).await
    }

    async fn settle(&self, settlement: Settlement) -> StoreResult<Settled> {
        self.here()?.settle(settlement).await
    }

    async fn book_refusal(&self, event: UsageEvent) -> StoreResult<()> {
        self.here()?.book_refusal(event).await
    }

    async fn sweep(&self) -> StoreResult<usize> {
        self.here()?.sweep().await
    }

    async fn standing(&self, claim: ScopeClaim) -> StoreResult<Standing> {
        self.here()?.standing(claim).await
    }

    async fn reset_used(&self, scope: Scope, audit: AuditEntry) -> StoreResult<()> {
        self.here()?.reset_used(scope, audit).await
    }

    async fn totals(&self) -> StoreResult<Totals> {
        self.here()?.totals().await
    }

    async fn usage_events(&self, query: UsageQuery) -> StoreResult<Page<UsageEvent>> {
        self.here()?.usage_events(query).await
    }

    async fn rollups(
        &self,
        key: Option<KeyId>,
        since_day: &str,
        until_day: &str,
    ) -> StoreResult<Vec<Rollup>> {
        self.here()?.rollups(key, since_day, until_day).await
    }

    async fn usage_sums(&self, query: SumQuery) -> StoreResult<Vec<UsageSum>> {
        self.here()?.usage_sums(query).await
    }

    fn usual_output(&self, key: KeyId, model: &str) -> Option<i64> {
        self.store.usual_output(key, model)
    }

    async fn prune_events(&self, before: UnixMs) -> StoreResult<usize> {
        self.here()?.prune_events(before).await
    }

    async fn audit(&self, skip: i64, limit: i64) -> StoreResult<Page<AuditEntry>> {
        self.here()?.audit(skip, limit).await
    }

    async fn invariants(&self) -> StoreResult<Invariants> {
        self.here()?.invariants().await
    }

    async fn export(&self, records: tokio::sync::mpsc::Sender<Record>) -> StoreResult<()> {
        self.here()?.export(records).await
    }

    async fn import(&self, records: Vec<Record>) -> StoreResult<()> {
        self.here()?.import(records).await
    }

    async fn setting_or_insert(&self, name: &str, value: &str) -> StoreResult<String> {
        self.here()?.setting_or_insert(name, value).await
    }

    async fn ping(&self) -> StoreResult<()> {
        self.here()?.ping().await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}
