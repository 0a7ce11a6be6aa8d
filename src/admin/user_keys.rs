//! `/api/v1/api-keys`: the keys of whoever signed in; operators see everybody's (SPEC section 6).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use uuid::Uuid;

use super::auth::Person;
use super::body::{self, Fields, Given};
use super::failure::{Failure, Missing};
use super::fault::{Fault, Problem};
use super::key_making::{self, NO_KEY, NewKey};
use super::query::Query;
use super::user_key_item::{KeyWish, UserKey};
use super::{Admin, Message, groups, key_change, key_item};
use crate::keys::{KeyRecord, Secret};
use crate::quota::GroupId;
use crate::store::{Freshness, KeyQuery, Role};

type Answer = Result<Json<UserKey>, Failure>;
type Seq = Result<Path<String>, PathRejection>;

/// How many keys there are besides the page.
const TOTAL: HeaderName = HeaderName::from_static("x-total-count");
/// The tier of keys that people make, where the configuration has it.
const TIER: &str = "unlimited";

/// Makes a key of whoever signed in. Its tier is `unlimited` where the configuration has such a tier,
/// else the default one.
#[utoipa::path(
    post, path = "/api/v1/api-keys", tag = "own keys",
    request_body = super::user_key_item::UserKeyBody,
    responses((status = 200, body = UserKey, description = "The key in full, this once.")),
)]
pub(super) async fn create(
    State(admin): State<Arc<Admin>>,
    Extension(person): Extension<Person>,
    body: Body,
) -> Answer {
    let mut fields = Fields::parse(&body::read(body).await?)?;
    let wish = KeyWish::read_whole(&mut fields);
    fields.finish()?;
    let group = group_of(&admin, &person, &wish.group).await?;
    let prefix = String::from(key_change::DEFAULT_PREFIX);
    let mut key = match &wish.secret {
        Some(secret) => {
            unused(&admin, secret, None).await?;
            NewKey::with_secret(&admin, secret.clone(), prefix)
        }
        None => NewKey::generate(&admin, prefix)?,
    };
    if admin.config().tiers.contains_key(TIER) {
        key.record.tier = String::from(TIER);
    }
    key.record.owner = person.user.as_ref().map(|user| user.id);
    wish.apply(&mut key.record, &group);
    let (key, secret) = key.store(&admin, &person.name).await?;
    let mut shown = item(&admin, &key).await?;
    shown.key = secret.reveal().to_owned();
    Ok(Json(shown))
}

/// The keys of whoever signed in, oldest first; operators get everybody's. `X-Total-Count` says how many
/// there are besides this page.
#[utoipa::path(
    get, path = "/api/v1/api-keys", tag = "own keys",
    params(
        ("skip" = Option<u32>, Query, description = "Keys to leave out; 0 by default."),
        ("limit" = Option<u32>, Query, description = "Keys at most; 100 by default.", minimum = 1, maximum = 1000),
        ("owner" = Option<String>, Query, description = "For operators: only the keys of the user with this id or name."),
    ),
    responses((
        status = 200, body = Vec<UserKey>,
        headers(("x-total-count" = i64, description = "Keys on all pages.")),
    )),
)]
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Extension(person): Extension<Person>,
    uri: Uri,
) -> Result<(HeaderMap, Json<Vec<UserKey>>), Failure> {
    let mut query = Query::of(&uri);
    let (skip, limit) = query.page();
    let wanted = query.take("owner", "a user", |text| Some(text.to_owned()));
    query.finish()?;
    let owner = match (member(&person), wanted) {
        (Some(id), _) => Some(id),
        (None, Some(wanted)) => Some(user_of(&admin, &wanted).await?),
        (None, None) => None,
    };
    let page = admin
        .store()
        .list_keys(KeyQuery {
            owner,
            active_only: false,
            skip,
            limit,
        })
        .await?;
    let figures = key_item::figures(&admin, &page.items).await?;
    let now = admin.now();
    let keys = page.items.iter().zip(&figures);
    let items = keys.map(|(key, of)| UserKey::new(key, &of.standing, now));
    let headers = HeaderMap::from_iter([(TOTAL, HeaderValue::from(page.total))]);
    Ok((headers, Json(items.collect())))
}

/// One key.
#[utoipa::path(
    get, path = "/api/v1/api-keys/{id}", tag = "own keys",
    params(("id" = i64, Path, description = "The key's number.")),
    responses((status = 200, body = UserKey)),
)]
pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    Extension(person): Extension<Person>,
    id: Seq,
) -> Answer {
    let key = find(&admin, &person, id).await?;
    Ok(Json(item(&admin, &key).await?))
}

/// Changes what is given of a key.
#[utoipa::path(
    patch, path = "/api/v1/api-keys/{id}", tag = "own keys",
    params(("id" = i64, Path, description = "The key's number.")),
    request_body = super::user_key_item::UserKeyPatch,
    responses((status = 200, body = UserKey)),
)]
pub(super) async fn change(
    State(admin): State<Arc<Admin>>,
    Extension(person): Extension<Person>,
    id: Seq,
    body: Body,
) -> Answer {
    let key = find(&admin, &person, id).await?;
    let mut fields = Fields::parse(&body::read(body).await?)?;
    let wish = KeyWish::read_part(&mut fields, &key);
    fields.finish()?;
    update(&admin, &person, &key, wish).await
}

