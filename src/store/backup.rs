//! Everything a store keeps, record by record: a backup, and the way from one engine to another.

use serde::{Deserialize, Serialize};

use super::{AuditEntry, GroupRecord, KeyActivity, Rollup, UsageEvent, UserRecord};
use crate::keys::{KeyId, KeyRecord};
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
    /// The last line: without it a backup is not whole.
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
