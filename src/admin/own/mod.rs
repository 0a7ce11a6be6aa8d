//! What a caller may ask about its own key (SPEC section 5), on both ports. The guard has admitted the
//! key; it comes as an extension of the request.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::OwnKey;
use super::failure::Failure;
use super::failure_schema::{self, OwnDetail};
use super::{Admin, body, key_item, query, usd};
use crate::quota::Standing;
use crate::time::UnixMs;

mod draws;
mod event;
mod relay;

/// The routes, each with its description.
pub(super) fn described() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::new()
        .routes(routes!(figures))
        .routes(routes!(draws::validate))
        .routes(routes!(draws::draw))
        .routes(routes!(draws::draw_batch))
        .routes(routes!(draws::quota))
        .routes(routes!(draws::history))
        .routes(routes!(relay::usage))
        .routes(routes!(relay::daily))
        .routes(routes!(relay::logs))
        .routes(routes!(relay::token_quota))
}

/// A key's figures at a glance.
#[derive(Debug, Serialize, ToSchema)]
struct KeyFigures {
    name: String,
    /// The request limit; 0 is unlimited.
    max_calls: i64,
    /// Null where it is unlimited.
    used: Option<i64>,
    /// Null where it is unlimited.
    remaining: Option<i64>,
    /// Settled in the present period of the token quota.
    tokens_used: i64,
    /// USD, settled in the present period of the USD quota.
    #[schema(value_type = f64)]
    cost: Value,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<UnixMs>,
}

/// How many calls a key has made and has left, and what they came to.
#[utoipa::path(
    get, path = "/usage", tag = "self-service", operation_id = "own_figures",
    responses((status = 200, body = KeyFigures), OwnDetail),
)]
async fn figures(
    State(admin): State<Arc<Admin>>,
    Extension(own): Extension<OwnKey>,
) -> Result<Json<KeyFigures>, Failure> {
    let standing = standing(&admin, &own).await?;
    let requests = key_item::requests(&standing);
    let key = &own.identity.key;
    Ok(Json(KeyFigures {
        name: key.name.clone(),
        max_calls: requests.limit,
        used: requests.used,
        remaining: requests.remaining,
        tokens_used: standing.used.tokens,
        cost: usd::show(standing.used.nano_usd),
        expires_at: key.expires_at,
    }))
}

/// The counters of the key that asks.
async fn standing(admin: &Admin, own: &OwnKey) -> Result<Standing, Failure> {
    let key = &own.identity.key;
    Ok(key_item::standing(admin.store(), key, admin.rates(&key.tier)).await?)
}
