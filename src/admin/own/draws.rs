//! `/api/v1`: programs that count uses of their own against the request quota of their key.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::{Extension, Json};
use http::Uri;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::body::{self, Fields};
use super::failure_schema::{Coded, OwnCoded};
use super::key_item;
use super::query::Query;
use super::{Admin, Failure, OwnKey, standing};
use crate::exchange::{DrawItem, DrawRequest, Drawn};
use crate::quota::amount::MAX_AMOUNT;
use crate::store::{UsageEvent, UsageQuery};
use crate::time::UnixMs;

const USE: &str = "/api/v1/use";
const USE_BATCH: &str = "/api/v1/use/batch";
/// Characters of a reason.
const MAX_REASON: usize = 500;

/// A key that may be used.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Valid {
    /// Always true: a key that may not be used is answered with an error.
    valid: bool,
    /// Masked.
    key: String,
    /// The request limit; 0 is unlimited.
    quota: i64,
    /// Null where it is unlimited.
    remaining: Option<i64>,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<UnixMs>,
}

/// Whether the key may be used, and how often.
#[utoipa::path(
    get, path = "/api/v1/validate", tag = "self-service",
    responses((status = 200, body = Valid), OwnCoded),
)]
pub(super) async fn validate(
    State(admin): State<Arc<Admin>>,
    Extension(own): Extension<OwnKey>,
) -> Result<Json<Valid>, Failure> {
    let requests = key_item::requests(&standing(&admin, &own).await?);
    let key = &own.identity.key;
    Ok(Json(Valid {
        valid: true,
        key: key.masked.clone(),
        quota: requests.limit,
        remaining: requests.remaining,
        expires_at: key.expires_at,
    }))
}

/// The request quota of a key.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RequestQuota {
    /// Masked.
    key: String,
    /// The request limit; 0 is unlimited.
    quota: i64,
    /// Null where it is unlimited.
    remaining: Option<i64>,
    /// Null where it is unlimited.
    used: Option<i64>,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<UnixMs>,
    /// When something was charged last.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_used: Option<UnixMs>,
}

/// How much of its request quota a key has used.
#[utoipa::path(
    get, path = "/api/v1/quota", tag = "self-service", operation_id = "own_request_quota",
    responses((status = 200, body = RequestQuota), OwnCoded),
)]
pub(super) async fn quota(
    State(admin): State<Arc<Admin>>,
    Extension(own): Extension<OwnKey>,
) -> Result<Json<RequestQuota>, Failure> {
    let requests = key_item::requests(&standing(&admin, &own).await?);
    let key = &own.identity.key;
    let activity = admin.store().activity(key.id).await?;
    Ok(Json(RequestQuota {
        key: key.masked.clone(),
        quota: requests.limit,
        remaining: requests.remaining,
        used: requests.used,
        expires_at: key.expires_at,
        last_used: activity.last_used_at,
    }))
}

/// What is to be drawn.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it describes what `item` reads")]
pub(super) struct Use {
    /// Requests to draw.
    #[schema(default = 1, minimum = 1, maximum = 9_007_199_254_740_992_i64)]
    amount: Option<i64>,
    /// What for; kept in the history.
    #[schema(max_length = 500)]
    reason: Option<String>,
    /// An object of at most 16384 bytes and 16 levels; kept in the history.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
}

fn item(fields: &mut Fields) -> DrawItem {
    DrawItem {
        amount: fields.int("amount", 1..=MAX_AMOUNT).value().unwrap_or(1),
        reason: fields.text("reason", 0..=MAX_REASON).value(),
        metadata: fields.object("metadata").value(),
    }
}

/// What was drawn.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Used {
    /// Always true: what does not fit is answered with an error.
    success: bool,
    /// Masked.
    key: String,
    amount_used: i64,
    /// What is left now; null where it is unlimited.
    remaining: Option<i64>,
    /// The request limit; 0 is unlimited.
    total_quota: i64,
}

impl Used {
    fn of(drawn: &Drawn) -> Self {
        Used {
            success: true,
            key: drawn.key.masked.clone(),
            amount_used: drawn.amount,
            remaining: drawn.remaining.last().copied().flatten(),
            total_quota: drawn.key.quotas.requests.limit,
        }
    }
}

/// Draws an amount from the request quota.
///
/// Per-minute limits do not apply. Where the amount does not fit, nothing is drawn.
#[utoipa::path(
    post, path = USE, tag = "self-service", operation_id = "use",
    request_body(content = Use, description = "May be left out: one use, for no told reason."),
    responses(
        (status = 200, body = Used),
        (status = 400, body = Coded, description = "The body makes no sense"),
        (status = 429, body = Coded, description = "The amount does not fit; nothing was drawn"),
        OwnCoded,
    ),
)]
pub(super) async fn draw(
    State(admin): State<Arc<Admin>>,
    Extension(own): Extension<OwnKey>,
    body: Body,
) -> Result<Json<Used>, Failure> {
    let mut fields = Fields::parse_optional(&body::read(body).await?)?;
    let item = item(&mut fields);
    fields.finish()?;
    let drawn = take(&admin, &own, USE, vec![item]).await?;
    Ok(Json(Used::of(&drawn)))
}

