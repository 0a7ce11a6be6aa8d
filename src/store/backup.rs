//! Everything a store keeps, record by record: a backup, and the way from one engine to another.

use serde::{Deserialize, Serialize};

use super::{
    AuditEntry, GroupRecord, KeyActivity, Rollup, StoreError, StoreResult, UsageEvent, UserRecord,
};
use crate::keys::{KeyHash, KeyId, KeyRecord, PreviousSecret};
use crate::quota::Scope;
use crate::quota::counters::Count;
use crate::time::UnixMs;

/// The version of the format that is written.
pub const BACKUP_VERSION: u32 = 1;

/// One line of a backup. They come in this order, so that each names only what came before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Record {
    /// The first line.
    Backup {
        version: u32,
        at: UnixMs,
        /// Exchanges that ran at that moment: what they held is in no record.
        open_reservations: i64,
        /// The largest number a key ever had: numbers are never given twice, here or elsewhere.
        #[serde(default)]
        last_key_seq: i64,
    },
    Setting {
        name: String,
        value: String,
    },
    Group {
        record: GroupRecord,
    },
    User {
        record: UserRecord,
        password_hash: String,
    },
    Key {
        record: Box<KeyRecord>,
        /// SHA-256 of the secret, in hexadecimal digits.
        hash: String,
        previous: Option<PreviousHash>,
        activity: KeyActivity,
    },
    /// What a scope has used.
    Counters {
        scope: Scope,
        /// In the order of `Resource`.
        counts: [Count; 3],
    },
    Rollup {
        rollup: Rollup,
    },
    ErrorCount {
        day: String,
        key: KeyId,
        code: String,
        errors: i64,
    },
    Event {
        event: Box<UsageEvent>,
    },
    Audit {
        entry: AuditEntry,
    },
    /// The last line: without it a backup is not whole. `records` came before it.
    End {
        records: u64,
    },
}

/// A rotated secret within its grace period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousHash {
    pub hash: String,
    pub valid_until: UnixMs,
}

impl Record {
    pub fn of_key(record: &KeyRecord, activity: KeyActivity) -> Record {
        Record::Key {
            hash: record.hash.to_hex(),
            previous: record.previous.map(|previous| PreviousHash {
                hash: previous.hash.to_hex(),
                valid_until: previous.valid_until,
            }),
            record: Box::new(record.clone()),
            activity,
        }
    }

    pub fn of_user(record: &UserRecord) -> Record {
        Record::User {
            password_hash: record.password_hash.clone(),
            record: record.clone(),
        }
    }
}

/// The key of a `Record::Key`, its secrets' hashes put back.
///
/// # Errors
/// `Fault` where a hash is none.
pub(super) fn key_of_backup(
    record: &KeyRecord,
    hash: &str,
    previous: Option<&PreviousHash>,
) -> StoreResult<KeyRecord> {
    let read = |hex: &str| {
        let no_hash = || StoreError::Fault(format!("key {} has no hash", record.id.0));
        KeyHash::from_hex(hex).ok_or_else(no_hash)
    };
    let previous = previous.map(|previous| -> StoreResult<PreviousSecret> {
        Ok(PreviousSecret {
            hash: read(&previous.hash)?,
            valid_until: previous.valid_until,
        })
    });
    Ok(KeyRecord {
        hash: read(hash)?,
        previous: previous.transpose()?,
        ..record.clone()
    })
}

/// Checks the first line of a backup.
///
/// # Errors
/// `Fault` where a newer program wrote it.
pub(super) fn check_version(version: u32) -> StoreResult<()> {
    if version > BACKUP_VERSION {
        return Err(StoreError::Fault(format!(
            "the backup has version {version}, this program knows up to {BACKUP_VERSION}: use the \
             newer program"
        )));
    }
    Ok(())
}
