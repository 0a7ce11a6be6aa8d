//! `/admin/api-keys`: keys, as SPEC section 6 has them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use http::Uri;
use serde_json::{Value, json};
use uuid::Uuid;

use super::auth::Operator;
use super::body::{self, Fields, Given};
use super::failure::Failure;
use super::fault::{Fault, Problem};
use super::key_change::{self, KeyChange};
use super::key_item;
use super::query::Query;
use super::{Admin, audit_entry, random_bytes};
use crate::keys::{KeyId, KeyRecord, PreviousSecret, Secret};
use crate::quota::{GroupId, Scope};
use crate::store::{KeyQuery, StoreError};

type Answer = Result<Json<Value>, Failure>;
type Id = Result<Path<String>, PathRejection>;

/// How long a rotated secret stays good unless the request says otherwise.
const DEFAULT_GRACE_SECONDS: i64 = 86_400;
const MAX_GRACE_SECONDS: i64 = 30 * 86_400;

/// Changes of one key that are tried when others change it at the same time.
const MAX_TRIES: usize = 5;

const NO_KEY: Failure = Failure::NotFound("API key");

pub(super) async fn create(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    body: Body,
) -> Answer {
    let now = admin.now();
    let mut fields = Fields::parse(&body::read(body).await?)?;
    let prefix = key_change::prefix(&mut fields).value();
    let change = read_change(&admin, &mut fields);
    if !matches!(change.name, Given::Value(_)) {
        fields.require("name");
    }
    fields.finish()?;
    let group = group_of(&admin, &change.group).await?;
    let prefix = prefix.unwrap_or_else(|| String::from(key_change::DEFAULT_PREFIX));
    let secret = Secret::generate(&prefix, random_bytes()?);
    let mut key = key_change::new_key(KeyId(Uuid::new_v4()), &secret, prefix, now);
    change.apply(&mut key, group);
    let entry = audit_entry(
        &admin,
        &who,
        "create key",
        key.id.0.to_string(),
        (None, shown(&key)),
    );
    let key = admin.store().create_key(key, entry).await?;
    Ok(Json(json!({
        "id": key.id,
        "api_key": secret.reveal(),
        "name": key.name,
        "description": key.description,
        "token_limit": key.quotas.tokens.limit,
        "rate_limit_tier": key.tier,
        "expires_at": key.expires_at,
        "created_at": key.created_at,
    })))
}

pub(super) async fn list(State(admin): State<Arc<Admin>>, uri: Uri) -> Answer {
    let mut query = Query::of(&uri);
    let (skip, limit) = query.page();
    let active_only = query.flag("active_only");
    query.finish()?;
    let page = admin
        .store()
        .list_keys(KeyQuery {
            active_only,
            skip,
            limit,
            ..KeyQuery::default()
        })
        .await?;
    let mut items = Vec::with_capacity(page.items.len());
    for key in &page.items {
        items.push(item(&admin, key).await?);
    }
    Ok(Json(
        json!({"items": items, "total": page.total, "skip": skip, "limit": limit}),
    ))
}

pub(super) async fn show(State(admin): State<Arc<Admin>>, id: Id) -> Answer {
    let key = find(&admin, id).await?;
    Ok(Json(item(&admin, &key).await?))
}

pub(super) async fn stats(State(admin): State<Arc<Admin>>, id: Id) -> Answer {
    let key = find(&admin, id).await?;
    let mut item = item(&admin, &key).await?;
    item["is_expired"] = json!(key_item::is_expired(&key, admin.now()));
    Ok(Json(item))
}

pub(super) async fn change(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    id: Id,
    body: Body,
) -> Answer {
    let key = find(&admin, id).await?;
    let bytes = body::read(body).await?;
    let read = |fields: &mut Fields| {
        let change = read_change(&admin, fields);
        if change.name.is_null() {
            fields.require("name");
        }
        change
    };
    let mut fields = Fields::parse(&bytes)?;
    let group = read(&mut fields).group;
    fields.finish()?;
    let group = group_of(&admin, &group).await?;
    let key = update(&admin, &who, "change key", &key, |key| {
        let mut fields = Fields::parse(&bytes)?;
        read(&mut fields).apply(key, group.clone());
        Ok(())
    });
    let key = key.await?;
    Ok(Json(item(&admin, &key).await?))
}

pub(super) async fn disable(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    id: Id,
) -> Answer {
    set_active(&admin, &who, id, false).await
}

pub(super) async fn enable(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    id: Id,
) -> Answer {
    set_active(&admin, &who, id, true).await
}

async fn set_active(admin: &Admin, who: &Operator, id: Id, active: bool) -> Answer {
    let key = find(admin, id).await?;
    let word = if active { "enabled" } else { "disabled" };
    let what = if active { "enable key" } else { "disable key" };
    update(admin, who, what, &key, |key| {
        key.active = active;
        Ok(())
    })
    .await?;
    Ok(message(format!("API key {word}")))
}

