//! `/admin/users`: who may sign in, and what for. The last operator is the one of the configuration,
//! so every user may be changed and deleted.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use http::Uri;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Operator;
use super::body::{self, Fields, Given};
use super::failure::{Failure, Missing};
use super::query::Query;
use super::user_change::{self, ReadyChange, UserChange, shown};
use super::{Admin, Message, audit_entry};
use crate::store::{Role, StoreError, UserRecord};
use crate::time::UnixMs;

type Id = Result<Path<String>, PathRejection>;

/// Changes of one user that are tried when others change it at the same time.
const MAX_TRIES: usize = 5;

const NO_USER: Failure = Failure::NotFound(Missing::User);

/// A user, as operators see it.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserItem {
    id: Uuid,
    username: String,
    email: String,
    #[schema(inline)]
    role: RoleName,
    /// False: may not sign in; their keys go on.
    active: bool,
    /// Groups that a member may put keys into.
    groups: Vec<Uuid>,
    #[schema(value_type = String, format = DateTime)]
    created_at: UnixMs,
    #[schema(value_type = String, format = DateTime)]
    updated_at: UnixMs,
}

/// What a user may do: everything an operator may, or keep keys of their own.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    Admin,
    Member,
}

impl From<Role> for RoleName {
    fn from(role: Role) -> Self {
        match role {
            Role::Admin => RoleName::Admin,
            Role::Member => RoleName::Member,
        }
    }
}

impl UserItem {
    fn new(user: &UserRecord) -> Self {
        UserItem {
            id: user.id,
            username: user.username.clone(),
            email: user.email.clone(),
            role: user.role.into(),
            active: user.active,
            groups: user.groups.iter().map(|group| group.0).collect(),
            created_at: user.created_at,
            updated_at: user.updated_at,
        }
    }
}

/// A page of users.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserPage {
    items: Vec<UserItem>,
    total: i64,
    skip: i64,
    limit: i64,
}

/// A user to be made.
#[derive(Debug, ToSchema)]
pub struct NewUser {
    /// Unique, whatever the case of its letters.
    #[schema(min_length = 3, max_length = 64, pattern = "^[A-Za-z0-9._-]+$")]
    pub username: String,
    #[schema(format = Email, max_length = 254)]
    pub email: String,
    #[schema(min_length = 8, max_length = 256)]
    pub password: String,
    /// `member` where it is left out.
    #[schema(inline)]
    pub role: Option<RoleName>,
    pub active: Option<bool>,
    /// Ids or names of groups that the user may put keys into.
    #[schema(max_items = 1000)]
    pub groups: Option<Vec<String>>,
}

/// What to change of a user. A new password, or `active: false`, ends their sessions.
#[derive(Debug, ToSchema)]
pub struct UserPatch {
    #[schema(format = Email, max_length = 254)]
    pub email: Option<String>,
    #[schema(min_length = 8, max_length = 256)]
    pub password: Option<String>,
    #[schema(inline)]
    pub role: Option<RoleName>,
    pub active: Option<bool>,
    /// Ids or names of groups; null empties the list.
    #[schema(max_items = 1000)]
    pub groups: Option<Vec<String>>,
}

/// All users, oldest first.
#[utoipa::path(
    get, path = "/admin/users", tag = "users",
    params(
        ("skip" = Option<u32>, Query, description = "Users to leave out; 0 by default."),
        ("limit" = Option<u32>, Query, description = "Users at most; 100 by default.", minimum = 1, maximum = 1000),
    ),
    responses((status = 200, body = UserPage)),
)]
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    uri: Uri,
) -> Result<Json<UserPage>, Failure> {
    let mut query = Query::of(&uri);
    let (skip, limit) = query.page();
    query.finish()?;
    let page = admin.store().list_users(skip, limit).await?;
    Ok(Json(UserPage {
        items: page.items.iter().map(|user| UserItem::new(user)).collect(),
        total: page.total,
        skip,
        limit,
    }))
}

/// Makes a user.
#[utoipa::path(
    post, path = "/admin/users", tag = "users",
    request_body = NewUser,
    responses((status = 200, body = UserItem)),
)]
pub(super) async fn create(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    body: Body,
) -> Result<Json<UserItem>, Failure> {
    let mut fields = Fields::parse(&body::read(body).await?)?;
    let username = username_of(&mut fields);
    let change = UserChange::read(&mut fields);
    change.require_login(&mut fields);
    fields.finish()?;
    let user = make(&admin, &who.0, "create user", username, change).await?;
    Ok(Json(UserItem::new(&user)))
}