/// Sets a key anew: what is left out gets its default, but for the secret, which stays.
#[utoipa::path(
    put, path = "/api/v1/api-keys/{id}", tag = "own keys",
    params(("id" = i64, Path, description = "The key's number.")),
    request_body = super::user_key_item::UserKeyBody,
    responses((status = 200, body = UserKey)),
)]
pub(super) async fn replace(
    State(admin): State<Arc<Admin>>,
    Extension(person): Extension<Person>,
    id: Seq,
    body: Body,
) -> Answer {
    let key = find(&admin, &person, id).await?;
    let mut fields = Fields::parse(&body::read(body).await?)?;
    let wish = KeyWish::read_whole(&mut fields);
    fields.finish()?;
    update(&admin, &person, &key, wish).await
}

/// Deletes a key: it is refused from now on, its usage stays in the books.
#[utoipa::path(
    delete, path = "/api/v1/api-keys/{id}", tag = "own keys",
    params(("id" = i64, Path, description = "The key's number.")),
    responses((status = 200, body = Message)),
)]
pub(super) async fn delete(
    State(admin): State<Arc<Admin>>,
    Extension(person): Extension<Person>,
    id: Seq,
) -> Result<Json<Message>, Failure> {
    let key = find(&admin, &person, id).await?;
    key_making::update(&admin, &person.name, "delete key", &key, |key| {
        key.deleted = true;
        key.active = false;
        Ok(())
    })
    .await?;
    Ok(Message::of("API key deleted"))
}

async fn update(admin: &Admin, person: &Person, key: &Arc<KeyRecord>, wish: KeyWish) -> Answer {
    let group = group_of(admin, person, &wish.group).await?;
    if let Some(secret) = &wish.secret {
        unused(admin, secret, Some(key)).await?;
    }
    let key = key_making::update(admin, &person.name, "change key", key, |key| {
        wish.apply(key, &group);
        Ok(())
    });
    let key = key.await?;
    Ok(Json(item(admin, &key).await?))
}

async fn item(admin: &Admin, key: &KeyRecord) -> Result<UserKey, Failure> {
    let standing = key_item::standing(admin.store(), key, admin.rates(&key.tier)).await?;
    Ok(UserKey::new(key, &standing, admin.now()))
}

/// The user that is shown only what is theirs.
fn member(person: &Person) -> Option<Uuid> {
    let user = person.user.as_ref()?;
    (user.role == Role::Member).then_some(user.id)
}

/// A key by its number; others' keys are not there for a member.
async fn find(admin: &Admin, person: &Person, id: Seq) -> Result<Arc<KeyRecord>, Failure> {
    let Path(text) = id.map_err(|_| NO_KEY)?;
    let seq: i64 = text.parse().map_err(|_| NO_KEY)?;
    let key = admin.store().key_by_seq(seq).await?;
    let own = |key: &Arc<KeyRecord>| member(person).is_none_or(|id| key.owner == Some(id));
    key.filter(|key| !key.deleted && own(key)).ok_or(NO_KEY)
}

/// The id of a user that was given by id or name.
async fn user_of(admin: &Admin, wanted: &str) -> Result<Uuid, Failure> {
    if let Ok(id) = Uuid::try_parse(wanted) {
        return Ok(id);
    }
    let user = admin.store().user_by_login(wanted).await?;
    user.map(|user| user.id)
        .ok_or(Failure::NotFound(Missing::User))
}

/// A group by id or name, one that the person may use.
async fn group_of(
    admin: &Admin,
    person: &Person,
    given: &Given<String>,
) -> Result<Given<GroupId>, Failure> {
    let wanted = match given {
        Given::Absent => return Ok(Given::Absent),
        Given::Null => return Ok(Given::Null),
        Given::Value(wanted) => wanted,
    };
    let group = groups::named(admin, wanted).await?;
    if let Some(user) = &person.user
        && !person.is_operator()
    {
        let may = group.filter(|group| user.groups.contains(&group.id));
        let why = "you may not put keys into that group";
        return may.map_or(Err(Failure::Forbidden(why)), |g| Ok(Given::Value(g.id)));
    }
    group.map(|g| Given::Value(g.id)).ok_or_else(|| {
        let problem = Problem::Expected {
            found: format!("{wanted:?}"),
            allowed: "the id or name of a group".into(),
        };
        Fault::new("group_id", problem).into()
    })
}

/// That no other key has this secret.
async fn unused(
    admin: &Admin,
    secret: &Secret,
    by: Option<&Arc<KeyRecord>>,
) -> Result<(), Failure> {
    let hash = secret.hash();
    let holder = admin.store().key_by_hash(&hash, Freshness::Now);
    match holder.await? {
        Some(holder) if by.is_none_or(|key| key.id != holder.id) => Err(Failure::Conflict(
            String::from("custom_key is taken already"),
        )),
        _ => Ok(()),
    }
}
