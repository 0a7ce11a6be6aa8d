//! Records a request needs, in this edge's memory, bounded and for some seconds. They may be old: a
//! reserve names the version it was admitted by, and is refused by counters that know a newer one.
//!
//! Lookups of one name that miss at the same time are one read; what fails is not kept.

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

/// What this edge remembers.
#[derive(Debug)]
pub(super) struct RecordCache {
    /// Whose secret it is, or was.
    owners: Cache<KeyHash, KeyId, foldhash::fast::RandomState>,
    strangers: Cache<KeyHash, (), foldhash::fast::RandomState>,
    keys: Cache<KeyId, Arc<KeyRecord>, foldhash::fast::RandomState>,
    groups: Cache<GroupId, Arc<GroupRecord>, foldhash::fast::RandomState>,
}

/// Why nothing was remembered.
#[derive(Clone)]
enum Miss {
    Absent,
    Failed(StoreError),
}

impl RecordCache {
    pub fn new() -> RecordCache {
        fn bounded<K, V>(most: u64, life: Duration) -> Cache<K, V, foldhash::fast::RandomState>
        where
            K: std::hash::Hash + Eq + Send + Sync + 'static,
            V: Clone + Send + Sync + 'static,
        {
            let builder = Cache::builder().max_capacity(most).time_to_live(life);
            builder.build_with_hasher(foldhash::fast::RandomState::default())
        }
        RecordCache {
            owners: bounded(KEYS, FRESH),
            strangers: bounded(STRANGERS, STRANGE),
            keys: bounded(KEYS, FRESH),
            groups: bounded(GROUPS, FRESH),
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
        found(self.owners.try_get_with(*hash, or_miss(read)).await)
    }

    pub async fn key(
        &self,
        id: KeyId,
        read: impl Future<Output = StoreResult<Option<Arc<KeyRecord>>>>,
    ) -> StoreResult<Option<Arc<KeyRecord>>> {
        found(self.keys.try_get_with(id, or_miss(read)).await)
    }

    pub async fn group(
        &self,
        id: GroupId,
        read: impl Future<Output = StoreResult<Option<Arc<GroupRecord>>>>,
    ) -> StoreResult<Option<Arc<GroupRecord>>> {
        found(self.groups.try_get_with(id, or_miss(read)).await)
    }

    /// What was read now; `None` where there is none any more.
    pub async fn put_key(&self, id: KeyId, record: Option<&Arc<KeyRecord>>) {
        match record {
            Some(record) => self.keys.insert(id, Arc::clone(record)).await,
            None => self.keys.invalidate(&id).await,
        }
    }

    /// Secrets this edge gave to a key.
    pub async fn put_owner(&self, hash: KeyHash, id: KeyId) {
        self.strangers.invalidate(&hash).await;
        self.owners.insert(hash, id).await;
    }

    /// A secret this edge took from a key.
    pub async fn drop_owner(&self, hash: &KeyHash) {
        self.owners.invalidate(hash).await;
    }

    pub async fn put_group(&self, id: GroupId, record: Option<&Arc<GroupRecord>>) {
        match record {
            Some(record) => self.groups.insert(id, Arc::clone(record)).await,
            None => self.groups.invalidate(&id).await,
        }
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
        let cache = RecordCache::new();
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
}
