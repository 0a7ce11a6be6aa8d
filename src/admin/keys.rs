//! `/admin/api-keys`: keys, as SPEC section 6 has them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use http::Uri;
use uuid::Uuid;

use super::auth::Operator;
use super::body::{self, Fields, Given};
use super::failure::Failure;
use super::fault::{Fault, Problem};
use super::key_change::{self, KeyChange};
use super::key_item::{self, KeyItem};
use super::key_making::{self, NO_KEY, NewKey, update};
use super::key_schema::{
    CreatedKey, KeyPage, KeyPatch, KeyStats, NewKeyBody, RotateBody, RotatedKey,
};
use super::query::Query;
use super::{Admin, Message, groups, random_bytes};
use crate::keys::{KeyId, KeyRecord, PreviousSecret, Secret};
use crate::quota::GroupId;
use crate::store::KeyQuery;

type Answer = Result<Json<KeyItem>, Failure>;
type Id = Result<Path<String>, PathRejection>;

/// How long a rotated secret stays good unless the request says otherwise.
const DEFAULT_GRACE_SECONDS: i64 = 86_400;
const MAX_GRACE_SECONDS: i64 = 30 * 86_400;

/// Makes a key.
#[utoipa::path(
    post, path = "/admin/api-keys", tag = "keys",
    request_body = NewKeyBody,
    responses((status = 200, body = CreatedKey)),
)]
pub(super) async fn create(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    body: Body,
) -> Result<Json<CreatedKey>, Failure> {
    let mut fields = Fields::parse(&body::read(body).await?)?;
    let prefix = key_change::prefix(&mut fields).value();
    let change = read_change(&admin, &mut fields);
    if !matches!(change.name, Given::Value(_)) {
        fields.require("name");
    }
    fields.finish()?;
    let group = group_of(&admin, &change.group).await?;
    let prefix = prefix.unwrap_or_else(|| String::from(key_change::DEFAULT_PREFIX));
    let mut key = NewKey::generate(&admin, prefix)?;
    change.apply(&mut key.record, group);
    let (key, secret) = key.store(&admin, &who.0).await?;
    Ok(Json(CreatedKey {
        id: key.id,
        api_key: secret.reveal().to_owned(),
        name: key.name.clone(),
        description: key.description.clone(),
        token_limit: key.quotas.tokens.limit,
        rate_limit_tier: key.tier.clone(),
        expires_at: key.expires_at,
        created_at: key.created_at,
    }))
}

/// Keys in order of creation, deleted ones left out.
#[utoipa::path(
    get, path = "/admin/api-keys", tag = "keys",
    params(
        ("skip" = Option<u32>, Query, description = "Keys to leave out; 0 by default."),
        ("limit" = Option<u32>, Query, description = "Keys at most; 100 by default.", minimum = 1, maximum = 1000),
        ("active_only" = Option<bool>, Query, description = "Leaves out keys that are switched off."),
    ),
    responses((status = 200, body = KeyPage)),
)]
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    uri: Uri,
) -> Result<Json<KeyPage>, Failure> {
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
    let figures = key_item::figures(&admin, &page.items).await?;
    let keys = page.items.iter().zip(&figures);
    let items = keys.map(|(key, of)| KeyItem::new(key, &of.standing, &of.activity));
    Ok(Json(KeyPage {
        items: items.collect(),
        total: page.total,
        skip,
        limit,
    }))
}

/// One key.
#[utoipa::path(
    get, path = "/admin/api-keys/{id}", tag = "keys",
    params(("id" = Uuid, Path, description = "The key's id.")),
    responses((status = 200, body = KeyItem)),
)]
pub(super) async fn show(State(admin): State<Arc<Admin>>, id: Id) -> Answer {
    let key = find(&admin, id).await?;
    Ok(Json(item(&admin, &key).await?))
}

/// One key, and whether its time is over.
#[utoipa::path(
    get, path = "/admin/api-keys/{id}/stats", tag = "keys",
    params(("id" = Uuid, Path, description = "The key's id.")),
    responses((status = 200, body = KeyStats)),
)]
pub(super) async fn stats(
    State(admin): State<Arc<Admin>>,
    id: Id,
) -> Result<Json<KeyStats>, Failure> {
    let key = find(&admin, id).await?;
    Ok(Json(KeyStats {
        item: item(&admin, &key).await?,
        is_expired: key_item::is_expired(&key, admin.now()),
    }))
}

/// Changes a key.
#[utoipa::path(
    patch, path = "/admin/api-keys/{id}", tag = "keys",
    params(("id" = Uuid, Path, description = "The key's id.")),
    request_body = KeyPatch,
    responses((status = 200, body = KeyItem)),
)]
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
    let key = update(&admin, &who.0, "change key", &key, |key| {
        let mut fields = Fields::parse(&bytes)?;
        read(&mut fields).apply(key, group.clone());
        Ok(())
    });
    let key = key.await?;
    Ok(Json(item(&admin, &key).await?))
}

/// Switches a key off: it is refused.
#[utoipa::path(
    post, path = "/admin/api-keys/{id}/disable", tag = "keys",
    params(("id" = Uuid, Path, description = "The key's id.")),
    responses((status = 200, body = Message)),
)]
pub(super) async fn disable(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    id: Id,
) -> Result<Json<Message>, Failure> {
    set_active(&admin, &who, id, false).await
}

