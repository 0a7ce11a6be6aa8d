//! Limits: a capacity of one resource per window, and who it belongs to.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::keys::KeyId;

/// A group of keys that share quotas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupId(pub Uuid);

/// Whose counters a claim draws on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    Key(KeyId),
    Group(GroupId),
}

/// The resources that quotas count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    Requests,
    Tokens,
    Usd,
}

/// After what time a quota's `used` starts at 0 again. Windows are UTC; weeks start on Monday.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    #[default]
    Total,
    Daily,
    Weekly,
    Monthly,
}

/// `limit` 0 is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    pub limit: i64,
    #[serde(default)]
    pub period: Period,
}

impl Limit {
    pub fn is_unlimited(self) -> bool {
        self.limit == 0
    }
}

/// The quotas of one scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quotas {
    pub requests: Limit,
    pub tokens: Limit,
    /// In nano-USD.
    pub usd: Limit,
}

/// A tier: token buckets of one minute, refilled evenly, and requests at once. 0 is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    pub requests_per_minute: i64,
    pub tokens_per_minute: i64,
    pub concurrency: i64,
}

/// Which limit of a scope refused, or is the tightest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    Requests,
    Tokens,
    Usd,
    RequestsPerMinute,
    TokensPerMinute,
    Concurrency,
}
