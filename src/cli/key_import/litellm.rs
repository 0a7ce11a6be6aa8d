//! LiteLLM's virtual keys, as `GET /key/list?return_full_object=true` and `GET /key/info` answer them.
//! `token` is the SHA-256 of the key in hexadecimal digits, so that clients keep their keys.
//!
//! Fields: LiteLLM's table `LiteLLM_VerificationToken`, documented at
//! <https://docs.litellm.ai/docs/proxy/virtual_keys>.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::documents::{items, unexpected};
use super::item::{Budget, Credential, NewKey, Read, Remarks};
use crate::keys::{KeyHash, Secret};
use crate::quota::money::{Decimal, NANO_PLACES};
use crate::time::UnixMs;

const RATES: &str = "tpm_limit, rpm_limit or max_parallel_requests: a tier of the configuration says that here; name one with --tier";
const NO_BUDGET: &str = "a budget of 0, which is no limit here: made disabled";
const EXPIRED: &str = "expired: left out";
const DURATION: &str =
    "a budget_duration that is no day, week or month: the next longer period is taken, or total";
const MODEL_BUDGETS: &str = "model_max_budget: no such limit here, left out";
const TEAM: &str =
    "belong to a team, whose budget and models are a group here: make one and put them in";
const MODELS: &str = "models that stand for others' (all-team-models, no-default-models): allowed no model here; set allowed_models";
const METADATA: &str = "metadata of more than 16 KiB: left out";
/// What the admin API keeps.
const MAX_METADATA: usize = 16 * 1024;

const DAY_SECONDS: i64 = 86_400;

/// A page of the list, or the answer about one key or several.
#[derive(Deserialize)]
struct Page {
    keys: Option<Vec<Box<RawValue>>>,
    info: Option<Box<RawValue>>,
    key: Option<Value>,
}

/// A row of the table; what is not here has no counterpart.
#[derive(Deserialize)]
struct Key {
    token: Option<String>,
    key_name: Option<String>,
    key_alias: Option<String>,
    spend: Option<Box<RawValue>>,
    max_budget: Option<Box<RawValue>>,
    budget_duration: Option<String>,
    litellm_budget_table: Option<Shared>,
    expires: Option<String>,
    models: Option<Vec<String>>,
    metadata: Option<Map<String, Value>>,
    tpm_limit: Option<i64>,
    rpm_limit: Option<i64>,
    max_parallel_requests: Option<i64>,
    model_max_budget: Option<Map<String, Value>>,
    blocked: Option<bool>,
    team_id: Option<String>,
    user_id: Option<String>,
}

/// A budget that several keys name.
#[derive(Deserialize)]
struct Shared {
    max_budget: Option<Box<RawValue>>,
    budget_duration: Option<String>,
}

/// # Errors
/// Every fault, by the key's place in the file.
pub fn read(text: &str, now: UnixMs) -> Result<Read, Vec<String>> {
    let rows = items(text, items_of).map_err(|fault| vec![fault])?;
    Read::each(&rows, "key", |row, remarks| key(row.get(), now, remarks))
}

/// `/key/info` leaves the token out of what it tells: it is what was asked for.
fn items_of(page: Page) -> Result<Vec<Box<RawValue>>, String> {
    if let Some(keys) = page.keys {
        return Ok(keys);
    }
    let (Some(info), Some(asked)) = (page.info, page.key) else {
        return Err(String::from(
            "is no answer of LiteLLM's /key/list or /key/info: it has neither `keys` nor `key` and `info`",
        ));
    };
    let (infos, asked) = match asked {
        Value::Array(asked) => (parsed(&info)?, asked),
        one => (vec![parsed(&info)?], vec![one]),
    };
    let pairs = infos.into_iter().zip(asked);
    let rows = pairs.map(|(mut info, token): (Map<String, Value>, Value)| {
        info.entry("token").or_insert(token);
        serde_json::value::to_raw_value(&info).map_err(|fault| unexpected(&fault))
    });
    rows.collect()
}

fn parsed<T: for<'de> Deserialize<'de>>(raw: &RawValue) -> Result<T, String> {
    serde_json::from_str(raw.get()).map_err(|fault| unexpected(&fault))
}

/// `None` for a key that is of no use any more.
fn key(row: &str, now: UnixMs, remarks: &mut Remarks) -> Result<Option<NewKey>, String> {
    if row.starts_with('"') {
        return Err(String::from(
            "only its hash stands here; ask for /key/list?return_full_object=true",
        ));
    }
    let row: Key = serde_json::from_str(row).map_err(|fault| unexpected(&fault))?;
    let credential = credential(row.token.as_deref().unwrap_or_default())?;
    let name = name_of(&row, &credential);
    let expires = row.expires.as_deref().map(|text| {
        let naive = || UnixMs::parse_rfc3339(&format!("{text}Z"));
        let at = UnixMs::parse_rfc3339(text).or_else(naive);
        at.ok_or_else(|| format!("expires: found {text:?}, expected a time"))
    });
    let expires = expires.transpose()?;
    if expires.is_some_and(|end| end <= now) {
        remarks.add(EXPIRED, &name);
        return Ok(None);
    }
    let mut key = NewKey::new(name, credential);
    key.mask = row
        .key_name
        .clone()
        .filter(|shown| (1..=24).contains(&shown.chars().count()));
    key.expires = expires.map(UnixMs::to_rfc3339);
    key.active = !row.blocked.unwrap_or(false);
    set_budget(&mut key, &row, remarks)?;
    set_models(&mut key, row.models.clone().unwrap_or_default(), remarks);
    let rates = [row.tpm_limit, row.rpm_limit, row.max_parallel_requests];
    if rates.iter().any(Option::is_some) {
        remarks.add(RATES, &key.name);
    }
    if row
        .model_max_budget
        .as_ref()
        .is_some_and(|budgets| !budgets.is_empty())
    {
        remarks.add(MODEL_BUDGETS, &key.name);
    }
    if row.team_id.is_some() {
        remarks.add(TEAM, &key.name);
    }
    set_metadata(&mut key, row, remarks);
    Ok(Some(key))
}