/// Switches a key on.
#[utoipa::path(
    post, path = "/admin/api-keys/{id}/enable", tag = "keys",
    params(("id" = Uuid, Path, description = "The key's id.")),
    responses((status = 200, body = Message)),
)]
pub(super) async fn enable(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    id: Id,
) -> Result<Json<Message>, Failure> {
    set_active(&admin, &who, id, true).await
}

async fn set_active(
    admin: &Admin,
    who: &Operator,
    id: Id,
    active: bool,
) -> Result<Json<Message>, Failure> {
    let key = find(admin, id).await?;
    let word = if active { "enabled" } else { "disabled" };
    key_making::set_active(admin, &who.0, &key, active).await?;
    Ok(Message::of(&format!("API key {word}")))
}

/// A new secret; the old one stays good for `grace_seconds`. One that was rotated before it ends now:
/// a key has two good secrets at most.
#[utoipa::path(
    post, path = "/admin/api-keys/{id}/rotate", tag = "keys",
    params(("id" = Uuid, Path, description = "The key's id.")),
    request_body = Option<RotateBody>,
    responses((status = 200, body = RotatedKey)),
)]
pub(super) async fn rotate(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    id: Id,
    body: Body,
) -> Result<Json<RotatedKey>, Failure> {
    let key = find(&admin, id).await?;
    let mut fields = Fields::parse_optional(&body::read(body).await?)?;
    let grace = fields.int("grace_seconds", 0..=MAX_GRACE_SECONDS).value();
    fields.finish()?;
    let grace = grace.unwrap_or(DEFAULT_GRACE_SECONDS);
    let valid_until = admin.now().plus_ms(grace * 1_000);
    let secret = Secret::generate(&key.prefix, random_bytes()?);
    let key = update(&admin, &who.0, "rotate key", &key, |key| {
        key.previous = (grace > 0).then_some(PreviousSecret {
            hash: key.hash,
            valid_until,
        });
        key.hash = secret.hash();
        key.masked = secret.masked();
        Ok(())
    });
    let key = key.await?;
    Ok(Json(RotatedKey {
        id: key.id,
        api_key: secret.reveal().to_owned(),
        name: key.name.clone(),
        key_prefix: key.masked.clone(),
        previous_valid_until: key.previous.map(|p| p.valid_until),
        updated_at: key.updated_at,
    }))
}

/// Sets what was used to 0 in the current windows; what is held stays held.
#[utoipa::path(
    post, path = "/admin/api-keys/{id}/reset", tag = "keys",
    params(("id" = Uuid, Path, description = "The key's id.")),
    responses((status = 200, body = Message)),
)]
pub(super) async fn reset(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    id: Id,
) -> Result<Json<Message>, Failure> {
    let key = find(&admin, id).await?;
    key_making::reset(&admin, &who.0, &key).await?;
    Ok(Message::of("API key usage reset"))
}

/// Deletes a key. Softly: kept for the books and refused. Hard: gone, though its usage stays.
#[utoipa::path(
    delete, path = "/admin/api-keys/{id}", tag = "keys",
    params(("id" = Uuid, Path, description = "The key's id."),
        ("hard_delete" = Option<bool>, Query, description = "Whether it is to be gone for good."),
    ),
    responses((status = 200, body = Message)),
)]
pub(super) async fn delete(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    id: Id,
    uri: Uri,
) -> Result<Json<Message>, Failure> {
    let mut query = Query::of(&uri);
    let hard = query.flag("hard_delete");
    query.finish()?;
    let key = admin.store().key(id_of(id)?).await?.ok_or(NO_KEY)?;
    if hard {
        key_making::delete_for_good(&admin, &who.0, &key).await?;
        return Ok(Message::of("API key deleted for good"));
    }
    if key.deleted {
        return Err(NO_KEY);
    }
    update(&admin, &who.0, "delete key", &key, |key| {
        key.deleted = true;
        key.active = false;
        Ok(())
    })
    .await?;
    Ok(Message::of("API key deleted"))
}

pub(super) fn read_change(admin: &Admin, fields: &mut Fields) -> KeyChange {
    let config = admin.config();
    KeyChange::read(fields, &config.tiers, admin.now())
}

async fn item(admin: &Admin, key: &KeyRecord) -> Result<KeyItem, Failure> {
    let store = admin.store();
    let standing = key_item::standing(store, key, admin.rates(&key.tier)).await?;
    let activity = store.activity(key.id).await?;
    Ok(KeyItem::new(key, &standing, &activity))
}

async fn find(admin: &Admin, id: Id) -> Result<Arc<KeyRecord>, Failure> {
    key_making::find(admin, id_of(id)?).await
}

/// What is no id is not found: there is nothing else it could be.
fn id_of(id: Id) -> Result<KeyId, Failure> {
    let Path(text) = id.map_err(|_| NO_KEY)?;
    let id = Uuid::try_parse(&text).map_err(|_| NO_KEY)?;
    Ok(KeyId(id))
}

/// The id of a group that was given by id or by name.
pub(super) async fn group_of(
    admin: &Admin,
    given: &Given<String>,
) -> Result<Given<GroupId>, Failure> {
    let wanted = match given {
        Given::Absent => return Ok(Given::Absent),
        Given::Null => return Ok(Given::Null),
        Given::Value(wanted) => wanted,
    };
    let found = groups::named(admin, wanted).await?;
    found.map(|g| Given::Value(g.id)).ok_or_else(|| {
        let problem = Problem::Expected {
            found: format!("{wanted:?}"),
            allowed: "the id or name of a group".into(),
        };
        Fault::new("group", problem).into()
    })
}
