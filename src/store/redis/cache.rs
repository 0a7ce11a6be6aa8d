//! Records a request needs, in this edge's memory, bounded and for some seconds. They may be old: a
//! reserve names the version it was admitted by, and is refused by counters that know a newer one.
//!
//! Lookups of one name that miss at the same time are one read; what fails is not kept.
//!
//! Where exchanges are admitted without Redis, what was seen within the last hour is kept beside it,
//! for lookups that Redis does not answer. Nothing else is answered by it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;

use crate::keys::{KeyHash, KeyId, KeyRecord};
use crate::quota::GroupId;
use crate::store::{GroupRecord, StoreError, StoreResult};

const KEYS: u64 = 100_000;
const GROUPS: u64 = 10_000;
const FRESH: Duration = Duration::from_secs(5);
/// Secrets of nobody: so many, so long. Enough that a flood of one costs one read a second.
const STRANGERS: u64 = 100_000;
const STRANGE: Duration = Duration::from_secs(1);
/// For so long a record may stand in for the one that cannot be read.
const STALE: Duration = Duration::from_secs(3_600);

type Bounded<K, V> = Cache<K, V, foldhash::fast::RandomState>;

/// Records by name.
#[derive(Debug)]
struct Records {
    /// Whose secret it is, or was.
    owners: Bounded<KeyHash, KeyId>,
    keys: Bounded<KeyId, Arc<KeyRecord>>,
    groups: Bounded<GroupId, Arc<GroupRecord>>,
}

impl Records {
    fn kept_for(life: Duration) -> Records {
        Records {
            owners: bounded(KEYS, life),
            keys: bounded(KEYS, life),
            groups: bounded(GROUPS, life),
        }
    }
}

fn bounded<K, V>(most: u64, life: Duration) -> Bounded<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    let builder = Cache::builder().max_capacity(most).time_to_live(life);
    builder.build_with_hasher(foldhash::fast::RandomState::default())
}

/// What this edge remembers.
#[derive(Debug)]
pub(super) struct RecordCache {
    fresh: Records,
    strangers: Bounded<KeyHash, ()>,
    /// For when Redis is away.
    stale: Option<Records>,
}

/// Why nothing was remembered.
#[derive(Clone)]
enum Miss {
    Absent,
    Failed(StoreError),
}

impl RecordCache {
    /// `serves_stale`: whether what is old may be used while Redis is away.
    pub fn new(serves_stale: bool) -> RecordCache {
        RecordCache {
            fresh: Records::kept_for(FRESH),
            strangers: bounded(STRANGERS, STRANGE),
            stale: serves_stale.then(|| Records::kept_for(STALE)),
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
        let old = self.stale.as_ref().map(|stale| &stale.owners);
        look_up(&self.fresh.owners, old, *hash, read).await
    }

    pub async fn key(
        &self,
        id: KeyId,
        read: impl Future<Output = StoreResult<Option<Arc<KeyRecord>>>>,
    ) -> StoreResult<Option<Arc<KeyRecord>>> {
        let old = self.stale.as_ref().map(|stale| &stale.keys);
        look_up(&self.fresh.keys, old, id, read).await
    }

    pub async fn group(
        &self,
        id: GroupId,
        read: impl Future<Output = StoreResult<Option<Arc<GroupRecord>>>>,
    ) -> StoreResult<Option<Arc<GroupRecord>>> {
        let old = self.stale.as_ref().map(|stale| &stale.groups);
        look_up(&self.fresh.groups, old, id, read).await
    }

    /// What was asked of Redis now; where that is away, what was seen last.
    pub async fn owner_now(
        &self,
        hash: &KeyHash,
        answer: StoreResult<Option<KeyId>>,
    ) -> StoreResult<Option<KeyId>> {
        let old = self.stale.as_ref().map(|stale| &stale.owners);
        or_stale(old, hash, answer).await
    }

    /// As [`RecordCache::owner_now`].
    pub async fn key_now(
        &self,
        id: KeyId,
        answer: StoreResult<Option<Arc<KeyRecord>>>,
    ) -> StoreResult<Option<Arc<KeyRecord>>> {
        let old = self.stale.as_ref().map(|stale| &stale.keys);
        or_stale(old, &id, answer).await
    }

    /// As [`RecordCache::owner_now`].
    pub async fn group_now(
        &self,
        id: GroupId,
        answer: StoreResult<Option<Arc<GroupRecord>>>,
    ) -> StoreResult<Option<Arc<GroupRecord>>> {
        let old = self.stale.as_ref().map(|stale| &stale.groups);
        or_stale(old, &id, answer).await
    }

    /// What was read now; `None` where there is none any more.
    pub async fn put_key(&self, id: KeyId, record: Option<&Arc<KeyRecord>>) {
        for records in self.all() {
            put(&records.keys, id, record.cloned()).await;
        }
    }

    /// Secrets this edge gave to a key.
    pub async fn put_owner(&self, hash: KeyHash, id: KeyId) {
        self.strangers.invalidate(&hash).await;
        for records in self.all() {
            put(&records.owners, hash, Some(id)).await;
        }
    }

    /// A secret this edge took from a key.
    pub async fn drop_owner(&self, hash: &KeyHash) {
        for records in self.all() {
            put(&records.owners, *hash, None).await;
        }
    }

    pub async fn put_group(&self, id: GroupId, record: Option<&Arc<GroupRecord>>) {
        for records in self.all() {
            put(&records.groups, id, record.cloned()).await;
        }
    }

    fn all(&self) -> impl Iterator<Item = &Records> {
        std::iter::once(&self.fresh).chain(&self.stale)
    }
}

async fn put<K, V>(records: &Bounded<K, V>, name: K, value: Option<V>)
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    match value {
        Some(value) => records.insert(name, value).await,
        None => records.invalidate(&name).await,
    }
}