/// LiteLLM takes what begins with `sk-` for a key and all else for a hash.
fn credential(token: &str) -> Result<Credential, String> {
    if token.starts_with("sk-") {
        return Ok(Credential::Secret(Secret::new(token)));
    }
    let hash = KeyHash::from_hex(token);
    hash.map(Credential::Hash).ok_or_else(|| {
        String::from(
            "token: expected the 64 hexadecimal digits of its hash, or a key that begins with sk-",
        )
    })
}

fn name_of(row: &Key, credential: &Credential) -> String {
    let given = [&row.key_alias, &row.key_name];
    let given = given
        .into_iter()
        .flatten()
        .find(|name| !name.trim().is_empty());
    given.cloned().unwrap_or_else(|| {
        let hash = match credential {
            Credential::Hash(hash) => *hash,
            Credential::Secret(secret) => secret.hash(),
        };
        format!("litellm-{}", hash.to_hex().get(..8).unwrap_or_default())
    })
}

fn set_budget(key: &mut NewKey, row: &Key, remarks: &mut Remarks) -> Result<(), String> {
    let shared = row.litellm_budget_table.as_ref();
    let budget = row.max_budget.as_ref();
    let budget = budget.or_else(|| shared.and_then(|shared| shared.max_budget.as_ref()));
    let limit = budget.map(|raw| nano("max_budget", raw)).transpose()?;
    let used = row
        .spend
        .as_ref()
        .map(|raw| nano("spend", raw))
        .transpose()?;
    key.usd = Budget {
        limit: limit.unwrap_or(0).max(0),
        used: used.unwrap_or(0).max(0),
    };
    if limit.is_some_and(|limit| limit <= 0) {
        remarks.add(NO_BUDGET, &key.name);
        key.active = false;
    }
    let duration = row.budget_duration.as_deref();
    let duration = duration.or_else(|| shared.and_then(|shared| shared.budget_duration.as_deref()));
    if let Some(duration) = duration {
        let (period, is_exact) = period_of(duration);
        key.period = Some(period);
        if !is_exact {
            remarks.add(DURATION, &key.name);
        }
    }
    Ok(())
}

/// USD that LiteLLM computed in floats, in nano-USD.
fn nano(field: &str, raw: &RawValue) -> Result<i64, String> {
    let number = Decimal::parse(raw.get().trim_matches('"'));
    let nano = number.and_then(|number| number.rounded(NANO_PLACES));
    nano.ok_or_else(|| format!("{field}: expected USD as a number"))
}

/// The period that gives no more than such a budget gave, and whether it is the same.
fn period_of(duration: &str) -> (&'static str, bool) {
    let digits = duration.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = duration.split_at(digits);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => DAY_SECONDS,
        "w" => 7 * DAY_SECONDS,
        "mo" => 30 * DAY_SECONDS,
        _ => return ("total", false),
    };
    let seconds = count
        .parse::<i64>()
        .ok()
        .and_then(|count| count.checked_mul(unit));
    match seconds {
        Some(seconds) if seconds <= DAY_SECONDS => ("daily", seconds == DAY_SECONDS),
        Some(seconds) if seconds <= 7 * DAY_SECONDS => ("weekly", seconds == 7 * DAY_SECONDS),
        Some(seconds) if seconds <= 31 * DAY_SECONDS => ("monthly", seconds >= 28 * DAY_SECONDS),
        _ => ("total", false),
    }
}

fn set_models(key: &mut NewKey, models: Vec<String>, remarks: &mut Remarks) {
    if models
        .iter()
        .any(|model| model == "all-proxy-models" || model == "*")
    {
        return;
    }
    if models
        .iter()
        .any(|model| model == "all-team-models" || model == "no-default-models")
    {
        remarks.add(MODELS, &key.name);
    }
    key.allowed_models = models;
}

fn set_metadata(key: &mut NewKey, row: Key, remarks: &mut Remarks) {
    let mut metadata = row.metadata.unwrap_or_default();
    let ids = [
        ("litellm_team_id", row.team_id),
        ("litellm_user_id", row.user_id),
    ];
    for (name, id) in ids {
        if let Some(id) = id {
            metadata.insert(name.to_owned(), json!(id));
        }
    }
    if metadata.is_empty() {
        return;
    }
    let metadata = Value::Object(metadata);
    match metadata.to_string().len() <= MAX_METADATA {
        true => key.metadata = Some(metadata),
        false => remarks.add(METADATA, &key.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_period_gives_more_than_the_budget_gave() {
        for (duration, expected) in [
            ("30s", ("daily", false)),
            ("24h", ("daily", true)),
            ("1d", ("daily", true)),
            ("3d", ("weekly", false)),
            ("7d", ("weekly", true)),
            ("1w", ("weekly", true)),
            ("30d", ("monthly", true)),
            ("1mo", ("monthly", true)),
            ("14d", ("monthly", false)),
            ("90d", ("total", false)),
            ("soon", ("total", false)),
            ("99999999999999999999d", ("total", false)),
        ] {
            assert_eq!(period_of(duration), expected, "{duration}");
        }
    }
}
