//! What a caller may ask about its own key (SPEC section 5). The edge calls [`self_service`] after it
//! has admitted the key; on the admin port the key is read and admitted here.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use http::{HeaderMap, StatusCode, Uri};
use serde_json::{Value, json};

use super::Admin;
use super::failure::Failure;
use super::key_item;
use super::listen::ClientAddr;
use super::query::Query;
use super::usd;
use crate::keys::admit::{Caller, Denied, admit};
use crate::keys::{KeyHash, KeyRecord};
use crate::quota::Rates;
use crate::store::{Freshness, Store, UsageEvent, UsageQuery};
use crate::time::UnixMs;

/// Answers `GET` of a self-service path for an admitted key; `None` where the path is none of them.
/// `rates` are those of the key's tier. Errors are answers too, `{"detail"}`.
pub async fn self_service(
    store: &dyn Store,
    key: &KeyRecord,
    rates: Rates,
    now: UnixMs,
    uri: &Uri,
) -> Option<(u16, Value)> {
    let answer = match uri.path() {
        "/api/usage/quota" => quota(store, key, rates, now).await,
        "/api/usage/logs" => logs(store, key, uri).await,
        _ => return None,
    };
    Some(match answer {
        Ok(body) => (200, body),
        Err(failure) => {
            failure.log();
            let (status, detail) = failure.shown();
            (status.as_u16(), json!({"detail": detail}))
        }
    })
}

async fn quota(
    store: &dyn Store,
    key: &KeyRecord,
    rates: Rates,
    now: UnixMs,
) -> Result<Value, Failure> {
    let standing = key_item::standing(store, key, rates).await?;
    let tokens = key_item::tokens(&standing);
    Ok(json!({
        "token_limit": tokens.limit,
        "token_used": tokens.used,
        "token_remaining": tokens.remaining,
        "usage_percentage": tokens.percentage,
        "is_quota_exceeded": tokens.is_exceeded(),
        "rate_limit_tier": key.tier,
        "is_active": key.active && !key.deleted,
        "expires_at": key.expires_at,
        "is_expired": key_item::is_expired(key, now),
    }))
}

async fn logs(store: &dyn Store, key: &KeyRecord, uri: &Uri) -> Result<Value, Failure> {
    let mut query = Query::of(uri);
    let (since, until) = query.span();
    let (skip, limit) = query.page();
    query.finish()?;
    let asked = UsageQuery {
        key: Some(key.id),
        since,
        until,
        charged_only: false,
        skip,
        limit,
    };
    let page = store.usage_events(asked).await?;
    Ok(page.items.iter().map(event_json).collect())
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

pub(super) async fn answer(
    State(admin): State<Arc<Admin>>,
    client: Option<Extension<ClientAddr>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Failure> {
    let ip = client.and_then(|Extension(ClientAddr(ip))| ip);
    let key = caller_key(&admin, &headers, ip).await?;
    let (store, rates) = (&*admin.state.store, admin.rates(&key.tier));
    let answer = self_service(store, &key, rates, admin.now(), &uri).await;
    let (status, body) = answer.ok_or(Failure::NotFound("path"))?;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Ok((status, Json(body)).into_response())
}

async fn caller_key(
    admin: &Admin,
    headers: &HeaderMap,
    ip: Option<IpAddr>,
) -> Result<Arc<KeyRecord>, Failure> {
    const UNKNOWN: Failure = Failure::Unauthorized("the API key is not valid", "Bearer");
    let hash = secret_hash(headers)?;
    let store = &admin.state.store;
    let key = store
        .key_by_hash(&hash, Freshness::Now)
        .await?
        .ok_or(UNKNOWN)?;
    let origin = headers.get(http::header::ORIGIN);
    let caller = Caller {
        ip,
        origin: origin.map(|o| o.to_str().unwrap_or("")),
        model: None,
    };
    match admit(&key, &[], &caller, admin.now()) {
        Ok(()) => Ok(key),
        Err(Denied::Deleted) => Err(UNKNOWN),
        Err(Denied::Expired) => Err(Failure::Unauthorized("the API key has expired", "Bearer")),
        Err(Denied::Disabled) => Err(Failure::Forbidden("the API key is disabled")),
        Err(Denied::IpNotAllowed) => Err(Failure::Forbidden("the address is not allowed")),
        Err(Denied::OriginNotAllowed) => Err(Failure::Forbidden("the origin is not allowed")),
        Err(Denied::ModelNotAllowed) => Err(Failure::Forbidden("the model is not allowed")),
    }
}

/// The key from `Authorization: Bearer` or `X-API-Key`; two that differ are refused.
fn secret_hash(headers: &HeaderMap) -> Result<KeyHash, Failure> {
    let bearers = headers.get_all(http::header::AUTHORIZATION).iter();
    let bearers = bearers.filter_map(|value| {
        let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
    });
    let named = headers.get_all("x-api-key").iter();
    let named = named.filter_map(|value| value.to_str().ok().map(str::trim));
    let mut hashes = bearers
        .chain(named)
        .filter(|secret| !secret.is_empty())
        .map(|secret| KeyHash::of(secret.as_bytes()));
    let missing = "send the API key as Authorization: Bearer or X-API-Key";
    let first = hashes
        .next()
        .ok_or(Failure::Unauthorized(missing, "Bearer"))?;
    if hashes.any(|other| !other.same(&first)) {
        return Err(Failure::Ambiguous);
    }
    Ok(first)
}
