//! `/api/auth`: people register, sign in and out, and see who they are (SPEC section 6).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::{Person, client, unlocked};
use super::backoff::Guesser;
use super::body::{self, Fields, Given};
use super::failure::Failure;
use super::login::{Session, has_password, open_session, password_fits, refused, same};
use super::session::Holder;
use super::user_change::{UserChange, hidden};
use super::users::{self, RoleName};
use super::{Admin, Message};
use crate::config::{AdminConfig, SecretText};
use crate::store::UserRecord;
use crate::time::UnixMs;

/// How long a session of a person lasts.
const SESSION: Duration = Duration::from_secs(1_800);
/// Users that registration stops at; operators may make more.
const MAX_REGISTERED: i64 = 100_000;
/// The hash that an unknown name is checked by, so that names are not told by time. No password has it.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$YSBzYWx0IG9mIG5vYm9keQ$\
                      AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Who signed in.
#[derive(Debug, Serialize, ToSchema)]
pub struct Me {
    /// All zeros for the operator of the configuration.
    id: Uuid,
    username: String,
    /// Null for the operator of the configuration.
    email: Option<String>,
    #[schema(inline)]
    role: RoleName,
    #[schema(value_type = Option<String>, format = DateTime)]
    created_at: Option<UnixMs>,
}

impl Me {
    fn user(user: &UserRecord) -> Self {
        Me {
            id: user.id,
            username: user.username.clone(),
            email: Some(user.email.clone()),
            role: user.role.into(),
            created_at: Some(user.created_at),
        }
    }

    fn operator(config: &AdminConfig) -> Self {
        Me {
            id: Uuid::nil(),
            username: config.username.clone(),
            email: None,
            role: RoleName::Admin,
            created_at: None,
        }
    }
}

/// Who wants to become a member.
#[derive(Debug, ToSchema)]
pub struct Registration {
    /// Unique, whatever the case of its letters.
    #[schema(min_length = 3, max_length = 64, pattern = "^[A-Za-z0-9._-]+$")]
    pub username: String,
    #[schema(format = Email, max_length = 254)]
    pub email: String,
    #[schema(min_length = 8, max_length = 256)]
    pub password: String,
}

/// A name or an e-mail address, and its password.
#[derive(Debug, ToSchema)]
pub struct Credentials {
    /// Or the e-mail address; `email` is understood too.
    #[schema(min_length = 1, max_length = 254)]
    pub username: String,
    #[schema(min_length = 1, max_length = 256)]
    pub password: String,
}

/// Makes a member of whoever asks, where `admin.allow_registration` is on.
#[utoipa::path(
    post, path = "/api/auth/register", tag = "users",
    request_body = Registration,
    responses((status = 200, body = Me)),
)]
pub(super) async fn register(
    State(admin): State<Arc<Admin>>,
    request: Request,
) -> Result<Json<Me>, Failure> {
    let config = admin.config();
    unlocked(&config.admin)?;
    if !config.admin.allow_registration {
        let why = "registration is off: an operator makes users";
        return Err(Failure::Forbidden(why));
    }
    let mut fields = Fields::parse(&body::read(request.into_body()).await?)?;
    let username = users::username_of(&mut fields);
    let change = UserChange::read_own(&mut fields);
    change.require_login(&mut fields);
    fields.finish()?;
    if admin.store().list_users(0, 1).await?.total >= MAX_REGISTERED {
        return Err(Failure::Forbidden("no more users may register"));
    }
    let who = username.clone();
    let user = users::make(&admin, &who, "register user", username, change).await?;
    Ok(Json(Me::user(&user)))
}

