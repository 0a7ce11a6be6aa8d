//! The tokens of new-api and one-api, as `GET /api/token/` answers them or their table is exported.
//! A key stands there without the `sk-` that clients send before it.
//!
//! Fields: `model/token.go` of both projects; a quota of 500,000 is a USD.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::documents::{items, unexpected};
use super::item::{Budget, Credential, NewKey, Read, Remarks};
use crate::keys::Secret;
use crate::quota::NANO_PER_USD;
use crate::time::UnixMs;

const PREFIX: &str = "sk-";
const NANO_PER_QUOTA: i64 = NANO_PER_USD / 500_000;
const ENABLED: i64 = 1;
/// Used up: its quota says so here too.
const EXHAUSTED: i64 = 4;

const EXPIRED: &str = "expired: left out";
const NOTHING_LEFT: &str = "nothing used and nothing left, which is no limit here: made disabled";

/// A page: `data` is the list, or an object that holds it.
#[derive(Deserialize)]
struct Page {
    data: Option<Box<RawValue>>,
    items: Option<Vec<Box<RawValue>>>,
}

/// A row of the table. What was `NULL` or written as 0 and 1 in an export is borne.
#[derive(Deserialize)]
struct Token {
    id: Option<i64>,
    key: String,
    name: Option<String>,
    status: Option<i64>,
    expired_time: Option<i64>,
    remain_quota: Option<i64>,
    used_quota: Option<i64>,
    unlimited_quota: Option<Value>,
    model_limits_enabled: Option<Value>,
    /// new-api's list of models, with commas.
    model_limits: Option<String>,
    /// one-api's.
    models: Option<String>,
    /// new-api's addresses, one a line.
    allow_ips: Option<String>,
    /// one-api's networks, with commas.
    subnet: Option<String>,
    group: Option<String>,
}

/// # Errors
/// Every fault, by the token's place in the file.
pub fn read(text: &str, now: UnixMs) -> Result<Read, Vec<String>> {
    let rows = items(text, items_of).map_err(|fault| vec![fault])?;
    Read::each(&rows, "token", |row, remarks| key(row.get(), now, remarks))
}

fn items_of(page: Page) -> Result<Vec<Box<RawValue>>, String> {
    if let Some(items) = page.items {
        return Ok(items);
    }
    let data = page
        .data
        .ok_or("is no token list of new-api: it has no `data`")?;
    if let Ok(items) = serde_json::from_str(data.get()) {
        return Ok(items);
    }
    let inner: Page = serde_json::from_str(data.get()).map_err(|fault| unexpected(&fault))?;
    inner
        .items
        .ok_or_else(|| String::from("is no token list of new-api: `data` has no `items`"))
}

/// `None` for a token that is of no use any more.
fn key(row: &str, now: UnixMs, remarks: &mut Remarks) -> Result<Option<NewKey>, String> {
    let token: Token = serde_json::from_str(row).map_err(|fault| unexpected(&fault))?;
    if token.key.contains('*') {
        return Err(String::from(
            "its key is masked; export the table `tokens` of the database, which holds it whole",
        ));
    }
    let bare = token.key.strip_prefix(PREFIX).unwrap_or(&token.key);
    if bare.is_empty() {
        return Err(String::from("its key is empty"));
    }
    let secret = Secret::new(format!("{PREFIX}{bare}"));
    let name = token.name.filter(|name| !name.trim().is_empty());
    let name = name.unwrap_or_else(|| format!("new-api-{}", token.id.unwrap_or(0)));
    let mut key = NewKey::new(name, Credential::Secret(secret));
    if let Some(end) = token.expired_time.filter(|end| *end > 0) {
        let end = UnixMs(end.saturating_mul(1_000));
        if end <= now {
            remarks.add(EXPIRED, &key.name);
            return Ok(None);
        }
        key.expires = Some(end.to_rfc3339());
    }
    key.active = matches!(token.status.unwrap_or(ENABLED), ENABLED | EXHAUSTED);
    let used = token.used_quota.unwrap_or(0).max(0);
    let limit = match is_true(token.unlimited_quota.as_ref()) {
        true => None,
        false => Some(used.saturating_add(token.remain_quota.unwrap_or(0))),
    };
    key.usd = Budget {
        limit: limit.unwrap_or(0).max(0).saturating_mul(NANO_PER_QUOTA),
        used: used.saturating_mul(NANO_PER_QUOTA),
    };
    if limit.is_some_and(|limit| limit <= 0) {
        remarks.add(NOTHING_LEFT, &key.name);
        key.active = false;
    }
    let of_new_api = token
        .model_limits
        .filter(|_| is_true(token.model_limits_enabled.as_ref()));
    let models = of_new_api.or(token.models).unwrap_or_default();
    key.allowed_models = parts(&models);
    key.allowed_ips = parts(&token.allow_ips.or(token.subnet).unwrap_or_default());
    // Everybody's group and the choice of any say nothing here.
    key.group = token
        .group
        .filter(|group| !matches!(group.as_str(), "" | "default" | "auto"));
    Ok(Some(key))
}

fn is_true(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Bool(flag)) => *flag,
        Some(Value::Number(number)) => number.as_i64() != Some(0),
        _ => false,
    }
}

/// A list with commas or line breaks between its parts.
fn parts(text: &str) -> Vec<String> {
    let parts = text
        .split([',', '\n'])
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}
