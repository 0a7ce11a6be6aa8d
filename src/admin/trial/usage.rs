//! `GET /admin/usage`: what all keys together and each of them used of their request quotas.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use http::Uri;
use serde::Serialize;
use utoipa::ToSchema;

use super::{KeyLine, lines};
use crate::admin::failure::Failure;
use crate::admin::failure_schema::{Coded, OperatorCoded};
use crate::admin::query::Query;
use crate::admin::{Admin, body, key_item};
use crate::store::{SumBy, SumQuery};
use crate::time::UnixMs;

/// The request quotas of all keys, and what was used of them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeysUsage {
    summary: Summary,
    /// In order of creation.
    details: Vec<KeyLine>,
}

/// All keys together. Of the figures that are null in the details nothing is counted.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Summary {
    total_keys: usize,
    total_quota: i64,
    total_used: i64,
    total_remaining: i64,
    /// Neither disabled nor expired.
    active_keys: usize,
    expired_keys: usize,
}

impl Summary {
    fn add(&mut self, line: &KeyLine, standing: &Standing) {
        let sum = |total: &mut i64, more: i64| *total = total.saturating_add(more);
        self.total_keys += 1;
        sum(&mut self.total_quota, line.quota);
        sum(&mut self.total_used, line.used.unwrap_or(0));
        sum(&mut self.total_remaining, line.remaining.unwrap_or(0));
        self.active_keys += usize::from(standing.is_active && !standing.is_expired);
        self.expired_keys += usize::from(standing.is_expired);
    }
}

/// Whether a key may be used.
struct Standing {
    is_active: bool,
    is_expired: bool,
}

/// What keys have used of their request quotas, deleted keys left out.
///
/// Without dates `used` is what counts against the quota now. With one or both of them, which may also
/// stand in a JSON body, it is what was charged in that span, also of unlimited keys; `remaining` is
/// what is left now all the same.
#[utoipa::path(
    get, path = "/admin/usage", tag = "trial keys", operation_id = "trial_keys_usage",
    params(
        ("startDate" = Option<String>, Query, description = "A UTC day or a time"),
        ("endDate" = Option<String>, Query, description = "A UTC day, which is meant whole, or a time"),
    ),
    responses(
        (status = 200, body = KeysUsage),
        (status = 400, body = Coded, description = "A parameter makes no sense"),
        OperatorCoded,
    ),
)]
pub(super) async fn usage(
    State(admin): State<Arc<Admin>>,
    uri: Uri,
    body: Body,
) -> Result<Json<KeysUsage>, Failure> {
    let mut query = Query::with_body(&uri, &body::read(body).await?)?;
    let span = query.span_named("startDate", "endDate");
    query.finish()?;
    let charged = match span {
        (None, None) => None,
        (since, until) => Some(charged(&admin, since, until).await?),
    };
    let now = admin.now();
    let all = lines(&admin, |key, figures| {
        let mut line = KeyLine::of(key, figures);
        if let Some(charged) = &charged {
            let name = key.id.0.to_string();
            line.used = Some(charged.get(&name).copied().unwrap_or(0));
        }
        let standing = Standing {
            is_active: key.active,
            is_expired: key_item::is_expired(key, now),
        };
        (line, standing)
    });
    let all = all.await?;
    let mut summary = Summary::default();
    for (line, standing) in &all {
        summary.add(line, standing);
    }
    let details = all.into_iter().map(|(line, _)| line).collect();
    Ok(Json(KeysUsage { summary, details }))
}

/// Requests charged in a span, by the key's id.
async fn charged(
    admin: &Admin,
    since: Option<UnixMs>,
    until: Option<UnixMs>,
) -> Result<HashMap<String, i64>, Failure> {
    let asked = SumQuery {
        key: None,
        since: since.unwrap_or_default(),
        // Nothing is of later than now; the books know how far time goes.
        until: until.unwrap_or(UnixMs(i64::MAX)),
        by: SumBy::Key,
    };
    let sums = admin.store().usage_sums(asked).await?;
    Ok(sums
        .into_iter()
        .map(|sum| (sum.name, sum.requests))
        .collect())
}
