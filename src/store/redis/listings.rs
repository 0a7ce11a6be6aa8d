//! Lists of keys: all, active ones, softly deleted ones, those of each user. They lie in another slot
//! than the records, so they are told after each change (`changes.rs`) and may be behind for a moment.

use std::sync::Arc;

use redis::Cmd;
use uuid::Uuid;

use super::answers::{int, scored, strings};
use super::directory::Directory;
use super::names;
use super::records::{key_of_text, key_text};
use crate::keys::{KeyId, KeyRecord};
use crate::store::{KeyQuery, Page, StoreResult};

/// Keys that are read in one round.
const PAGE: usize = 128;

impl Directory {
    /// Puts a key into the lists it belongs to and takes it from the others, those of `former` owners
    /// too. In the lists before out of any: a key is in one of them at every moment.
    pub(super) async fn list_key(&self, record: &KeyRecord, former: &[Uuid]) -> StoreResult<()> {
        let (add, mut remove): (Vec<_>, Vec<_>) =
            lists(record).into_iter().partition(|(_, shown)| *shown);
        let add = add.into_iter().map(|(list, _)| {
            let mut add = redis::cmd("ZADD");
            add.arg(list).arg(record.seq).arg(key_text(record.id));
            add
        });
        self.link.ask_all(add.collect()).await?;
        let former = former
            .iter()
            .filter(|former| record.owner != Some(**former));
        remove.extend(former.flat_map(|former| of_owner(*former).map(|list| (list, false))));
        let remove = remove.into_iter().map(|(list, _)| removal(list, record.id));
        self.link.ask_all(remove.collect()).await.map(drop)
    }

    /// Takes a key that was removed for good from every list.
    pub(super) async fn unlist_key(&self, id: KeyId, owners: &[Uuid]) -> StoreResult<()> {
        let all = [names::KEYS, names::ACTIVE_KEYS, names::DELETED_KEYS].map(String::from);
        let owned = owners.iter().flat_map(|owner| of_owner(*owner));
        let remove = all.into_iter().chain(owned).map(|list| removal(list, id));
        self.link.ask_all(remove.collect()).await.map(drop)
    }

    /// In order of creation, softly deleted ones left out.
    pub async fn list_keys(&self, query: KeyQuery) -> StoreResult<Page<Arc<KeyRecord>>> {
        let list = match (query.owner, query.active_only) {
            (None, false) => String::from(names::KEYS),
            (None, true) => String::from(names::ACTIVE_KEYS),
            (Some(owner), active_only) => names::owned_keys(owner, active_only),
        };
        let total = redis::cmd("ZCARD").arg(&list).to_owned();
        let total = int(&self.link.ask(total).await?)?;
        let skip = query.skip.max(0);
        let limit = query.limit.clamp(0, total);
        let mut items = self.records(self.listed(&list, skip, limit).await?).await?;
        let shown = |record: &Arc<KeyRecord>| {
            let owned = query.owner.is_none_or(|owner| record.owner == Some(owner));
            owned && !record.deleted && (record.active || !query.active_only)
        };
        items.retain(shown);
        Ok(Page { items, total })
    }

    /// By its number, deleted ones too.
    pub async fn key_by_seq(&self, seq: i64) -> StoreResult<Option<Arc<KeyRecord>>> {
        let Some(id) = self.numbered(seq).await? else {
            return Ok(None);
        };
        let record = self.key(id).await?;
        Ok(record.filter(|record| record.seq == seq))
    }

    /// Whose number this is, as the lists have it.
    pub(super) async fn numbered(&self, seq: i64) -> StoreResult<Option<KeyId>> {
        let reads = [names::KEYS, names::DELETED_KEYS].map(|list| {
            let mut read = redis::cmd("ZRANGE");
            read.arg(list).arg(seq).arg(seq).arg("BYSCORE");
            read
        });
        for answer in self.link.ask_all(reads.into()).await? {
            if let Some(id) = strings(answer)?.first() {
                return key_of_text(id).map(Some);
            }
        }
        Ok(None)
    }

    /// A stretch of a list.
    pub(super) async fn listed(
        &self,
        list: &str,
        skip: i64,
        limit: i64,
    ) -> StoreResult<Vec<KeyId>> {
        let last = skip.saturating_add(limit) - 1;
        if last < skip {
            return Ok(Vec::new());
        }
        let mut range = redis::cmd("ZRANGE");
        range.arg(list).arg(skip).arg(last);
        let ids = strings(self.link.ask(range).await?)?;
        ids.iter().map(|id| key_of_text(id)).collect()
    }
}

/// Every key there is, softly deleted ones too, a page at a time.
#[derive(Debug, Default)]
pub(super) struct KeyPages {
    in_deleted: bool,
    after: i64,
}

impl KeyPages {
    /// `None` at the end; those removed meanwhile are left out.
    pub async fn next(
        &mut self,
        directory: &Directory,
    ) -> StoreResult<Option<Vec<Arc<KeyRecord>>>> {
        loop {
            let list = match self.in_deleted {
                false => names::KEYS,
                true => names::DELETED_KEYS,
            };
            let mut range = redis::cmd("ZRANGE");
            range.arg(list).arg(format!("({}", self.after)).arg("+inf");
            range.arg("BYSCORE").arg("LIMIT").arg(0).arg(PAGE);
            let page = scored(
                directory
                    .link
                    .ask(range.arg("WITHSCORES").to_owned())
                    .await?,
            )?;
            if let Some((last, _)) = page.last() {
                self.after = *last;
                let ids = page.iter().map(|(_, id)| key_of_text(id));
                let ids = ids.collect::<StoreResult<_>>()?;
                return directory.records(ids).await.map(Some);
            }
            if self.in_deleted {
                return Ok(None);
            }
            (self.in_deleted, self.after) = (true, 0);
        }
    }
}

/// Every list that a key may be in, and whether it is.
fn lists(record: &KeyRecord) -> Vec<(String, bool)> {
    let shown = !record.deleted;
    let active = shown && record.active;
    let mut lists = vec![
        (String::from(names::KEYS), shown),
        (String::from(names::ACTIVE_KEYS), active),
        (String::from(names::DELETED_KEYS), record.deleted),
    ];
    if let Some(owner) = record.owner {
        lists.extend(of_owner(owner).into_iter().zip([shown, active]));
    }
    lists
}

fn of_owner(owner: Uuid) -> [String; 2] {
    [false, true].map(|active_only| names::owned_keys(owner, active_only))
}

fn removal(list: String, id: KeyId) -> Cmd {
    let mut remove = redis::cmd("ZREM");
    remove.arg(list).arg(key_text(id));
    remove
}
