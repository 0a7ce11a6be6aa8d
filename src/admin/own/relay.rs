//! `/api/usage`: a key's usage as the relay's clients ask for it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::{Extension, Json};
use http::Uri;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::event::Event;
use super::failure_schema::{Detail, OwnDetail};
use super::query::{Query, day};
use super::{Admin, Failure, OwnKey, body, key_item, standing, usd};
use crate::store::{SumBy, SumQuery, UsageQuery, UsageSum};
use crate::time::{DAY_MS, UnixMs};

/// Days of usage, where no span is named.
const DEFAULT_DAYS: i64 = 30;
const MAX_DAYS: i64 = 365;

/// The usage of a key over a span of time.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Usage {
    /// Everything that was asked, refused requests too.
    total_requests: i64,
    total_tokens: i64,
    total_prompt_tokens: i64,
    total_completion_tokens: i64,
    /// USD.
    #[schema(value_type = f64)]
    total_cost: Value,
    avg_response_time_ms: f64,
    /// Failed answers and refusals.
    error_count: i64,
    /// Percent of all requests.
    error_rate: f64,
    /// Answered requests of each model, most tokens first.
    model_usage: Vec<ModelUsage>,
    /// Most frequent first.
    error_breakdown: Vec<ErrorCount>,
}

/// The answered requests of one model.
#[derive(Debug, Serialize, ToSchema)]
struct ModelUsage {
    model: String,
    request_count: i64,
    total_tokens: i64,
}

/// How often something failed in one way.
#[derive(Debug, Serialize, ToSchema)]
struct ErrorCount {
    error_code: String,
    count: i64,
}

/// What a key has used, by default in the last 30 days, today included.
#[utoipa::path(
    get, path = "/api/usage", tag = "self-service", operation_id = "own_usage",
    params(
        ("start_date" = Option<String>, Query, description = "A UTC day or a time"),
        ("end_date" = Option<String>, Query, description = "A UTC day, which is meant whole, or a time"),
    ),
    responses(
        (status = 200, body = Usage),
        (status = 422, body = Detail, description = "A parameter makes no sense"),
        OwnDetail,
    ),
)]
pub(super) async fn usage(
    State(admin): State<Arc<Admin>>,
    Extension(own): Extension<OwnKey>,
    uri: Uri,
    body: Body,
) -> Result<Json<Usage>, Failure> {
    let mut query = Query::with_body(&uri, &body::read(body).await?)?;
    let (since, until) = query.span();
    query.finish()?;
    // Whole days, unless a time was named: they are summed up already.
    let until = until.unwrap_or_else(|| end_of_day(admin.now()));
    let since = since.unwrap_or_else(|| until.plus_ms(-DEFAULT_DAYS * DAY_MS));
    let sums = |by| SumQuery {
        key: Some(own.identity.key.id),
        since,
        until,
        by,
    };
    let store = admin.store();
    let (models, errors) = tokio::try_join!(
        store.usage_sums(sums(SumBy::Model)),
        store.usage_sums(sums(SumBy::ErrorCode)),
    )?;
    Ok(Json(Usage::of(models, errors)))
}

impl Usage {
    fn of(models: Vec<UsageSum>, errors: Vec<UsageSum>) -> Self {
        let total = |figure: fn(&UsageSum) -> i64| {
            let figures = models.iter().map(figure);
            figures.fold(0_i64, i64::saturating_add)
        };
        let (calls, failed) = (total(|sum| sum.calls), total(|sum| sum.errors));
        Usage {
            total_requests: calls,
            total_tokens: total(|sum| sum.tokens),
            total_prompt_tokens: total(|sum| sum.prompt_tokens),
            total_completion_tokens: total(|sum| sum.completion_tokens),
            total_cost: usd::show(total(|sum| sum.cost_nano)),
            avg_response_time_ms: quotient(total(|sum| sum.response_time_ms), calls),
            error_count: failed,
            error_rate: quotient(failed.saturating_mul(100), calls),
            error_breakdown: errors.into_iter().map(ErrorCount::from).collect(),
            model_usage: models
                .into_iter()
                .map(ModelUsage::from)
                .filter(|of| !of.model.is_empty() && (of.request_count, of.total_tokens) != (0, 0))
                .collect(),
        }
    }
}

impl From<UsageSum> for ModelUsage {
    fn from(sum: UsageSum) -> Self {
        ModelUsage {
            model: sum.name,
            request_count: sum.calls.saturating_sub(sum.errors),
            total_tokens: sum.tokens,
        }
    }
}

impl From<UsageSum> for ErrorCount {
    fn from(sum: UsageSum) -> Self {
        ErrorCount {
            error_code: sum.name,
            count: sum.errors,
        }
    }
}

/// With two decimals; 0 of nothing.
fn quotient(of: i64, by: i64) -> f64 {
    if by == 0 {
        return 0.0;
    }
    (of as f64 / by as f64 * 100.0).round() / 100.0
}

