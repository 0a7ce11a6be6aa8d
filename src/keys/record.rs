//! The key record: everything about a caller that an operator sets.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::id::{KeyHash, KeyId};
use crate::quota::{GroupId, Quotas};
use crate::time::UnixMs;

/// A caller's credential record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyRecord {
    pub id: KeyId,
    /// A small number for people and for interfaces that want one. Given by the store, from 1.
    pub seq: i64,
    /// Grows by one with every change; a reserve names the version it was admitted by.
    pub version: i64,
    pub name: String,
    pub description: Option<String>,
    #[serde(skip, default = "no_hash")]
    pub hash: KeyHash,
    /// The secret as it may be shown: `sk-proxy_AbCd…wxyz`.
    pub masked: String,
    pub prefix: String,
    /// The secret before the last rotation, while it is still good.
    #[serde(skip)]
    pub previous: Option<PreviousSecret>,
    pub owner: Option<Uuid>,
    pub group: Option<GroupId>,
    /// Names a tier of the configuration.
    pub tier: String,
    pub quotas: Quotas,
    /// Empty: any address.
    pub allowed_ips: Vec<IpNet>,
    pub denied_ips: Vec<IpNet>,
    /// Empty: any origin. `*.example.com` covers every subdomain.
    pub allowed_origins: Vec<String>,
    /// Empty: any model. `*` globs.
    pub allowed_models: Vec<String>,
    pub metadata: serde_json::Value,
    pub active: bool,
    /// Softly deleted: kept for the books, refused as unknown.
    pub deleted: bool,
    pub expires_at: Option<UnixMs>,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
}

/// A rotated secret and the end of its grace period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousSecret {
    pub hash: KeyHash,
    pub valid_until: UnixMs,
}

fn no_hash() -> KeyHash {
    KeyHash([0; 32])
}
