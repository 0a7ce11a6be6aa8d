//! `POST /admin/keys`: one key, or a batch of them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::{Extension, Json};
use futures_util::future::join_all;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::Admin;
use crate::admin::auth::Operator;
use crate::admin::body::{self, Fields, Given};
use crate::admin::failure::Failure;
use crate::admin::failure_schema::{Coded, OperatorCoded};
use crate::admin::fault::Fault;
use crate::admin::key_change::{DEFAULT_PREFIX, ExpiryNames, expiry, prefix, tier};
use crate::admin::key_making::{self, NewKey};
use crate::keys::{KeyId, KeyRecord, Secret};
use crate::quota::{Limit, Quotas};
use crate::time::UnixMs;

const DEFAULT_TIER: &str = "unlimited";
/// Keys of a batch.
const MAX_COUNT: i64 = 1_000;
/// Keys of a batch that are on their way to the store at once.
const AT_ONCE: i64 = 16;

const EXPIRY: ExpiryNames = ExpiryNames {
    days: "valid_days",
    // A century.
    max_days: 36_525,
    at: "expiresAt",
    not_both: "give it or valid_days, not both",
};

/// A key to be made. Both vocabularies are understood, also mixed.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "it describes what `Wish` reads")]
pub(super) struct NewTrialKey {
    /// By default the prefix.
    #[schema(min_length = 1, max_length = 255)]
    name: Option<String>,
    /// The request limit, for good; 0 is unlimited. It or `max_calls` must be given.
    #[schema(minimum = 0)]
    quota: Option<i64>,
    /// The same as `quota`.
    #[schema(rename = "max_calls", minimum = 0)]
    max_calls: Option<i64>,
    /// Days until the key ends; never, where neither this nor `expiresAt` is given.
    #[schema(rename = "valid_days", minimum = 1, maximum = 36525)]
    valid_days: Option<i64>,
    /// A time to come, or a UTC day, which is meant whole.
    expires_at: Option<String>,
    /// What the key begins with, before a `_`.
    #[schema(default = "sk-proxy", max_length = 32)]
    prefix: Option<String>,
    /// A tier of the configuration: its per-minute limits.
    #[schema(default = "unlimited")]
    tier: Option<String>,
    /// So many such keys; the answer is then a list.
    #[schema(minimum = 1, maximum = 1000)]
    count: Option<i64>,
}

/// What a body asks for.
struct Wish {
    name: Option<String>,
    prefix: String,
    quota: i64,
    tier: String,
    expires_at: Option<UnixMs>,
    count: Option<i64>,
}

impl Wish {
    fn read(body: &[u8], admin: &Admin) -> Result<Self, Failure> {
        let mut fields = Fields::parse(body)?;
        let config = admin.config();
        let tier = tier(&mut fields, "tier", &config.tiers).value();
        let prefix = prefix(&mut fields).value();
        let wish = Wish {
            name: fields.text("name", 1..=255).value(),
            prefix: prefix.unwrap_or_else(|| String::from(DEFAULT_PREFIX)),
            quota: quota(&mut fields),
            tier: tier.unwrap_or_else(|| String::from(DEFAULT_TIER)),
            expires_at: expiry(&mut fields, EXPIRY, admin.now()).value(),
            count: fields.int("count", 1..=MAX_COUNT).value(),
        };
        fields.finish()?;
        Ok(wish)
    }

    /// A key by this wish, not stored yet.
    fn key(&self, admin: &Admin) -> Result<NewKey, Failure> {
        let mut key = NewKey::generate(admin, self.prefix.clone())?;
        let name = self.name.as_ref().unwrap_or(&self.prefix);
        key.record.name.clone_from(name);
        key.record.tier.clone_from(&self.tier);
        key.record.expires_at = self.expires_at;
        key.record.quotas = Quotas {
            requests: Limit {
                limit: self.quota,
                ..Limit::default()
            },
            ..Quotas::default()
        };
        Ok(key)
    }
}

/// `quota`, or `max_calls` where a client calls it so.
fn quota(fields: &mut Fields) -> i64 {
    match (fields.limit("quota"), fields.limit("max_calls")) {
        (Given::Value(quota), Given::Value(calls)) if quota != calls => {
            let words = "give quota or max_calls, or the same in both";
            fields.fault(Fault::words("max_calls", words));
            quota
        }
        (Given::Value(quota), _) | (_, Given::Value(quota)) => quota,
        _ => {
            if !fields.is_faulty("max_calls") {
                fields.require("quota");
            }
            0
        }
    }
}

/// A key that was made, and its secret.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct MadeKey {
    /// The whole key, this once.
    key: String,
    #[schema(value_type = String, format = Uuid)]
    id: KeyId,
    name: String,
    /// The request limit; 0 is unlimited.
    quota: i64,
    /// Null where it is unlimited.
    remaining: Option<i64>,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<UnixMs>,
    #[schema(value_type = String, format = DateTime)]
    created_at: UnixMs,
}

impl MadeKey {
    fn of(key: &KeyRecord, secret: &Secret) -> Self {
        let requests = key.quotas.requests;
        MadeKey {
            key: secret.reveal().to_owned(),
            id: key.id,
            name: key.name.clone(),
            quota: requests.limit,
            remaining: (!requests.is_unlimited()).then_some(requests.limit),
            expires_at: key.expires_at,
            created_at: key.created_at,
        }
    }
}

/// What was made: one key, or a list of them where `count` was given.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Made {
    One {
        success: bool,
        #[serde(flatten)]
        key: MadeKey,
    },
    Batch {
        success: bool,
        keys: Vec<MadeKey>,
    },
}

/// Makes a key with a request quota, or with `count` a batch of up to 1000 of them.
#[utoipa::path(
    post, path = "/admin/keys", tag = "trial keys", operation_id = "create_trial_keys",
    request_body = NewTrialKey,
    responses(
        (status = 200, body = Made),
        (status = 400, body = Coded, description = "The body makes no sense"),
        OperatorCoded,
    ),
)]
pub(super) async fn create(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    body: Body,
) -> Result<Json<Made>, Failure> {
    let wish = Wish::read(&body::read(body).await?, &admin)?;
    let success = true;
    Ok(Json(match wish.count {
        None => {
            let (key, secret) = wish.key(&admin)?.store(&admin, &who.0).await?;
            let key = MadeKey::of(&key, &secret);
            Made::One { success, key }
        }
        Some(count) => Made::Batch {
            success,
            keys: batch(&admin, &who.0, &wish, count).await?,
        },
    }))
}

/// All keys, or none: those that were stored before one could not be are deleted again.
async fn batch(admin: &Admin, who: &str, wish: &Wish, count: i64) -> Result<Vec<MadeKey>, Failure> {
    let mut made = Vec::new();
    let mut failure = None;
    let mut left = count;
    while left > 0 && failure.is_none() {
        let round = left.min(AT_ONCE);
        left -= round;
        let stored = (0..round).map(async |_| wish.key(admin)?.store(admin, who).await);
        for stored in join_all(stored).await {
            match stored {
                Ok(key) => made.push(key),
                Err(why) => failure = Some(why),
            }
        }
    }
    let Some(failure) = failure else {
        let keys = made.iter().map(|(key, secret)| MadeKey::of(key, secret));
        return Ok(keys.collect());
    };
    for (key, _) in &made {
        if let Err(left) = key_making::delete_for_good(admin, who, key).await {
            let id = key.id.0;
            log::warn!("key {id} of a batch that failed could not be deleted again: {left:?}");
        }
    }
    Err(failure)
}
