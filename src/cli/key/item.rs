//! A key as the admin API tells of it, and how one is found.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Number, Value, json};

use crate::cli::remote::Remote;
use crate::cli::screen::Screen;
use crate::cli::table::{Cell, Tone};
use crate::time::UnixMs;

/// Keys of one page.
const PAGE: usize = 1_000;
/// The items of a listing.
pub const KEYS: &str = "/admin/api-keys";

/// What is shown of a key.
#[derive(Debug, Deserialize)]
pub struct KeyItem {
    pub id: String,
    pub seq: i64,
    pub name: String,
    pub key_prefix: String,
    pub rate_limit_tier: String,
    token_limit: i64,
    token_used: Option<i64>,
    request_limit: i64,
    request_used: Option<i64>,
    usd_limit: Number,
    usd_used: Option<Number>,
    pub period: String,
    is_active: bool,
    pub request_count: i64,
    pub error_count: i64,
    pub description: Option<String>,
    pub created_at: UnixMs,
    pub last_used_at: Option<UnixMs>,
    pub expires_at: Option<UnixMs>,
}

impl KeyItem {
    /// # Errors
    /// The answer is of another release.
    pub fn of(item: &Value) -> Result<Self, String> {
        KeyItem::deserialize(item)
            .map_err(|fault| format!("the admin service tells of a key in an unknown way: {fault}"))
    }

    /// `used/limit` of requests, tokens and USD.
    pub fn quotas(&self) -> [Cell; 3] {
        [
            quota(self.request_used, self.request_limit, i64::to_string),
            quota(self.token_used, self.token_limit, i64::to_string),
            {
                let used = self.usd_used.as_ref().and_then(Number::as_f64);
                let limit = self.usd_limit.as_f64().unwrap_or(0.0);
                quota(used, limit, ToString::to_string)
            },
        ]
    }

    pub fn state(&self, now: UnixMs) -> Cell {
        let spent = |used: Option<i64>, limit| used.is_some_and(|used| used >= limit);
        let usd = self.usd_used.as_ref().and_then(Number::as_f64);
        let is_spent = spent(self.request_used, self.request_limit)
            || spent(self.token_used, self.token_limit)
            || usd.is_some_and(|used| Some(used) >= self.usd_limit.as_f64());
        if !self.is_active {
            Cell::toned("disabled", Tone::Faint)
        } else if self.expires_at.is_some_and(|end| end <= now) {
            Cell::toned("expired", Tone::Bad)
        } else if is_spent {
            Cell::toned("used up", Tone::Bad)
        } else {
            Cell::toned("active", Tone::Good)
        }
    }
}

/// `used/limit`; a dash where there is no limit.
fn quota<T: PartialOrd + Default>(used: Option<T>, limit: T, show: impl Fn(&T) -> String) -> Cell {
    match used {
        Some(used) if limit != T::default() => {
            let tone = match used >= limit {
                true => Tone::Bad,
                false => Tone::Plain,
            };
            Cell::toned(format!("{}/{}", show(&used), show(&limit)), tone)
        }
        _ => Cell::toned("-", Tone::Faint),
    }
}

/// A time to the minute, UTC.
pub fn minute(at: Option<UnixMs>) -> String {
    match at {
        Some(at) => at
            .to_rfc3339()
            .chars()
            .take(16)
            .collect::<String>()
            .replace('T', " "),
        None => String::from("-"),
    }
}

/// Every key, page by page.
///
/// # Errors
/// The service's, as text.
pub async fn all(
    remote: &Remote,
    screen: &mut Screen<'_>,
    active_only: bool,
) -> Result<Vec<Value>, String> {
    let limit = PAGE.to_string();
    let active_only = active_only.to_string();
    let mut keys: Vec<Value> = Vec::new();
    loop {
        let skip = keys.len().to_string();
        let query = [
            ("skip", &*skip),
            ("limit", &*limit),
            ("active_only", &*active_only),
        ];
        let mut page = remote.get(KEYS, &query).await?;
        let total = page["total"].as_u64().unwrap_or(0);
        let Value::Array(items) = page["items"].take() else {
            return Err(String::from("the admin service answers no list of keys"));
        };
        let is_last = items.len() < PAGE;
        keys.extend(items);
        if is_last || keys.len() as u64 >= total {
            return Ok(keys);
        }
        screen.progress(&format!("{} of {total} keys", keys.len()));
    }
}

/// The key that a person means: by id, by number, or by a name that only one key has.
///
/// # Errors
/// There is none, or there are several.
pub async fn find(remote: &Remote, screen: &mut Screen<'_>, meant: &str) -> Result<Value, String> {
    if uuid::Uuid::try_parse(meant).is_ok() {
        return match remote.get(&format!("{KEYS}/{meant}"), &[]).await {
            // A deleted key still has its usage, and can be deleted for good.
            Err(fault) if fault.status == Some(StatusCode::NOT_FOUND) => {
                Ok(json!({"id": meant, "name": meant}))
            }
            found => Ok(found?),
        };
    }
    let keys = all(remote, screen, false).await?;
    let number = meant.parse::<i64>().ok();
    let numbered = keys
        .iter()
        .find(|key| number.is_some() && key["seq"].as_i64() == number);
    if let Some(key) = numbered {
        return Ok(key.clone());
    }
    let named: Vec<&Value> = keys.iter().filter(|key| key["name"] == *meant).collect();
    match named.as_slice() {
        [key] => Ok((*key).clone()),
        [] => Err(format!(
            "no key has the id, number or name {meant:?}; `quota-proxy key list` shows all"
        )),
        several => {
            let which: Vec<String> = several.iter().map(|key| key["seq"].to_string()).collect();
            Err(format!(
                "{} keys have the name {meant:?}: say which by number: {}",
                several.len(),
                which.join(", ")
            ))
        }
    }
}
