//! A store of what the admin service needs of one. It can be made to fail, which a real one cannot.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use quota_proxy::keys::{KeyHash, KeyId, KeyRecord};
use quota_proxy::quota::{
    Amounts, Ask, GroupId, ReservationId, Reserved, Scope, ScopeClaim, Settled, Standing,
};
use quota_proxy::store::{
    AuditEntry, GroupRecord, KeyActivity, Page, Rollup, Settlement, Store, StoreError, StoreResult,
    Totals, UsageEvent, UsageQuery,
};
use quota_proxy::time::UnixMs;

#[derive(Default)]
struct State {
    keys: Vec<Arc<KeyRecord>>,
    groups: BTreeMap<GroupId, Arc<GroupRecord>>,
    audit: Vec<AuditEntry>,
    settings: BTreeMap<String, String>,
    used: BTreeMap<Scope, Amounts>,
    events: Vec<UsageEvent>,
    seq: i64,
    failing: Option<StoreError>,
    /// Updates that another change comes before.
    races: usize,
}

#[derive(Default)]
pub struct MemoryStore(Mutex<State>);

impl MemoryStore {
    /// Every step fails so from now on, until `None`.
    pub fn fail(&self, error: Option<StoreError>) {
        self.0.lock().failing = error;
    }

    pub fn race(&self, times: usize) {
        self.0.lock().races = times;
    }

    pub fn used(&self, key: KeyId, used: Amounts) {
        self.0.lock().used.insert(Scope::Key(key), used);
    }

    pub fn event(&self, event: UsageEvent) {
        self.0.lock().events.push(event);
    }

    pub fn audit_entries(&self) -> Vec<AuditEntry> {
        self.0.lock().audit.clone()
    }

    fn step<T>(&self, step: impl FnOnce(&mut State) -> StoreResult<T>) -> StoreResult<T> {
        let mut state = self.0.lock();
        match &state.failing {
            Some(error) => Err(error.clone()),
            None => step(&mut state),
        }
    }
}

fn page<T: Clone>(items: &[T], skip: i64, limit: i64) -> Page<T> {
    let (skip, limit) = (
        usize::try_from(skip).unwrap(),
        usize::try_from(limit).unwrap(),
    );
    Page {
        items: items.iter().skip(skip).take(limit).cloned().collect(),
        total: i64::try_from(items.len()).unwrap(),
    }
}

fn not_here<T>() -> StoreResult<T> {
    Err(StoreError::Fault(String::from("not in this store")))
}

#[async_trait]
impl Store for MemoryStore {
    async fn key_by_hash(&self, hash: &KeyHash) -> StoreResult<Option<Arc<KeyRecord>>> {
        self.step(|s| {
            let found = s.keys.iter().find(|k| k.hash == *hash && !k.deleted);
            Ok(found.cloned())
        })
    }

    async fn key(&self, id: KeyId) -> StoreResult<Option<Arc<KeyRecord>>> {
        self.step(|s| Ok(s.keys.iter().find(|k| k.id == id).cloned()))
    }

