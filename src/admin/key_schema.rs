//! What requests of `/admin/api-keys` may say, as the OpenAPI document shows it, and what is answered.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::key_item::KeyItem;
use crate::keys::KeyId;
use crate::time::UnixMs;

/// A key to be made. Limits of 0 are unlimited.
#[derive(Debug, ToSchema)]
pub struct NewKeyBody {
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// What stands before the `_` of the secret; `sk-proxy` by default.
    #[schema(
        min_length = 1,
        max_length = 32,
        pattern = "^[A-Za-z0-9][A-Za-z0-9_-]*$"
    )]
    pub prefix: Option<String>,
    #[serde(flatten)]
    pub fields: KeyFields,
}

/// What to change of a key: what is left out stays, null empties what may be empty.
#[derive(Debug, ToSchema)]
pub struct KeyPatch {
    #[schema(min_length = 1, max_length = 255)]
    pub name: Option<String>,
    #[serde(flatten)]
    pub fields: KeyFields,
}

/// The fields of a key that an operator may set.
#[derive(Debug, ToSchema)]
pub struct KeyFields {
    #[schema(max_length = 1000)]
    pub description: Option<String>,
    /// 1000000 for a new key.
    #[schema(minimum = 0)]
    pub token_limit: Option<i64>,
    #[schema(minimum = 0)]
    pub request_limit: Option<i64>,
    /// USD with up to 9 decimals.
    #[schema(minimum = 0)]
    pub usd_limit: Option<f64>,
    /// Of all three limits: `total`, `daily`, `weekly` or `monthly`.
    pub period: Option<String>,
    /// A tier of the configuration; `basic` for a new key.
    pub rate_limit_tier: Option<String>,
    #[schema(minimum = 1, maximum = 365)]
    pub expires_in_days: Option<i64>,
    /// A time to come, or a UTC day that is meant whole. Not together with `expires_in_days`.
    pub expires_at: Option<String>,
    /// Addresses and networks that may use the key; empty: all.
    #[schema(max_items = 1000)]
    pub allowed_ips: Option<Vec<String>>,
    #[schema(max_items = 1000)]
    pub denied_ips: Option<Vec<String>>,
    /// `example.com`, `https://example.com`, `*.example.com`; empty: all.
    #[schema(max_items = 1000)]
    pub allowed_origins: Option<Vec<String>>,
    /// Model names or globs; empty: all.
    #[schema(max_items = 1000)]
    pub allowed_models: Option<Vec<String>>,
    /// Kept as it is.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Value>,
    pub is_active: Option<bool>,
    /// The id or name of a group; null for none.
    #[schema(min_length = 1, max_length = 255)]
    pub group: Option<String>,
}

/// How to rotate.
#[derive(Debug, ToSchema)]
pub struct RotateBody {
    /// Seconds that the old secret stays good for; a day by default.
    #[schema(minimum = 0, maximum = 2592000)]
    pub grace_seconds: Option<i64>,
}

/// A key that was just made.
#[derive(Debug, Serialize, ToSchema)]
pub struct CreatedKey {
    #[schema(value_type = Uuid)]
    pub id: KeyId,
    /// The secret, this once.
    pub api_key: String,
    pub name: String,
    pub description: Option<String>,
    pub token_limit: i64,
    pub rate_limit_tier: String,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<UnixMs>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: UnixMs,
}

/// A key with its new secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct RotatedKey {
    #[schema(value_type = Uuid)]
    pub id: KeyId,
    /// The new secret, this once.
    pub api_key: String,
    pub name: String,
    /// The new secret as it is shown later.
    pub key_prefix: String,
    /// When the old secret ends; null where it has.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub previous_valid_until: Option<UnixMs>,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: UnixMs,
}

/// A page of keys.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyPage {
    pub items: Vec<KeyItem>,
    pub total: i64,
    pub skip: i64,
    pub limit: i64,
}

/// A key, and whether its time is over.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyStats {
    #[serde(flatten)]
    pub item: KeyItem,
    pub is_expired: bool,
}
