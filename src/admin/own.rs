//! What a caller may ask about its own key (SPEC section 5), on both ports. The guard has admitted the
//! key; it comes as an extension of the request.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::{Extension, Json};
use http::Uri;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::Admin;
use super::auth::OwnKey;
use super::body;
use super::failure::Failure;
use super::key_item;
use super::query::Query;
use super::usd;
use crate::store::{UsageEvent, UsageQuery};
use crate::time::UnixMs;

/// The token quota of a key.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenQuota {
    /// 0 is unlimited.
    token_limit: i64,
    token_used: Option<i64>,
    token_remaining: Option<i64>,
    /// Percent of the limit.
    usage_percentage: f64,
    is_quota_exceeded: bool,
    rate_limit_tier: String,
    is_active: bool,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<UnixMs>,
    is_expired: bool,
}

/// How much of its token quota a key has used.
#[utoipa::path(
    get, path = "/api/usage/quota", tag = "self-service",
    responses((status = 200, body = TokenQuota)),
)]
pub(super) async fn quota(
    State(admin): State<Arc<Admin>>,
    Extension(own): Extension<OwnKey>,
) -> Result<Json<TokenQuota>, Failure> {
    let key = &own.identity.key;
    let standing = key_item::standing(admin.store(), key, admin.rates(&key.tier)).await?;
    let tokens = key_item::tokens(&standing);
    Ok(Json(TokenQuota {
        token_limit: tokens.limit,
        token_used: tokens.used,
        token_remaining: tokens.remaining,
        usage_percentage: tokens.percentage,
        is_quota_exceeded: tokens.is_exceeded(),
        rate_limit_tier: key.tier.clone(),
        is_active: key.active && !key.deleted,
        expires_at: key.expires_at,
        is_expired: key_item::is_expired(key, admin.now()),
    }))
}

/// A key's usage events, newest first.
#[utoipa::path(
    get, path = "/api/usage/logs", tag = "self-service",
    responses((status = 200, body = Vec<Value>)),
)]
pub(super) async fn logs(
    State(admin): State<Arc<Admin>>,
    Extension(own): Extension<OwnKey>,
    uri: Uri,
    body: Body,
) -> Result<Json<Value>, Failure> {
    let mut query = Query::with_body(&uri, &body::read(body).await?)?;
    let (since, until) = query.span();
    let (skip, limit) = query.page();
    query.finish()?;
    let asked = UsageQuery {
        key: Some(own.identity.key.id),
        since,
        until,
        charged_only: false,
        skip,
        limit,
    };
    let page = admin.store().usage_events(asked).await?;
    Ok(Json(page.items.iter().map(event_json).collect()))
}

/// A usage event as SPEC section 4 names its fields; money as USD.
pub fn event_json(event: &UsageEvent) -> Value {
    json!({
        "id": event.id,
        "api_key_id": event.api_key_id,
        "request_id": event.request_id,
        "request_method": event.request_method,
        "request_path": event.request_path,
        "request_size": event.request_size,
        "response_status": event.response_status,
        "response_size": event.response_size,
        "response_time_ms": event.response_time_ms,
        "first_byte_ms": event.first_byte_ms,
        "prompt_tokens": event.prompt_tokens,
        "completion_tokens": event.completion_tokens,
        "cached_tokens": event.cached_tokens,
        "cache_write_tokens": event.cache_write_tokens,
        "reasoning_tokens": event.reasoning_tokens,
        "total_tokens": event.total_tokens,
        "model": event.model,
        "pool": event.pool,
        "peer": event.peer,
        "is_error": event.is_error,
        "error_code": event.error_code,
        "error_message": event.error_message,
        "total_error_message": event.total_error_message,
        "total_cost": usd::show(event.total_cost_nano),
        "estimated": event.estimated,
        "end_user": event.end_user,
        "client_disconnected": event.client_disconnected,
        "reason": event.reason,
        "metadata": event.metadata,
        "created_at": event.created_at,
    })
}