/// What was drawn together.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UsedBatch {
    #[serde(flatten)]
    used: Used,
    /// In the order in which they were asked for.
    items: Vec<UsedItem>,
}

/// One item of a batch.
#[derive(Debug, Serialize, ToSchema)]
struct UsedItem {
    amount: i64,
    reason: Option<String>,
    /// What was left after it; null where it is unlimited.
    remaining: Option<i64>,
}

/// Draws 1 to 1000 amounts from the request quota: all of them, or nothing.
///
/// Each has an entry of its own in the history. Per-minute limits do not apply.
#[utoipa::path(
    post, path = USE_BATCH, tag = "self-service", operation_id = "use_batch",
    request_body = Vec<Use>,
    responses(
        (status = 200, body = UsedBatch),
        (status = 400, body = Coded, description = "The body makes no sense"),
        (status = 429, body = Coded, description = "They do not fit together; nothing was drawn"),
        OwnCoded,
    ),
)]
pub(super) async fn draw_batch(
    State(admin): State<Arc<Admin>>,
    Extension(own): Extension<OwnKey>,
    body: Body,
) -> Result<Json<UsedBatch>, Failure> {
    let items = body::items(&body::read(body).await?, item)?;
    let total = items
        .iter()
        .map(|item| i128::from(item.amount))
        .sum::<i128>();
    if total > i128::from(MAX_AMOUNT) {
        let why = "the amounts together are more than the books take";
        return Err(Failure::invalid(why));
    }
    let asked: Vec<_> = items.iter().map(|i| (i.amount, i.reason.clone())).collect();
    let drawn = take(&admin, &own, USE_BATCH, items).await?;
    let items = asked.into_iter().zip(&drawn.remaining);
    let items = items.map(|((amount, reason), remaining)| UsedItem {
        amount,
        reason,
        remaining: *remaining,
    });
    Ok(Json(UsedBatch {
        used: Used::of(&drawn),
        items: items.collect(),
    }))
}

async fn take(
    admin: &Admin,
    own: &OwnKey,
    path: &str,
    items: Vec<DrawItem>,
) -> Result<Drawn, Failure> {
    let request = DrawRequest {
        identity: own.identity.clone(),
        caller: &own.caller,
        path,
        items,
        now: admin.now(),
    };
    let drawn = admin.state.desk.draw(request).await;
    drawn.map_err(|refusal| Failure::Refused {
        refusal,
        key: Some(own.identity.key.masked.clone()),
    })
}

/// What a key was charged for, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct History {
    history: Vec<Entry>,
    /// Of all pages together.
    total: i64,
    limit: i64,
    offset: i64,
}

/// One use, or one call that was forwarded.
#[derive(Debug, Serialize, ToSchema)]
struct Entry {
    #[schema(value_type = String, format = DateTime)]
    timestamp: UnixMs,
    /// Requests charged.
    amount: i64,
    /// The reason that was given; method and path where none was.
    reason: String,
    /// What was left after it; null where it was unlimited.
    remaining: Option<i64>,
    #[schema(value_type = Object)]
    metadata: Value,
}

impl From<UsageEvent> for Entry {
    fn from(event: UsageEvent) -> Self {
        let call = || format!("{} {}", event.request_method, event.request_path);
        Entry {
            timestamp: event.created_at,
            amount: event.requests,
            reason: event.reason.clone().unwrap_or_else(call),
            remaining: event.requests_remaining,
            metadata: event.metadata.unwrap_or_else(|| json!({})),
        }
    }
}

/// What was charged to the request quota of a key: uses and forwarded calls, newest first.
///
/// The parameters may also stand in a JSON body.
#[utoipa::path(
    get, path = "/api/v1/usage/history", tag = "self-service",
    params(
        ("limit" = Option<i64>, Query, description = "Entries of a page: 1 to 1000, by default 100"),
        ("offset" = Option<i64>, Query, description = "Entries to skip, by default 0"),
    ),
    responses(
        (status = 200, body = History),
        (status = 400, body = Coded, description = "A parameter makes no sense"),
        OwnCoded,
    ),
)]
pub(super) async fn history(
    State(admin): State<Arc<Admin>>,
    Extension(own): Extension<OwnKey>,
    uri: Uri,
    body: Body,
) -> Result<Json<History>, Failure> {
    let mut query = Query::with_body(&uri, &body::read(body).await?)?;
    let (offset, limit) = query.page_after("offset");
    query.finish()?;
    let asked = UsageQuery {
        key: Some(own.identity.key.id),
        charged_only: true,
        skip: offset,
        limit,
        ..UsageQuery::default()
    };
    let page = admin.store().usage_events(asked).await?;
    Ok(Json(History {
        history: page.items.into_iter().map(Entry::from).collect(),
        total: page.total,
        limit,
        offset,
    }))
}
