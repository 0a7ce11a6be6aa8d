//! `POST /admin/api-keys/import`: keys that are in use elsewhere, by their secrets or by the hashes of
//! them, and what they have used there. Clients keep their keys.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::{Extension, Json};
use http::HeaderMap;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::{Operator, language};
use super::body::{self, Fields, Given};
use super::failure::Failure;
use super::fault::Fault;
use super::groups::within;
use super::key_change::{self, KeyChange};
use super::key_making::{shown, update};
use super::keys::{group_of, read_change};
use super::paths::Shape;
use super::{Admin, audit_entry};
use crate::keys::{KeyHash, KeyId, KeyRecord, Secret};
use crate::language::Language;
use crate::quota::{Amounts, GroupId};
use crate::store::StoreError;
use crate::time::UnixMs;

/// Keys of one request at most.
const MAX_ITEMS: usize = 1_000;
/// Letters of a secret: fewer are guessed, more are no key.
const SECRET_LETTERS: std::ops::RangeInclusive<usize> = 16..=255;
const PATH: &str = "/admin/api-keys/import";

/// One key of an import: what `POST /admin/api-keys` takes, its secret or the secret's hash, and what
/// it has used so far.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the body to the API's readers")]
pub struct KeyToImport {
    name: String,
    /// The whole key as clients send it. This or `api_key_sha256`.
    api_key: Option<String>,
    /// SHA-256 of the whole key, 64 hexadecimal digits.
    api_key_sha256: Option<String>,
    /// How the key is shown; without it, its first and last letters where they are known.
    key_prefix: Option<String>,
    /// What stands before the `_` of a secret that a rotation makes.
    prefix: Option<String>,
    description: Option<String>,
    /// 0, the default here, is unlimited.
    token_limit: Option<i64>,
    request_limit: Option<i64>,
    /// USD.
    usd_limit: Option<f64>,
    /// `total`, `daily`, `weekly` or `monthly`.
    period: Option<String>,
    rate_limit_tier: Option<String>,
    /// The id or the name of a group.
    group: Option<String>,
    expires_at: Option<String>,
    allowed_ips: Option<Vec<String>>,
    denied_ips: Option<Vec<String>>,
    allowed_origins: Option<Vec<String>>,
    allowed_models: Option<Vec<String>>,
    #[schema(value_type = Object)]
    metadata: Option<Value>,
    is_active: Option<bool>,
    used_tokens: Option<i64>,
    used_requests: Option<i64>,
    /// USD.
    used_usd: Option<f64>,
}

/// What became of an import.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Imported {
    items: Vec<ImportedKey>,
    refused: Vec<RefusedKey>,
}

/// A key that was taken in.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImportedKey {
    /// Its place in the request, from 0.
    index: usize,
    #[schema(value_type = Uuid)]
    id: KeyId,
    seq: i64,
    name: String,
    key_prefix: String,
}

/// A key that was not.
#[derive(Debug, Serialize, ToSchema)]
pub struct RefusedKey {
    index: usize,
    name: String,
    /// `CONFLICT` where a key with this secret exists.
    code: String,
    message: String,
}