/// One user.
#[utoipa::path(
    get, path = "/admin/users/{id}", tag = "users",
    params(("id" = Uuid, Path, description = "The user's id.")),
    responses((status = 200, body = UserItem)),
)]
pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    id: Id,
) -> Result<Json<UserItem>, Failure> {
    let user = find(&admin, id).await?;
    Ok(Json(UserItem::new(&user)))
}

/// Changes a user.
#[utoipa::path(
    patch, path = "/admin/users/{id}", tag = "users",
    params(("id" = Uuid, Path, description = "The user's id.")),
    request_body = UserPatch,
    responses((status = 200, body = UserItem)),
)]
pub(super) async fn change(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    id: Id,
    body: Body,
) -> Result<Json<UserItem>, Failure> {
    let user = find(&admin, id).await?;
    let mut fields = Fields::parse(&body::read(body).await?)?;
    let change = UserChange::read(&mut fields);
    fields.finish()?;
    let change = change.ready(&admin).await?;
    let user = update(&admin, &who.0, &user, &change).await?;
    Ok(Json(UserItem::new(&user)))
}

/// Deletes a user. Their sessions end; their keys stay, and operators see to them.
#[utoipa::path(
    delete, path = "/admin/users/{id}", tag = "users",
    params(("id" = Uuid, Path, description = "The user's id.")),
    responses((status = 200, body = Message)),
)]
pub(super) async fn delete(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    id: Id,
) -> Result<Json<Message>, Failure> {
    let user = find(&admin, id).await?;
    let change = (shown(&user, false), None);
    let subject = user.id.to_string();
    let entry = audit_entry(&admin, &who.0, "delete user", subject, change);
    match admin.store().delete_user(user.id, entry).await {
        Err(StoreError::NotFound) => Err(NO_USER),
        done => {
            done?;
            Ok(Message::of("User deleted"))
        }
    }
}

/// The name of a new user; what is no name is a fault of `fields`.
pub(super) fn username_of(fields: &mut Fields) -> String {
    match user_change::username(fields) {
        Given::Value(name) => name,
        Given::Absent | Given::Null => {
            fields.require("username");
            String::new()
        }
    }
}

/// Stores a new user. `what` is the audit log's word for it.
///
/// # Errors
/// When the name or the address is taken, by the operator of the configuration too.
pub(super) async fn make(
    admin: &Admin,
    who: &str,
    what: &str,
    username: String,
    change: UserChange,
) -> Result<Arc<UserRecord>, Failure> {
    let operator = admin.config().admin.username.clone();
    if operator.eq_ignore_ascii_case(&username) {
        return Err(Failure::Conflict(format!("{username} is taken already")));
    }
    let change = change.ready(admin).await?;
    let mut user = user_change::new_user(username, admin.now());
    change.apply(&mut user);
    let records = (None, shown(&user, true));
    let entry = audit_entry(admin, who, what, user.id.to_string(), records);
    Ok(admin.store().create_user(user, entry).await?)
}

/// Applies a change to the newest version of a user, again where another change came first.
async fn update(
    admin: &Admin,
    who: &str,
    user: &Arc<UserRecord>,
    change: &ReadyChange,
) -> Result<Arc<UserRecord>, Failure> {
    let store = admin.store();
    let mut current = user.clone();
    for _ in 0..MAX_TRIES {
        let mut changed = (*current).clone();
        change.apply(&mut changed);
        changed.updated_at = admin.now();
        let records = (
            shown(&current, false),
            shown(&changed, change.sets_password()),
        );
        let entry = audit_entry(admin, who, "change user", user.id.to_string(), records);
        let refused = match store.update_user(changed, entry).await {
            Err(StoreError::Conflict(why)) => why,
            Err(StoreError::NotFound) => return Err(NO_USER),
            done => return Ok(done?),
        };
        let newest = store.user(user.id).await?.ok_or(NO_USER)?;
        if newest.version == current.version {
            return Err(Failure::Conflict(refused));
        }
        current = newest;
    }
    let why = "the user is being changed by others, try again";
    Err(Failure::Conflict(why.to_owned()))
}

async fn find(admin: &Admin, id: Id) -> Result<Arc<UserRecord>, Failure> {
    let Path(text) = id.map_err(|_| NO_USER)?;
    let id = Uuid::try_parse(&text).map_err(|_| NO_USER)?;
    admin.store().user(id).await?.ok_or(NO_USER)
}