/// A new secret; the old one stays good for `grace_seconds`. One that was rotated before it ends now:
/// a key has two good secrets at most.
pub(super) async fn rotate(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    id: Id,
    body: Body,
) -> Answer {
    let key = find(&admin, id).await?;
    let mut fields = Fields::parse_optional(&body::read(body).await?)?;
    let grace = fields.int("grace_seconds", 0..=MAX_GRACE_SECONDS).value();
    fields.finish()?;
    let grace = grace.unwrap_or(DEFAULT_GRACE_SECONDS);
    let valid_until = admin.now().plus_ms(grace * 1_000);
    let secret = Secret::generate(&key.prefix, random_bytes()?);
    let key = update(&admin, &who, "rotate key", &key, |key| {
        key.previous = (grace > 0).then_some(PreviousSecret {
            hash: key.hash,
            valid_until,
        });
        key.hash = secret.hash();
        key.masked = secret.masked();
        Ok(())
    });
    let key = key.await?;
    Ok(Json(json!({
        "id": key.id,
        "api_key": secret.reveal(),
        "name": key.name,
        "key_prefix": key.masked,
        "previous_valid_until": key.previous.map(|p| p.valid_until),
        "updated_at": key.updated_at,
    })))
}

/// `used` becomes 0 in the current windows; what is held stays held.
pub(super) async fn reset(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    id: Id,
) -> Answer {
    let key = find(&admin, id).await?;
    let before = key_item::standing(admin.store(), &key, admin.rates(&key.tier)).await?;
    let change = (Some(json!({"used": before.used})), Some(json!({"used": 0})));
    let entry = audit_entry(&admin, &who, "reset key", key.id.0.to_string(), change);
    admin.store().reset_used(Scope::Key(key.id), entry).await?;
    Ok(message(String::from("API key usage reset")))
}

/// Softly: kept for the books and refused. Hard: gone, though its usage stays.
pub(super) async fn delete(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    id: Id,
    uri: Uri,
) -> Answer {
    let mut query = Query::of(&uri);
    let hard = query.flag("hard_delete");
    query.finish()?;
    let key = find_even_deleted(&admin, id).await?;
    if hard {
        let id = key.id;
        let change = (shown(&key), None);
        let entry = audit_entry(
            &admin,
            &who,
            "delete key for good",
            id.0.to_string(),
            change,
        );
        admin.store().delete_key(id, entry).await?;
        return Ok(message(String::from("API key deleted for good")));
    }
    if key.deleted {
        return Err(NO_KEY);
    }
    update(&admin, &who, "delete key", &key, |key| {
        key.deleted = true;
        key.active = false;
        Ok(())
    })
    .await?;
    Ok(message(String::from("API key deleted")))
}

fn read_change(admin: &Admin, fields: &mut Fields) -> KeyChange {
    let config = admin.config();
    KeyChange::read(fields, &config.tiers, admin.now())
}

fn message(text: String) -> Json<Value> {
    Json(json!({"message": text}))
}

/// The record as the audit log shows it: neither secrets nor their hashes are serialised.
fn shown(key: &KeyRecord) -> Option<Value> {
    serde_json::to_value(key).ok()
}

async fn item(admin: &Admin, key: &KeyRecord) -> Result<Value, Failure> {
    let store = admin.store();
    let standing = key_item::standing(store, key, admin.rates(&key.tier)).await?;
    let activity = store.activity(key.id).await?;
    Ok(key_item::item(key, &standing, &activity))
}

async fn find(admin: &Admin, id: Id) -> Result<Arc<KeyRecord>, Failure> {
    let key = find_even_deleted(admin, id).await?;
    if key.deleted { Err(NO_KEY) } else { Ok(key) }
}

/// By id. What is no id is not found: there is nothing else it could be.
async fn find_even_deleted(admin: &Admin, id: Id) -> Result<Arc<KeyRecord>, Failure> {
    let Path(text) = id.map_err(|_| NO_KEY)?;
    let id = Uuid::try_parse(&text).map_err(|_| NO_KEY)?;
    admin.store().key(KeyId(id)).await?.ok_or(NO_KEY)
}

/// The id of a group that was given by id or by name.
async fn group_of(admin: &Admin, given: &Given<String>) -> Result<Given<GroupId>, Failure> {
    let wanted = match given {
        Given::Absent => return Ok(Given::Absent),
        Given::Null => return Ok(Given::Null),
        Given::Value(wanted) => wanted,
    };
    let groups = admin.store().list_groups().await?;
    let id = Uuid::try_parse(wanted).ok().map(GroupId);
    let found = groups
        .iter()
        .find(|g| Some(g.id) == id || g.name == *wanted);
    found.map(|g| Given::Value(g.id)).ok_or_else(|| {
        let problem = Problem::Expected {
            found: format!("{wanted:?}"),
            allowed: "the id or name of a group".into(),
        };
        Fault::new("group", problem).into()
    })
}

/// Applies a change to the newest version of a key, again where another change came first.
async fn update(
    admin: &Admin,
    who: &Operator,
    what: &str,
    key: &Arc<KeyRecord>,
    change: impl Fn(&mut KeyRecord) -> Result<(), Failure>,
) -> Result<Arc<KeyRecord>, Failure> {
    let store = admin.store();
    let mut current = key.clone();
    for _ in 0..MAX_TRIES {
        let mut changed = (*current).clone();
        change(&mut changed)?;
        changed.updated_at = admin.now();
        let records = (shown(&current), shown(&changed));
        let entry = audit_entry(admin, who, what, key.id.0.to_string(), records);
        match store.update_key(changed, entry).await {
            Err(StoreError::Conflict(_)) => {}
            Err(StoreError::NotFound) => return Err(NO_KEY),
            done => return Ok(done?),
        }
        current = store.key(key.id).await?.ok_or(NO_KEY)?;
        if current.deleted {
            return Err(NO_KEY);
        }
    }
    let why = "the key is being changed by others, try again";
    Err(Failure::Conflict(why.to_owned()))
}
