//! Records with what their own form in JSON leaves out, because it must never be shown: the hashes of
//! secrets. Only the process that takes the books over sees these.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::keys::KeyRecord;
use crate::store::backup::key_of_backup;
use crate::store::{KeyActivity, Page, Record, StoreResult, UserRecord};

/// A record, whole.
#[derive(Debug)]
pub(super) struct Whole<T>(pub Arc<T>);

pub(super) fn whole<T>(record: T) -> Whole<T> {
    Whole(Arc::new(record))
}

impl<T: Clone> Whole<T> {
    pub fn record(self) -> T {
        Arc::unwrap_or_clone(self.0)
    }
}

impl Serialize for Whole<KeyRecord> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Record::of_key(&self.0, KeyActivity::default()).serialize(serializer)
    }
}

impl Serialize for Whole<UserRecord> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Record::of_user(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Whole<KeyRecord> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Record::Key {
            record,
            hash,
            previous,
            ..
        } = Record::deserialize(deserializer)?
        else {
            return Err(serde::de::Error::custom("this is no key"));
        };
        let record = key_of_backup(&record, &hash, previous.as_ref());
        record.map(whole).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Whole<UserRecord> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Record::User {
            mut record,
            password_hash,
        } = Record::deserialize(deserializer)?
        else {
            return Err(serde::de::Error::custom("this is no user"));
        };
        record.password_hash = password_hash;
        Ok(whole(record))
    }
}

/// What came from another process, as the store's callers know it.
pub(super) fn one<T>(answer: StoreResult<Whole<T>>) -> StoreResult<Arc<T>> {
    answer.map(|whole| whole.0)
}

pub(super) fn perhaps<T>(answer: StoreResult<Option<Whole<T>>>) -> StoreResult<Option<Arc<T>>> {
    answer.map(|found| found.map(|whole| whole.0))
}

pub(super) fn page<T>(answer: StoreResult<Page<Whole<T>>>) -> StoreResult<Page<Arc<T>>> {
    answer.map(|page| Page {
        items: page.items.into_iter().map(|whole| whole.0).collect(),
        total: page.total,
    })
}