/// One UTC day of a key.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Day {
    /// `2026-11-21`.
    date: String,
    /// Everything that was asked, refused requests too.
    requests: i64,
    tokens: i64,
    /// USD.
    #[schema(value_type = f64)]
    cost: Value,
    /// Failed answers and refusals.
    errors: i64,
}

/// A key's usage by UTC day, newest first. Days without any are left out.
#[utoipa::path(
    get, path = "/api/usage/daily", tag = "self-service",
    params((
        "days" = Option<i64>, Query,
        description = "Up to today, today included: 1 to 365, by default 30",
    )),
    responses(
        (status = 200, body = Vec<Day>),
        (status = 422, body = Detail, description = "A parameter makes no sense"),
        OwnDetail,
    ),
)]
pub(super) async fn daily(
    State(admin): State<Arc<Admin>>,
    Extension(own): Extension<OwnKey>,
    uri: Uri,
    body: Body,
) -> Result<Json<Vec<Day>>, Failure> {
    let mut query = Query::with_body(&uri, &body::read(body).await?)?;
    let days = query.int("days", DEFAULT_DAYS, 1..=MAX_DAYS);
    query.finish()?;
    let until = end_of_day(admin.now());
    let asked = SumQuery {
        key: Some(own.identity.key.id),
        since: until.plus_ms(-days * DAY_MS),
        until,
        by: SumBy::Day,
    };
    let sums = admin.store().usage_sums(asked).await?;
    let days = sums.into_iter().rev().map(|sum| Day {
        date: sum.name,
        requests: sum.calls,
        tokens: sum.tokens,
        cost: usd::show(sum.cost_nano),
        errors: sum.errors,
    });
    Ok(Json(days.collect()))
}

/// Where the UTC day of a time ends.
fn end_of_day(at: UnixMs) -> UnixMs {
    let start = day(&at.day()).unwrap_or(at);
    start.plus_ms(DAY_MS)
}

/// A key's usage events, newest first.
#[utoipa::path(
    get, path = "/api/usage/logs", tag = "self-service", operation_id = "own_events",
    params(
        ("start_date" = Option<String>, Query, description = "A UTC day or a time"),
        ("end_date" = Option<String>, Query, description = "A UTC day, which is meant whole, or a time"),
        ("skip" = Option<i64>, Query, description = "Events to skip, by default 0"),
        ("limit" = Option<i64>, Query, description = "Events of a page: 1 to 1000, by default 100"),
    ),
    responses(
        (status = 200, body = Vec<Event>),
        (status = 422, body = Detail, description = "A parameter makes no sense"),
        OwnDetail,
    ),
)]
pub(super) async fn logs(
    State(admin): State<Arc<Admin>>,
    Extension(own): Extension<OwnKey>,
    uri: Uri,
    body: Body,
) -> Result<Json<Vec<Event>>, Failure> {
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
    Ok(Json(page.items.into_iter().map(Event::from).collect()))
}

/// The token quota of a key.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenQuota {
    /// 0 is unlimited.
    token_limit: i64,
    /// Null where it is unlimited.
    token_used: Option<i64>,
    /// Null where it is unlimited.
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
    get, path = "/api/usage/quota", tag = "self-service", operation_id = "own_token_quota",
    responses((status = 200, body = TokenQuota), OwnDetail),
)]
pub(super) async fn token_quota(
    State(admin): State<Arc<Admin>>,
    Extension(own): Extension<OwnKey>,
) -> Result<Json<TokenQuota>, Failure> {
    let tokens = key_item::tokens(&standing(&admin, &own).await?);
    let key = &own.identity.key;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(name: &str, calls: i64, errors: i64, tokens: i64) -> UsageSum {
        UsageSum {
            name: name.to_owned(),
            calls,
            errors,
            tokens,
            response_time_ms: 10 * calls,
            ..UsageSum::default()
        }
    }

    #[test]
    fn usage_counts_all_and_names_only_models_that_answered() {
        let models = vec![sum("a", 5, 2, 90), sum("", 1, 1, 0), sum("b", 3, 3, 0)];
        let usage = Usage::of(models, vec![sum("QUOTA_EXCEEDED", 6, 6, 0)]);
        assert_eq!((usage.total_requests, usage.error_count), (9, 6));
        assert_eq!(usage.error_rate, 66.67);
        assert_eq!(usage.avg_response_time_ms, 10.0);
        let [model] = &usage.model_usage[..] else {
            panic!("{usage:?}")
        };
        assert_eq!((&*model.model, model.request_count), ("a", 3));
        assert_eq!(usage.error_breakdown[0].count, 6);
    }

    #[test]
    fn nothing_has_no_rates() {
        let usage = Usage::of(Vec::new(), Vec::new());
        assert_eq!((usage.error_rate, usage.avg_response_time_ms), (0.0, 0.0));
    }
}
