//! Keys and settings: looked up for every request, so from this edge's memory where that will do.

use std::sync::Arc;

use redis::Cmd;

use super::answers::bytes;
use super::cache::RecordCache;
use super::link::Link;
use super::names::{self, Home, Shard};
use super::record_steps::RecordSteps;
use super::records::{KeyEntry, decode_homes, key_of_text};
use super::users::UserSteps;
use crate::keys::{KeyHash, KeyId, KeyRecord};
use crate::store::{Freshness, StoreError, StoreResult};
use crate::time::{Clock, Moment, UnixMs};

/// Records of keys and groups, in Redis and in memory.
pub(super) struct Directory {
    pub(super) link: Arc<Link>,
    pub(super) steps: RecordSteps,
    pub(super) users: UserSteps,
    pub(super) cache: RecordCache,
    clock: Option<Clock>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Directory(…)")
    }
}

impl Directory {
    /// `clock` stands in for the clocks of this edge and of the server; `serves_alone`: keys are known
    /// while Redis is away.
    pub fn new(link: Arc<Link>, clock: Option<Clock>, serves_alone: bool) -> Directory {
        Directory {
            link,
            steps: RecordSteps::new(),
            users: UserSteps::new(),
            cache: RecordCache::new(serves_alone),
            clock,
        }
    }

    /// The injected clock, where there is one.
    pub(super) fn now(&self) -> Option<Moment> {
        self.clock.as_ref().map(|clock| clock())
    }

    /// The key this secret opens now; softly deleted ones are not found.
    pub async fn key_by_hash(
        &self,
        hash: &KeyHash,
        freshness: Freshness,
    ) -> StoreResult<Option<Arc<KeyRecord>>> {
        if freshness == Freshness::Now {
            match self.key_now(hash).await {
                // The last that is known must do.
                Err(StoreError::Unavailable(_)) if self.cache.keeps_last_known() => {}
                answer => return answer,
            }
        }
        if self.cache.is_stranger(hash) {
            return Ok(None);
        }
        let owner = self.cache.owner(hash, self.read_owner(hash)).await?;
        if let Some(id) = owner {
            let known = self.cached_key(id).await?;
            if let Some(record) = known.filter(|record| self.opens(record, hash)) {
                return Ok(Some(record));
            }
            // The secret may be newer than what is remembered of its key.
            let record = self.key(id).await?;
            if let Some(record) = record.filter(|record| self.opens(record, hash)) {
                return Ok(Some(record));
            }
        }
        self.cache.put_stranger(*hash).await;
        Ok(None)
    }

    async fn key_now(&self, hash: &KeyHash) -> StoreResult<Option<Arc<KeyRecord>>> {
        let Some(id) = self.read_owner(hash).await? else {
            self.cache.drop_owner(hash).await;
            self.cache.put_stranger(*hash).await;
            return Ok(None);
        };
        let record = self.key(id).await?;
        Ok(record.filter(|record| self.opens(record, hash)))
    }

    /// By id, as it is now, deleted ones too.
    pub async fn key(&self, id: KeyId) -> StoreResult<Option<Arc<KeyRecord>>> {
        let record = self.read_key(id).await?;
        self.cache.put_key(id, record.as_ref()).await;
        Ok(record)
    }

    /// Where a key's counters are, as far as this edge knows; `None` for a key that is not.
    pub async fn home_of(&self, id: KeyId) -> StoreResult<Option<Home>> {
        let record = self.cached_key(id).await?;
        Ok(record.map(|record| Home::of(id, record.group)))
    }

    /// Every shard that may hold events of this key, also of one that was removed for good.
    pub async fn homes(&self, id: KeyId) -> StoreResult<Vec<Shard>> {
        let shard = Shard::of_key(id);
        let names = [shard.key_record(id), shard.gone(id)];
        let answers = self.link.ask_all(names.map(get).into()).await?;
        let mut answers = answers.into_iter().map(bytes);
        let record = answers.next().transpose()?.flatten();
        let gone = answers.next().transpose()?.flatten();
        if let Some(record) = record {
            return Ok(KeyEntry::decode(&record)?.homes());
        }
        Ok(gone.map_or_else(|| vec![shard], |homes| decode_homes(&homes)))
    }

    /// Those of them that there are, in this order.
    pub(super) async fn records(&self, ids: Vec<KeyId>) -> StoreResult<Vec<Arc<KeyRecord>>> {
        let names = ids.iter().map(|id| Shard::of_key(*id).key_record(*id));
        let answers = self.link.ask_all(names.map(get).collect()).await?;
        let mut records = Vec::with_capacity(answers.len());
        for answer in answers {
            if let Some(record) = bytes(answer)? {
                records.push(Arc::new(KeyEntry::decode(&record)?.record));
            }
        }
        Ok(records)
    }

    /// What is stored under the name, which is `value` only where nothing was.
    pub async fn setting_or_insert(&self, name: &str, value: &str) -> StoreResult<String> {
        self.list_setting(name).await?;
        let mut set = redis::cmd("SET");
        set.arg(names::setting(name))
            .arg(value)
            .arg("NX")
            .arg("GET");
        let stored = bytes(self.link.ask(set).await?)?;
        match stored {
            None => Ok(value.to_owned()),
            Some(stored) => String::from_utf8(stored)
                .map_err(|_| super::answers::fault("a setting that is not text")),
        }
    }

    pub(super) async fn list_setting(&self, name: &str) -> StoreResult<()> {
        let add = redis::cmd("SADD").arg(names::SETTINGS).arg(name).to_owned();
        self.link.ask(add).await.map(drop)
    }

    async fn cached_key(&self, id: KeyId) -> StoreResult<Option<Arc<KeyRecord>>> {
        self.cache.key(id, self.read_key(id)).await
    }

    async fn read_key(&self, id: KeyId) -> StoreResult<Option<Arc<KeyRecord>>> {
        let name = Shard::of_key(id).key_record(id);
        let stored = self.steps.read(&self.link, &name).await?;
        let entry = stored.map(|stored| KeyEntry::decode(&stored)).transpose()?;
        Ok(entry.map(|entry| Arc::new(entry.record)))
    }

    async fn read_owner(&self, hash: &KeyHash) -> StoreResult<Option<KeyId>> {
        let owner = self.steps.read(&self.link, &names::secret(hash)).await?;
        owner.map(|owner| key_of_text(&owner)).transpose()
    }

    /// Whether a secret of this hash opens the key now.
    fn opens(&self, record: &KeyRecord, hash: &KeyHash) -> bool {
        if record.deleted {
            return false;
        }
        let wall = self.now().map_or_else(UnixMs::now, |now| now.wall);
        let rotated = record
            .previous
            .is_some_and(|previous| previous.hash.same(hash) && wall < previous.valid_until);
        record.hash.same(hash) || rotated
    }
}

fn get(name: String) -> Cmd {
    redis::cmd("GET").arg(name).to_owned()
}