/// From memory, else read; where Redis does not answer, as it was seen last.
async fn look_up<K, V>(
    fresh: &Bounded<K, V>,
    old: Option<&Bounded<K, V>>,
    name: K,
    read: impl Future<Output = StoreResult<Option<V>>>,
) -> StoreResult<Option<V>>
where
    K: std::hash::Hash + Eq + Copy + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    let read = async {
        let answer = read.await;
        if let (Some(old), Ok(found)) = (old, &answer) {
            put(old, name, found.clone()).await;
        }
        answer
    };
    let answer = found(fresh.try_get_with(name, or_miss(read)).await);
    or_stale(old, &name, answer).await
}

async fn or_stale<K, V>(
    old: Option<&Bounded<K, V>>,
    name: &K,
    answer: StoreResult<Option<V>>,
) -> StoreResult<Option<V>>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    match (answer, old) {
        (Err(away @ StoreError::Unavailable(_)), Some(old)) => match old.get(name).await {
            Some(seen) => Ok(Some(seen)),
            None => Err(away),
        },
        (answer, _) => answer,
    }
}

async fn or_miss<T>(read: impl Future<Output = StoreResult<Option<T>>>) -> Result<T, Miss> {
    match read.await {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(Miss::Absent),
        Err(error) => Err(Miss::Failed(error)),
    }
}

fn found<T>(answer: Result<T, Arc<Miss>>) -> StoreResult<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(miss) => match &*miss {
            Miss::Absent => Ok(None),
            Miss::Failed(error) => Err(error.clone()),
        },
    }
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
    async fn what_was_seen_stands_in_only_where_redis_is_away_and_that_is_wanted() {
        let away = || StoreError::Unavailable(String::from("away"));
        let (hash, other) = (KeyHash::of(b"a secret"), KeyHash::of(b"another"));
        let id = KeyId(uuid::Uuid::new_v4());
        for serves_stale in [false, true] {
            let cache = RecordCache::new(serves_stale);
            let read = cache.owner(&hash, async { Ok(Some(id)) }).await;
            assert_eq!(read.unwrap(), Some(id));
            let seen = cache.owner_now(&hash, Err(away())).await;
            assert_eq!(seen.is_ok(), serves_stale);
            // As when its few seconds are over.
            cache.fresh.owners.invalidate(&hash).await;
            let seen = cache.owner(&hash, async { Err(away()) }).await;
            assert_eq!(seen.is_ok(), serves_stale);
            let never = cache.owner(&other, async { Err(away()) }).await;
            assert!(never.is_err());
            let fault = StoreError::Fault(String::from("unreadable"));
            assert!(cache.owner_now(&hash, Err(fault)).await.is_err());
            // What is known to be gone is gone.
            cache.drop_owner(&hash).await;
            assert!(cache.owner_now(&hash, Err(away())).await.is_err());
        }
    }
}
