//! The one way a key is made and changed, whatever dialect it was asked in: the record and its line of
//! the audit log in one step of the store.

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::failure::{Failure, Missing};
use super::{Admin, audit_entry, key_change, key_item, random_bytes};
use crate::keys::{KeyId, KeyRecord, Secret};
use crate::quota::Scope;
use crate::store::StoreError;

/// Changes of one key that are tried when others change it at the same time.
const MAX_TRIES: usize = 5;

pub(super) const NO_KEY: Failure = Failure::NotFound(Missing::Key);

/// A key that is not stored yet, with the defaults of the contract. Its secret lives until the one
/// answer that shows it.
#[derive(Debug)]
pub(super) struct NewKey {
    secret: Secret,
    pub record: KeyRecord,
}

impl NewKey {
    /// With a secret of our own making that begins with `prefix_`.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate(admin: &Admin, prefix: String) -> Result<Self, Failure> {
        let secret = Secret::generate(&prefix, random_bytes()?);
        Ok(NewKey::with_secret(admin, secret, prefix))
    }

    /// With a secret that was given.
    pub fn with_secret(admin: &Admin, secret: Secret, prefix: String) -> Self {
        let id = KeyId(Uuid::new_v4());
        let record = key_change::new_key(id, &secret, prefix, admin.now());
        NewKey { secret, record }
    }

    /// Stores the key. Answers the record with its `seq`, and the secret to be shown this once.
    ///
    /// # Errors
    /// The store's: a `Conflict` where the secret is taken.
    pub async fn store(
        self,
        admin: &Admin,
        who: &str,
    ) -> Result<(Arc<KeyRecord>, Secret), Failure> {
        let subject = self.record.id.0.to_string();
        let records = (None, shown(&self.record));
        let entry = audit_entry(admin, who, "create key", subject, records);
        let key = admin.store().create_key(self.record, entry).await?;
        Ok((key, self.secret))
    }
}

/// The record as the audit log shows it: neither secrets nor their hashes are serialised.
pub(super) fn shown(key: &KeyRecord) -> Option<Value> {
    serde_json::to_value(key).ok()
}

/// A key by its id; softly deleted ones are not found.
///
/// # Errors
/// When there is none, or the store is away.
pub(super) async fn find(admin: &Admin, id: KeyId) -> Result<Arc<KeyRecord>, Failure> {
    let found = admin.store().key(id).await?;
    found.filter(|key| !key.deleted).ok_or(NO_KEY)
}

/// Applies a change to the newest version of a key, again where another change came first. `what` is
/// the audit log's word for it.
///
/// # Errors
/// The change's own; when the key is gone, or others keep changing it.
pub(super) async fn update(
    admin: &Admin,
    who: &str,
    what: &str,
    key: &Arc<KeyRecord>,
    change: impl Fn(&mut KeyRecord) -> Result<(), Failure>,
) -> Result<Arc<KeyRecord>, Failure> {
    let store = admin.store();
    let mut current = key.clone();
    for _ in 0..MAX_TRIES {
        let mut changed = (*current).clone();
        change(&mut changed)?;
        changed.updated_at = admin.now();
        let records = (shown(&current), shown(&changed));
        let entry = audit_entry(admin, who, what, key.id.0.to_string(), records);
        match store.update_key(changed, entry).await {
            Err(StoreError::Conflict(_)) => {}
            Err(StoreError::NotFound) => return Err(NO_KEY),
            done => return Ok(done?),
        }
        current = find(admin, key.id).await?;
    }
    let why = "the key is being changed by others, try again";
    Err(Failure::Conflict(why.to_owned()))
}

/// Disables a key, or enables it again.
///
/// # Errors
/// As [`update`].
pub(super) async fn set_active(
    admin: &Admin,
    who: &str,
    key: &Arc<KeyRecord>,
    active: bool,
) -> Result<Arc<KeyRecord>, Failure> {
    let what = if active { "enable key" } else { "disable key" };
    update(admin, who, what, key, |key| {
        key.active = active;
        Ok(())
    })
    .await
}

/// `used` becomes 0 in the current windows; what is held stays held.
///
/// # Errors
/// The store's.
pub(super) async fn reset(admin: &Admin, who: &str, key: &KeyRecord) -> Result<(), Failure> {
    let before = key_item::standing(admin.store(), key, admin.rates(&key.tier)).await?;
    let change = (Some(json!({"used": before.used})), Some(json!({"used": 0})));
    let entry = audit_entry(admin, who, "reset key", key.id.0.to_string(), change);
    Ok(admin.store().reset_used(Scope::Key(key.id), entry).await?)
}

/// Removes a key and its counters; its usage stays.
///
/// # Errors
/// The store's.
pub(super) async fn delete_for_good(
    admin: &Admin,
    who: &str,
    key: &KeyRecord,
) -> Result<(), Failure> {
    let subject = key.id.0.to_string();
    let entry = audit_entry(
        admin,
        who,
        "delete key for good",
        subject,
        (shown(key), None),
    );
    Ok(admin.store().delete_key(key.id, entry).await?)
}
