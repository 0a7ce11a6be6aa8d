//! Which keys a listing shows, kept in order: a page and its total cost the page, however many keys
//! there are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use uuid::Uuid;

use crate::keys::KeyRecord;
use crate::store::{KeyQuery, Page};

/// Keys that are not softly deleted, of everyone and of each owner.
#[derive(Debug, Default)]
pub(super) struct Listings {
    all: Listing,
    by_owner: HashMap<Uuid, Listing, RandomState>,
}

/// Keys by number, which is the order of creation.
#[derive(Debug, Default)]
struct Listing {
    shown: BTreeMap<i64, Arc<KeyRecord>>,
    active: BTreeMap<i64, Arc<KeyRecord>>,
}

impl Listings {
    /// Where another version of the record is in it, `remove` that first.
    pub fn put(&mut self, record: &Arc<KeyRecord>) {
        if record.deleted {
            return;
        }
        self.all.put(record);
        if let Some(owner) = record.owner {
            self.by_owner.entry(owner).or_default().put(record);
        }
    }

    pub fn remove(&mut self, record: &KeyRecord) {
        self.all.remove(record.seq);
        let Some(owner) = record.owner else { return };
        if let Some(listing) = self.by_owner.get_mut(&owner) {
            listing.remove(record.seq);
            if listing.shown.is_empty() {
                self.by_owner.remove(&owner);
            }
        }
    }

    pub fn page(&self, query: KeyQuery) -> Page<Arc<KeyRecord>> {
        let listing = match query.owner {
            None => Some(&self.all),
            Some(owner) => self.by_owner.get(&owner),
        };
        let keys = listing.map(|listing| match query.active_only {
            true => &listing.active,
            false => &listing.shown,
        });
        let skip = usize::try_from(query.skip).unwrap_or(0);
        let limit = usize::try_from(query.limit).unwrap_or(0);
        let items = keys.into_iter().flat_map(BTreeMap::values);
        Page {
            items: items.skip(skip).take(limit).cloned().collect(),
            total: keys.map_or(0, |keys| i64::try_from(keys.len()).unwrap_or(i64::MAX)),
        }
    }
}

impl Listing {
    fn put(&mut self, record: &Arc<KeyRecord>) {
        self.shown.insert(record.seq, record.clone());
        if record.active {
            self.active.insert(record.seq, record.clone());
        }
    }

    fn remove(&mut self, seq: i64) {
        self.shown.remove(&seq);
        self.active.remove(&seq);
    }
}