/// A session of 30 minutes for a user, or for the operator of the configuration.
#[utoipa::path(
    post, path = "/api/auth/login", tag = "users",
    request_body = Credentials,
    responses((status = 200, body = Session)),
)]
pub(super) async fn login(
    State(admin): State<Arc<Admin>>,
    request: Request,
) -> Result<Json<Session>, Failure> {
    let config = admin.config();
    let config = &config.admin;
    unlocked(config)?;
    let client = client(&request);
    let (login, password) = read_login(&body::read(request.into_body()).await?)?;
    let is_operator = has_password(config) && same(&SecretText::new(&*config.username), &login);
    let user = match is_operator {
        true => None,
        false => admin.store().user_by_login(&login).await?,
    };
    // Name and address of one user are one thing to guess at.
    let name = match &user {
        Some(user) => user.username.to_lowercase(),
        None if is_operator => login,
        None => login.to_lowercase(),
    };
    let guesser = Guesser::at_password(client.0, &name);
    admin.guard.attempt(&guesser, admin.now())?;
    if !fits(&admin, config, is_operator, user.as_deref(), password).await? {
        refused(&admin, client, "a wrong user name or password");
        let why = "the user name or the password is wrong";
        return Err(Failure::Unauthorized(why, "Bearer"));
    }
    admin.guard.forgive(&guesser);
    let holder = match &user {
        Some(user) if !user.active => return Err(Failure::Forbidden("this user is switched off")),
        Some(user) => Holder::of_user(user),
        None => Holder::of_config(config),
    };
    Ok(Json(open_session(&admin, &holder, SESSION).await?))
}

/// `username` or `email`, and `password`.
fn read_login(body: &[u8]) -> Result<(String, String), Failure> {
    let mut fields = Fields::parse(body)?;
    let username = fields.text("username", 1..=254);
    let email = fields.text("email", 1..=254);
    let password = hidden(&mut fields, "password", "text", |text| {
        (text.len() <= 4_096).then_some(text)
    });
    if !matches!(password, Given::Value(_)) {
        fields.require("password");
    }
    let login = username.value().or(email.value());
    if login.is_none() {
        fields.require("username");
    }
    fields.finish()?;
    Ok((
        login.unwrap_or_default(),
        password.value().unwrap_or_default(),
    ))
}

/// Whether the password is right. A hash is worked at whoever is asked for.
async fn fits(
    admin: &Admin,
    config: &AdminConfig,
    is_operator: bool,
    user: Option<&UserRecord>,
    password: String,
) -> Result<bool, Failure> {
    if is_operator && config.password_hash.is_some() {
        return password_fits(&admin.guard, config, password).await;
    }
    let hash = user.map_or(NOBODY, |user| &user.password_hash).to_owned();
    let verified = admin.guard.verify(hash, password.clone()).await?;
    match is_operator {
        true => password_fits(&admin.guard, config, password).await,
        false => Ok(verified && user.is_some()),
    }
}

/// Who asks.
#[utoipa::path(
    get, path = "/api/auth/me", tag = "users",
    responses((status = 200, body = Me)),
)]
pub(super) async fn me(
    State(admin): State<Arc<Admin>>,
    Extension(person): Extension<Person>,
) -> Json<Me> {
    Json(match &person.user {
        Some(user) => Me::user(user),
        None => Me::operator(&admin.config().admin),
    })
}

/// Ends the session that was shown, before its time.
#[utoipa::path(
    post, path = "/api/auth/logout", tag = "users",
    responses((status = 200, body = Message)),
)]
pub(super) async fn logout(
    State(admin): State<Arc<Admin>>,
    Extension(person): Extension<Person>,
) -> Result<Json<Message>, Failure> {
    end(&admin, &person).await
}

/// Ends the session that was shown, before its time.
#[utoipa::path(
    post, path = "/admin/logout", tag = "users",
    responses((status = 200, body = Message)),
)]
pub(super) async fn operator_logout(
    State(admin): State<Arc<Admin>>,
    Extension(person): Extension<Person>,
) -> Result<Json<Message>, Failure> {
    end(&admin, &person).await
}

async fn end(admin: &Admin, person: &Person) -> Result<Json<Message>, Failure> {
    let Some(session) = person.session else {
        return Ok(Message::of("The admin token is no session, it stays valid"));
    };
    admin.store().end_session(session.id, session.until).await?;
    Ok(Message::of("Signed out"))
}
