//! `/admin/keys`: the list, and what is done to one key.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{KeyLine, lines};
use crate::admin::auth::Operator;
use crate::admin::body::{self, Fields};
use crate::admin::failure::Failure;
use crate::admin::failure_schema::{Coded, OperatorCoded};
use crate::admin::fault::Fault;
use crate::admin::key_making::{self, NO_KEY};
use crate::admin::{Admin, key_item};
use crate::keys::{KeyHash, KeyId, KeyRecord};
use crate::store::{Freshness, KeyFigures};

/// A key of the list.
#[derive(Debug, Serialize, ToSchema)]
struct TrialKey {
    #[serde(flatten)]
    line: KeyLine,
    /// False where it was disabled; an expired key may still be active.
    active: bool,
}

impl TrialKey {
    fn of(key: &KeyRecord, figures: &KeyFigures) -> Self {
        TrialKey {
            line: KeyLine::of(key, figures),
            active: key.active,
        }
    }
}

/// Every key.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TrialKeys {
    success: bool,
    /// In order of creation.
    keys: Vec<TrialKey>,
    total: usize,
}

/// All keys, deleted ones left out.
#[utoipa::path(
    get, path = "/admin/keys", tag = "trial keys", operation_id = "list_trial_keys",
    responses((status = 200, body = TrialKeys), OperatorCoded),
)]
pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Result<Json<TrialKeys>, Failure> {
    let keys = lines(&admin, TrialKey::of).await?;
    Ok(Json(TrialKeys {
        success: true,
        total: keys.len(),
        keys,
    }))
}

/// Which key is meant: one of the two.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it describes what `Named` reads")]
pub(super) struct WhichKey {
    /// The whole key, or its id.
    key: Option<String>,
    #[schema(value_type = Option<String>, format = Uuid)]
    id: Option<Uuid>,
}

/// Which key is meant, and its new quota.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "it describes what `reset` reads")]
pub(super) struct NewQuota {
    /// The whole key, or its id.
    key: Option<String>,
    #[schema(value_type = Option<String>, format = Uuid)]
    id: Option<Uuid>,
    /// The new request limit, 0 for unlimited; it stays as it is where this is left out.
    #[schema(minimum = 0)]
    new_quota: Option<i64>,
}

/// How a body names a key.
enum Named {
    Id(KeyId),
    Secret(KeyHash),
}

impl Named {
    /// Takes `key` or `id`. Faults stay with `fields`.
    fn read(fields: &mut Fields) -> Option<Self> {
        let key = fields.text("key", 1..=255).value().map(|text| {
            let id = Uuid::try_parse(&text).ok().map(|id| Named::Id(KeyId(id)));
            id.unwrap_or_else(|| Named::Secret(KeyHash::of(text.as_bytes())))
        });
        let id = fields.text("id", 1..=255).value();
        // What is no id is not found: there is nothing else it could be.
        let id = id.map(|text| Named::Id(KeyId(Uuid::try_parse(&text).unwrap_or_default())));
        match (key, id) {
            (Some(_), Some(_)) => {
                fields.fault(Fault::words("id", "give key or id, not both"));
                None
            }
            (None, None) => {
                if !fields.is_faulty("id") {
                    fields.require("key");
                }
                None
            }
            (key, id) => key.or(id),
        }
    }

    async fn find(self, admin: &Admin) -> Result<Arc<KeyRecord>, Failure> {
        match self {
            Named::Id(id) => key_making::find(admin, id).await,
            Named::Secret(hash) => {
                let found = admin.store().key_by_hash(&hash, Freshness::Now).await?;
                found.ok_or(NO_KEY)
            }
        }
    }
}

/// A key after what was done to it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Done {
    success: bool,
    #[serde(flatten)]
    key: TrialKey,
}

async fn done(admin: &Admin, key: Arc<KeyRecord>) -> Result<Json<Done>, Failure> {
    let figures = key_item::figures(admin, std::slice::from_ref(&key)).await?;
    let figures = figures.first().ok_or(NO_KEY)?;
    Ok(Json(Done {
        success: true,
        key: TrialKey::of(&key, figures),
    }))
}

/// Sets what a key has used to 0, and its request quota where a new one is given.
#[utoipa::path(
    post, path = "/admin/keys/reset", tag = "trial keys", operation_id = "reset_trial_key",
    request_body = NewQuota,
    responses(
        (status = 200, body = Done),
        (status = 400, body = Coded, description = "The body makes no sense"),
        (status = 404, body = Coded, description = "There is no such key"),
        OperatorCoded,
    ),
)]
pub(super) async fn reset(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    body: Body,
) -> Result<Json<Done>, Failure> {
    let mut fields = Fields::parse(&body::read(body).await?)?;
    let named = Named::read(&mut fields);
    let quota = fields.limit("newQuota").value();
    fields.finish()?;
    let mut key = named.ok_or(NO_KEY)?.find(&admin).await?;
    if let Some(quota) = quota {
        let change = |key: &mut KeyRecord| {
            key.quotas.requests.limit = quota;
            Ok(())
        };
        key = key_making::update(&admin, &who.0, "change key", &key, change).await?;
    }
    key_making::reset(&admin, &who.0, &key).await?;
    done(&admin, key).await
}

/// Disables a key: it is refused from now on.
#[utoipa::path(
    post, path = "/admin/keys/disable", tag = "trial keys", operation_id = "disable_trial_key",
    request_body = WhichKey,
    responses(
        (status = 200, body = Done),
        (status = 400, body = Coded, description = "The body makes no sense"),
        (status = 404, body = Coded, description = "There is no such key"),
        OperatorCoded,
    ),
)]
pub(super) async fn disable(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    body: Body,
) -> Result<Json<Done>, Failure> {
    set_active(&admin, &who, body, false).await
}

/// Enables a key again.
#[utoipa::path(
    post, path = "/admin/keys/enable", tag = "trial keys", operation_id = "enable_trial_key",
    request_body = WhichKey,
    responses(
        (status = 200, body = Done),
        (status = 400, body = Coded, description = "The body makes no sense"),
        (status = 404, body = Coded, description = "There is no such key"),
        OperatorCoded,
    ),
)]
pub(super) async fn enable(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    body: Body,
) -> Result<Json<Done>, Failure> {
    set_active(&admin, &who, body, true).await
}

async fn set_active(
    admin: &Admin,
    who: &Operator,
    body: Body,
    active: bool,
) -> Result<Json<Done>, Failure> {
    let mut fields = Fields::parse(&body::read(body).await?)?;
    let named = Named::read(&mut fields);
    fields.finish()?;
    let key = named.ok_or(NO_KEY)?.find(admin).await?;
    let key = key_making::set_active(admin, &who.0, &key, active).await?;
    done(admin, key).await
}