    async fn create_key(
        &self,
        mut record: KeyRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<KeyRecord>> {
        self.step(|s| {
            s.seq += 1;
            record.seq = s.seq;
            let record = Arc::new(record);
            s.keys.push(record.clone());
            s.audit.push(audit);
            Ok(record)
        })
    }

    async fn update_key(
        &self,
        mut record: KeyRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<KeyRecord>> {
        self.step(|s| {
            let at = s.keys.iter().position(|k| k.id == record.id);
            let at = at.ok_or(StoreError::NotFound)?;
            if s.races > 0 {
                s.races -= 1;
                let mut other = (*s.keys[at]).clone();
                other.version += 1;
                s.keys[at] = Arc::new(other);
            }
            if s.keys[at].version != record.version {
                return Err(StoreError::Conflict(String::from("changed")));
            }
            record.version += 1;
            s.keys[at] = Arc::new(record);
            s.audit.push(audit);
            Ok(s.keys[at].clone())
        })
    }

    async fn delete_key(&self, id: KeyId, audit: AuditEntry) -> StoreResult<()> {
        self.step(|s| {
            s.keys.retain(|k| k.id != id);
            s.audit.push(audit);
            Ok(())
        })
    }

    async fn list_keys(
        &self,
        skip: i64,
        limit: i64,
        active_only: bool,
    ) -> StoreResult<Page<Arc<KeyRecord>>> {
        self.step(|s| {
            let shown = |k: &&Arc<KeyRecord>| !k.deleted && (k.active || !active_only);
            let keys: Vec<_> = s.keys.iter().filter(shown).cloned().collect();
            Ok(page(&keys, skip, limit))
        })
    }

    async fn activity(&self, _id: KeyId) -> StoreResult<KeyActivity> {
        self.step(|_| Ok(KeyActivity::default()))
    }

    async fn group(&self, id: GroupId) -> StoreResult<Option<Arc<GroupRecord>>> {
        self.step(|s| Ok(s.groups.get(&id).cloned()))
    }

    async fn put_group(
        &self,
        record: GroupRecord,
        audit: AuditEntry,
    ) -> StoreResult<Arc<GroupRecord>> {
        self.step(|s| {
            let record = Arc::new(record);
            s.groups.insert(record.id, record.clone());
            s.audit.push(audit);
            Ok(record)
        })
    }

    async fn delete_group(&self, id: GroupId, audit: AuditEntry) -> StoreResult<()> {
        self.step(|s| {
            s.groups.remove(&id);
            s.audit.push(audit);
            Ok(())
        })
    }

    async fn list_groups(&self) -> StoreResult<Vec<Arc<GroupRecord>>> {
        self.step(|s| Ok(s.groups.values().cloned().collect()))
    }

    async fn reserve(&self, _ask: Ask) -> StoreResult<Reserved> {
        not_here()
    }

    async fn top_up(
        &self,
        _id: ReservationId,
        _scopes: &[ScopeClaim],
        _more: Amounts,
    ) -> StoreResult<bool> {
        not_here()
    }

    async fn renew(&self, _ids: &[ReservationId], _lease_ms: i64) -> StoreResult<()> {
        not_here()
    }

    async fn settle(&self, _settlement: Settlement) -> StoreResult<Settled> {
        not_here()
    }

    async fn book_refusal(&self, _event: UsageEvent) -> StoreResult<()> {
        not_here()
    }

    async fn sweep(&self) -> StoreResult<usize> {
        not_here()
    }

    async fn standing(&self, claim: ScopeClaim) -> StoreResult<Standing> {
        self.step(|s| {
            Ok(Standing {
                scope: claim.scope,
                quotas: claim.quotas,
                rates: claim.rates,
                used: s.used.get(&claim.scope).copied().unwrap_or_default(),
                held: Amounts::ZERO,
                running: 0,
                requests_in_bucket: 0,
                tokens_in_bucket: 0,
                resets_at: [None; 3],
            })
        })
    }

    async fn reset_used(&self, scope: Scope, audit: AuditEntry) -> StoreResult<()> {
        self.step(|s| {
            s.used.remove(&scope);
            s.audit.push(audit);
            Ok(())
        })
    }

    async fn totals(&self) -> StoreResult<Totals> {
        self.step(|_| {
            Ok(Totals {
                open_reservations: 2,
                held: Amounts {
                    requests: 2,
                    tokens: 77,
                    nano_usd: 0,
                },
            })
        })
    }

    async fn usage_events(&self, query: UsageQuery) -> StoreResult<Page<UsageEvent>> {
        self.step(|s| {
            let mut found: Vec<_> = s
                .events
                .iter()
                .filter(|e| query.key.is_none_or(|k| k == e.api_key_id))
                .filter(|e| query.since.is_none_or(|t| e.created_at >= t))
                .filter(|e| query.until.is_none_or(|t| e.created_at < t))
                .cloned()
                .collect();
            found.reverse();
            Ok(page(&found, query.skip, query.limit))
        })
    }

    async fn rollups(
        &self,
        _key: Option<KeyId>,
        _since_day: &str,
        _until_day: &str,
    ) -> StoreResult<Vec<Rollup>> {
        not_here()
    }

    async fn error_counts(
        &self,
        _key: Option<KeyId>,
        _since_day: &str,
        _until_day: &str,
    ) -> StoreResult<Vec<(String, i64)>> {
        not_here()
    }

    fn usual_output(&self, _key: KeyId, _model: &str) -> Option<i64> {
        None
    }

    async fn prune_events(&self, _before: UnixMs) -> StoreResult<usize> {
        not_here()
    }

    async fn audit(&self, skip: i64, limit: i64) -> StoreResult<Page<AuditEntry>> {
        self.step(|s| {
            let mut newest_first = s.audit.clone();
            newest_first.reverse();
            Ok(page(&newest_first, skip, limit))
        })
    }

    async fn setting_or_insert(&self, name: &str, value: &str) -> StoreResult<String> {
        self.step(|s| {
            let stored = s.settings.entry(name.to_owned());
            Ok(stored.or_insert_with(|| value.to_owned()).clone())
        })
    }

    async fn ping(&self) -> StoreResult<()> {
        self.step(|_| Ok(()))
    }

    async fn close(&self) {}
}