/// Takes in keys that are in use elsewhere. A fault in any of them refuses all; after that each key is
/// taken in or refused for itself.
#[utoipa::path(
    post, path = "/admin/api-keys/import", tag = "keys",
    request_body = Vec<KeyToImport>,
    responses(
        (status = 200, body = Imported),
        (status = 401, description = "not signed in"),
        (status = 422, description = "faults, every one of them"),
    ),
)]
pub(super) async fn import(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Imported>, Failure> {
    let wanted = read(&admin, &body::read(body).await?).await?;
    let language = language(&headers);
    let mut imported = Imported::default();
    let mut away: Option<Failure> = None;
    for (index, wanted) in wanted.into_iter().enumerate() {
        let name = wanted.key.name.clone();
        let done = match &away {
            Some(failure) => Err(failure.clone()),
            None => take_in(&admin, &who, wanted).await,
        };
        match done {
            Ok(key) => imported.items.push(ImportedKey {
                index,
                id: key.id,
                seq: key.seq,
                name,
                key_prefix: key.masked.clone(),
            }),
            Err(failure) => {
                failure.log();
                imported
                    .refused
                    .push(refused(index, name, &failure, language));
                // A store that is away would be waited for once per key.
                if matches!(failure, Failure::Store(StoreError::Unavailable(_))) {
                    away = Some(failure);
                }
            }
        }
    }
    Ok(Json(imported))
}

fn refused(index: usize, name: String, failure: &Failure, language: Language) -> RefusedKey {
    let (_, body) = failure.shown(Shape::Coded, language);
    let text = |field: &str| body["error"][field].as_str().unwrap_or("").to_owned();
    RefusedKey {
        index,
        name,
        code: text("code"),
        message: text("message"),
    }
}

/// A key as it shall be, and what it has used.
struct Wanted {
    key: KeyRecord,
    used: Amounts,
}

/// Every item, or every fault of all of them.
async fn read(admin: &Admin, body: &[u8]) -> Result<Vec<Wanted>, Failure> {
    let items: Vec<Box<RawValue>> = serde_json::from_slice(body)
        .map_err(|e| Failure::invalid(format!("the body must be an array of objects: {e}")))?;
    if items.len() > MAX_ITEMS {
        let count = items.len();
        let words = format!("{count} keys, more than {MAX_ITEMS} in one request");
        return Err(Failure::invalid(words));
    }
    let (mut wanted, mut faults) = (Vec::new(), Vec::new());
    let mut groups = HashMap::new();
    for (index, item) in items.iter().enumerate() {
        let read = read_item(admin, item.get(), &mut groups).await;
        match read.map_err(within(&format!("[{index}]"))) {
            Ok(item) => wanted.push(item),
            Err(Failure::Invalid(more)) => faults.extend(more),
            Err(other) => return Err(other),
        }
    }
    match faults.is_empty() {
        true => Ok(wanted),
        false => Err(Failure::Invalid(faults)),
    }
}

async fn read_item(
    admin: &Admin,
    item: &str,
    groups: &mut HashMap<String, GroupId>,
) -> Result<Wanted, Failure> {
    let mut fields = Fields::parse(item.as_bytes())?;
    let identity = identity(&mut fields);
    let prefix = key_change::prefix(&mut fields).value();
    let used = Amounts {
        requests: fields.limit("used_requests").value().unwrap_or(0),
        tokens: fields.limit("used_tokens").value().unwrap_or(0),
        nano_usd: fields.usd("used_usd").value().unwrap_or(0),
    };
    let change = read_change(admin, &mut fields);
    if !matches!(change.name, Given::Value(_)) {
        fields.require("name");
    }
    fields.finish()?;
    let Some((hash, masked)) = identity else {
        return Err(Failure::invalid("has no key"));
    };
    let group = known_group(admin, &change, groups).await?;
    Ok(Wanted {
        key: record(hash, masked, prefix, change, group, admin.now()),
        used,
    })
}

/// The hash of the secret and how it is shown; `None` where a fault says why. A value that is wrong is
/// not repeated in the answer: it may be a secret.
fn identity(fields: &mut Fields) -> Option<(KeyHash, String)> {
    let text = |raw: &str| Some(serde_json::from_str::<String>(raw).ok());
    let key = fields.take("api_key", "text", text).value();
    let hash = fields.take("api_key_sha256", "text", text).value();
    let shown = fields.text("key_prefix", 1..=24).value();
    let found = match (key, hash) {
        (Some(Some(key)), None) => {
            let fits = SECRET_LETTERS.contains(&key.len())
                && key.bytes().all(|byte| byte.is_ascii_graphic());
            let secret = Secret::new(key);
            fits.then(|| (secret.hash(), secret.masked()))
        }
        (None, Some(Some(hex))) => KeyHash::from_hex(&hex).map(|hash| (hash, String::from("…"))),
        _ => None,
    };
    let Some((hash, masked)) = found else {
        let words = "give the key's 16 to 255 visible ASCII letters, or in api_key_sha256 the 64 \
                     hexadecimal digits of its SHA-256, and not both";
        fields.fault(Fault::words("api_key", words));
        return None;
    };
    // What is shown must not be the key itself.
    let shown = shown.filter(|shown| KeyHash::of(shown.as_bytes()) != hash);
    Some((hash, shown.unwrap_or(masked)))
}

async fn known_group(
    admin: &Admin,
    change: &KeyChange,
    known: &mut HashMap<String, GroupId>,
) -> Result<Given<GroupId>, Failure> {
    if let Given::Value(name) = &change.group
        && let Some(id) = known.get(name)
    {
        return Ok(Given::Value(*id));
    }
    let found = group_of(admin, &change.group).await?;
    if let (Given::Value(name), Given::Value(id)) = (&change.group, &found) {
        known.insert(name.clone(), *id);
    }
    Ok(found)
}

fn record(
    hash: KeyHash,
    masked: String,
    prefix: Option<String>,
    change: KeyChange,
    group: Given<GroupId>,
    now: UnixMs,
) -> KeyRecord {
    let prefix = prefix.unwrap_or_else(|| String::from(key_change::DEFAULT_PREFIX));
    let nobody = Secret::new("");
    let mut key = key_change::new_key(KeyId(Uuid::new_v4()), &nobody, prefix, now);
    key.hash = hash;
    key.masked = masked;
    key.quotas.tokens.limit = 0;
    change.apply(&mut key, group);
    key
}

/// A key that has used something is made disabled and outside its group, charged, and only then let in:
/// wherever this ends early, nobody is served by it without its past.
async fn take_in(admin: &Admin, who: &Operator, wanted: Wanted) -> Result<Arc<KeyRecord>, Failure> {
    let Wanted { key, used } = wanted;
    let store = admin.store();
    let subject = key.id.0.to_string();
    let entry = |what: &str, change| audit_entry(admin, &who.0, what, subject.clone(), change);
    if used == Amounts::ZERO {
        let made = entry("import key", (None, shown(&key)));
        return Ok(store.create_key(key, made).await?);
    }
    let (active, group) = (key.active, key.group);
    let outside = KeyRecord {
        active: false,
        group: None,
        ..key
    };
    let made = entry("import key", (None, shown(&outside)));
    let outside = store.create_key(outside, made).await?;
    let desk = &admin.state.desk;
    if let Err(fault) = desk.book_past(&outside, used, PATH, admin.now()).await {
        let gone = entry("delete key for good", (shown(&outside), None));
        store.delete_key(outside.id, gone).await?;
        return Err(fault.into());
    }
    if !active && group.is_none() {
        return Ok(outside);
    }
    update(admin, &who.0, "change key", &outside, |key| {
        key.active = active;
        key.group = group;
        Ok(())
    })
    .await
}
