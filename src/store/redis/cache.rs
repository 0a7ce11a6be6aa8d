//! Records a request needs, in this edge's memory, bounded and for some seconds. They may be old: a
//! reserve names the version it was admitted by, and is refused by counters that know a newer one.
//!
//! Lookups of one name that miss at the same time are one read; what fails is not kept. Where
//! exchanges are served while Redis is away, they are known by what was read last.

use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use moka::future::Cache;

use crate::keys::{KeyHash, KeyId, KeyRecord};
use crate::quota::GroupId;
use crate::store::{GroupRecord, StoreError, StoreResult};

const KEYS: u64 = 100_000;
const GROUPS: u64 = 10_000;
const FRESH: Duration = Duration::from_secs(5);
/// How long Redis may be away before this edge knows nobody any more.
const LAST_KNOWN: Duration = Duration::from_secs(24 * 3600);
/// Secrets of nobody: so many, so long. A flood of one costs one read a second.
const STRANGERS: u64 = 100_000;
const STRANGE: Duration = Duration::from_secs(1);

/// What this edge remembers.
pub(super) struct RecordCache {
    /// Whose secret it is, or was.
    owners: Known<KeyHash, KeyId>,
    strangers: Cache<KeyHash, (), RandomState>,
    keys: Known<KeyId, Arc<KeyRecord>>,
    groups: Known<GroupId, Arc<GroupRecord>>,
}

impl RecordCache {
    /// Whether lookups are answered while Redis is away.
    pub fn keeps_last_known(&self) -> bool {
        self.keys.last.is_some()
    }

    /// `keeps_last_known`: lookups are answered while Redis is away too.
    pub fn new(keeps_last_known: bool) -> RecordCache {
        RecordCache {
            owners: Known::new(KEYS, keeps_last_known),
            strangers: bounded(STRANGERS, STRANGE),
            keys: Known::new(KEYS, keeps_last_known),
            groups: Known::new(GROUPS, keeps_last_known),
        }
    }

    /// Whether a secret was found to open nothing a moment ago.
    pub fn is_stranger(&self, hash: &KeyHash) -> bool {
        self.strangers.contains_key(hash)
    }

    pub async fn put_stranger(&self, hash: KeyHash) {
        self.strangers.insert(hash, ()).await;
    }

    pub async fn owner(
        &self,
        hash: &KeyHash,
        read: impl Future<Output = StoreResult<Option<KeyId>>>,
    ) -> StoreResult<Option<KeyId>> {
        self.owners.get(*hash, read).await
    }

    pub async fn key(
        &self,
        id: KeyId,
        read: impl Future<Output = StoreResult<Option<Arc<KeyRecord>>>>,
    ) -> StoreResult<Option<Arc<KeyRecord>>> {
        self.keys.get(id, read).await
    }

    pub async fn group(
        &self,
        id: GroupId,
        read: impl Future<Output = StoreResult<Option<Arc<GroupRecord>>>>,
    ) -> StoreResult<Option<Arc<GroupRecord>>> {
        self.groups.get(id, read).await
    }

    /// What was read now; `None` where there is none any more.
    pub async fn put_key(&self, id: KeyId, record: Option<&Arc<KeyRecord>>) {
        self.keys.put(id, record.cloned()).await;
    }

    /// A secret this edge gave to a key.
    pub async fn put_owner(&self, hash: KeyHash, id: KeyId) {
        self.strangers.invalidate(&hash).await;
        self.owners.put(hash, Some(id)).await;
    }

    /// A secret of no key any more.
    pub async fn drop_owner(&self, hash: &KeyHash) {
        self.owners.put(*hash, None).await;
    }

    pub async fn put_group(&self, id: GroupId, record: Option<&Arc<GroupRecord>>) {
        self.groups.put(id, record.cloned()).await;
    }
}

/// One kind of record.
struct Known<K, V> {
    fresh: Cache<K, V, RandomState>,
    last: Option<Cache<K, V, RandomState>>,
}

/// Why nothing was found.
enum Miss {
    Absent,
    Failed(StoreError),
}

impl<K, V> Known<K, V>
where
    K: Hash + Eq + Copy + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn new(most: u64, keeps_last: bool) -> Self {
        Known {
            fresh: bounded(most, FRESH),
            last: keeps_last.then(|| bounded(most, LAST_KNOWN)),
        }
    }

    async fn get(
        &self,
        key: K,
        read: impl Future<Output = StoreResult<Option<V>>>,
    ) -> StoreResult<Option<V>> {
        let read = async {
            match read.await {
                Ok(found) => {
                    self.put_last(key, found.clone()).await;
                    found.ok_or(Miss::Absent)
                }
                Err(error) => Err(Miss::Failed(error)),
            }
        };
        let miss = match self.fresh.try_get_with(key, read).await {
            Ok(found) => return Ok(Some(found)),
            Err(miss) => miss,
        };
        match (&*miss, &self.last) {
            (Miss::Absent, _) => Ok(None),
            (Miss::Failed(error @ StoreError::Unavailable(_)), Some(last)) => {
                let known = last.get(&key).await;
                known.map(Some).ok_or_else(|| error.clone())
            }
            (Miss::Failed(error), _) => Err(error.clone()),
        }
    }

    async fn put(&self, key: K, value: Option<V>) {
        match value.clone() {
            Some(value) => self.fresh.insert(key, value).await,
            None => self.fresh.invalidate(&key).await,
        }
        self.put_last(key, value).await;
    }

    async fn put_last(&self, key: K, value: Option<V>) {
        match (&self.last, value) {
            (Some(last), Some(value)) => last.insert(key, value).await,
            (Some(last), None) => last.invalidate(&key).await,
            (None, _) => {}
        }
    }
}

fn bounded<K, V>(most: u64, life: Duration) -> Cache<K, V, RandomState>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    let builder = Cache::builder().max_capacity(most).time_to_live(life);
    builder.build_with_hasher(RandomState::default())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn lookups_of_one_secret_are_one_read_and_a_failure_is_not_kept() {
        let cache = RecordCache::new(false);
        let hash = KeyHash::of(b"a secret");
        let id = KeyId(uuid::Uuid::new_v4());
        let reads = AtomicUsize::new(0);
        let away = || StoreError::Unavailable(String::from("away"));
        let failed = cache.owner(&hash, async { Err(away()) }).await;
        assert!(matches!(failed, Err(StoreError::Unavailable(_))));
        let asks = (0..100).map(|_| {
            cache.owner(&hash, async {
                reads.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok(Some(id))
            })
        });
        for answer in futures_util::future::join_all(asks).await {
            assert_eq!(answer.unwrap(), Some(id));
        }
        assert_eq!(reads.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn what_was_read_last_is_known_while_redis_is_away() {
        let away = || async { Err(StoreError::Unavailable(String::from("away"))) };
        let hash = KeyHash::of(b"a secret");
        let id = KeyId(uuid::Uuid::new_v4());
        for keeps in [true, false] {
            let cache = RecordCache::new(keeps);
            cache.owner(&hash, async { Ok(Some(id)) }).await.unwrap();
            // As after some seconds.
            cache.owners.fresh.invalidate(&hash).await;
            let known = cache.owner(&hash, away()).await;
            assert_eq!(known.ok().flatten(), keeps.then_some(id));
            cache.owner(&hash, async { Ok(None) }).await.unwrap();
            assert!(
                cache.owner(&hash, away()).await.is_err(),
                "a dropped secret"
            );
        }
    }
}
