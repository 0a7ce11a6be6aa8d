//! Who changed what, and when; and whether the books are in order.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::Uri;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::failure::Failure;
use super::query::Query;
use super::{Admin, usd};
use crate::quota::Amounts;
use crate::store::{AuditEntry, Check, Invariants};
use crate::time::UnixMs;

/// One change that somebody made.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditItem {
    #[schema(value_type = String, format = DateTime)]
    at: UnixMs,
    /// A user's name, or `token` for the admin token.
    who: String,
    /// What was done: `create key`, `change group` …
    what: String,
    /// The id of what was changed.
    subject: String,
    /// What it was before; null where it was made. Secrets are left out.
    #[schema(value_type = Option<Object>)]
    before: Option<Value>,
    /// What it is since; null where it was deleted.
    #[schema(value_type = Option<Object>)]
    after: Option<Value>,
}

/// A page of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditPage {
    items: Vec<AuditItem>,
    total: i64,
    skip: i64,
    limit: i64,
}

impl From<AuditEntry> for AuditItem {
    fn from(entry: AuditEntry) -> Self {
        AuditItem {
            at: entry.at,
            who: entry.who,
            what: entry.what,
            subject: entry.subject,
            before: entry.before,
            after: entry.after,
        }
    }
}

/// Who changed what, newest first.
#[utoipa::path(
    get, path = "/admin/audit", tag = "books",
    params(
        ("skip" = Option<u32>, Query, description = "Changes to leave out; 0 by default."),
        ("limit" = Option<u32>, Query, description = "Changes at most; 100 by default.", minimum = 1, maximum = 1000),
    ),
    responses((status = 200, body = AuditPage)),
)]
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    uri: Uri,
) -> Result<Json<AuditPage>, Failure> {
    let mut query = Query::of(&uri);
    let (skip, limit) = query.page();
    query.finish()?;
    let page = admin.store().audit(skip, limit).await?;
    Ok(Json(AuditPage {
        items: page.items.into_iter().map(AuditItem::from).collect(),
        total: page.total,
        skip,
        limit,
    }))
}

/// Requests, tokens and USD together.
#[derive(Debug, Serialize, ToSchema)]
pub struct AmountsItem {
    requests: i64,
    tokens: i64,
    #[schema(value_type = f64)]
    usd: Value,
}

impl From<Amounts> for AmountsItem {
    fn from(amounts: Amounts) -> Self {
        AmountsItem {
            requests: amounts.requests,
            tokens: amounts.tokens,
            usd: usd::show(amounts.nano_usd),
        }
    }
}

/// One invariant of the books, checked now.
#[derive(Debug, Serialize, ToSchema)]
pub struct CheckItem {
    /// `I1` to `I5`.
    id: Cow<'static, str>,
    /// What must hold.
    says: Cow<'static, str>,
    holds: bool,
    /// Scopes, reservations or events that were looked at.
    checked: i64,
    violations: i64,
    /// The first violations, in words.
    examples: Vec<String>,
}

impl From<Check> for CheckItem {
    fn from(check: Check) -> Self {
        CheckItem {
            id: check.id,
            says: check.says,
            holds: check.holds,
            checked: check.checked,
            violations: check.violations,
            examples: check.examples,
        }
    }
}

/// The sums of the books, and what must hold of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct InvariantsItem {
    /// Whether every invariant holds.
    holds: bool,
    /// Settled in the current windows, over all keys.
    settled: AmountsItem,
    /// Held by running requests.
    held: AmountsItem,
    open_reservations: i64,
    checks: Vec<CheckItem>,
}

/// The invariants of the books, checked now. Reads everything: not for monitoring by the second.
#[utoipa::path(
    get, path = "/admin/invariants", tag = "books",
    responses((status = 200, body = InvariantsItem)),
)]
pub(super) async fn invariants(
    State(admin): State<Arc<Admin>>,
) -> Result<Json<InvariantsItem>, Failure> {
    let Invariants {
        settled,
        held,
        open_reservations,
        checks,
    } = admin.store().invariants().await?;
    Ok(Json(InvariantsItem {
        holds: checks.iter().all(|check| check.holds),
        settled: settled.into(),
        held: held.into(),
        open_reservations,
        checks: checks.into_iter().map(CheckItem::from).collect(),
    }))
}
