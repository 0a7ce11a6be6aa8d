//! Records beside the key's: groups, users, what an operator did.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::quota::{GroupId, Quotas, Standing};
use crate::time::UnixMs;

/// A group of keys with quotas of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    pub id: GroupId,
    pub name: String,
    pub quotas: Quotas,
    /// Empty: all.
    pub allowed_pools: Vec<String>,
    pub allowed_models: Vec<String>,
    pub version: i64,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
}

/// What a user may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything an operator may.
    Admin,
    /// Keys of their own.
    #[default]
    Member,
}

/// A person who signs in and keeps keys.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    pub id: Uuid,
    /// Grows by one with every change.
    pub version: i64,
    /// Unique, whatever the case of its letters; so is the e-mail address.
    pub username: String,
    pub email: String,
    /// argon2id, as a PHC string. Never shown and never in the audit log.
    #[serde(skip)]
    pub password_hash: String,
    pub role: Role,
    /// Groups that a member may put keys into.
    pub groups: Vec<GroupId>,
    /// False: may not sign in; keys go on.
    pub active: bool,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
}

impl std::fmt::Debug for UserRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserRecord")
            .field("id", &self.id)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl UserRecord {
    /// What they may sign in as, name and address, in the form in which nobody else has it.
    pub fn logins(&self) -> [String; 2] {
        [self.username.to_lowercase(), self.email.to_lowercase()]
    }
}

/// Which keys to list, in order of creation, softly deleted ones left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyQuery {
    /// Only this user's.
    pub owner: Option<Uuid>,
    pub active_only: bool,
    pub skip: i64,
    pub limit: i64,
}

/// What lives beside a key record and moves with traffic: requests charged, failed answers and
/// refusals, and when something was charged last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyActivity {
    pub request_count: i64,
    pub error_count: i64,
    pub last_used_at: Option<UnixMs>,
}

/// A key's counters and what lives beside its record.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct KeyFigures {
    pub standing: Standing,
    pub activity: KeyActivity,
}

/// A page of a listing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub total: i64,
}

/// One change an operator made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    pub at: UnixMs,
    pub who: String,
    pub what: String,
    /// The id of what was changed.
    pub subject: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
}
