//! Who may use the admin service. Denied by default: what `paths` does not list asks for an operator.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue};
use uuid::Uuid;

use super::Admin;
use super::backoff::Guesser;
use super::failure::{Failure, shaped};
use super::listen::ClientAddr;
use super::login::{has_password, refused, same};
use super::paths::{Area, Shape};
use super::session::{Holder, NoSession, Token};
use crate::config::AdminConfig;
use crate::exchange::{CallerFacts, Identity, Refusal};
use crate::keys::KeyHash;
use crate::language::Language;
use crate::store::{Role, UserRecord};
use crate::time::UnixMs;

const BEARER: &str = "Bearer";

/// Whoever signed in.
#[derive(Clone, Debug)]
pub struct Person {
    /// What the audit log calls `who`.
    pub name: String,
    /// `None` for the operator of the configuration.
    pub user: Option<Arc<UserRecord>>,
    /// The session that was shown; `None` for the static token.
    pub session: Option<OpenSession>,
}

/// A session and when it ends by itself.
#[derive(Clone, Copy, Debug)]
pub struct OpenSession {
    pub id: Uuid,
    pub until: UnixMs,
}

impl Person {
    pub fn is_operator(&self) -> bool {
        self.user
            .as_ref()
            .is_none_or(|user| user.role == Role::Admin)
    }
}

/// The operator behind a request; what the audit log calls `who`.
#[derive(Clone, Debug)]
pub struct Operator(pub String);

/// A caller whose key stands, with the facts it was admitted by.
#[derive(Clone, Debug)]
pub struct OwnKey {
    pub identity: Identity,
    pub caller: CallerFacts,
}

/// The layer around every route: lets in whom the path is for, and gives failures their shape.
pub async fn guard(State(admin): State<Arc<Admin>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let language = language(request.headers());
    let mut response = match let_in(&admin, &path, &mut request).await {
        Ok(()) => {
            let own = request.extensions().get::<OwnKey>().cloned();
            let mut response = next.run(request).await;
            if let Some(own) = own {
                response.extensions_mut().insert(own);
            }
            response
        }
        Err(failure) => failure.into_response(),
    };
    response = shaped(response, Shape::of(&path), language);
    let headers = response.headers_mut();
    // Answers carry secrets and figures of the moment; what never changes says so itself.
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn language(headers: &HeaderMap) -> Language {
    let accept = headers.get(ACCEPT_LANGUAGE);
    let accept = accept.and_then(|value| value.to_str().ok());
    accept.map_or(Language::English, Language::preferred)
}

/// Tells the handlers who asks.
async fn let_in(admin: &Admin, path: &str, request: &mut Request) -> Result<(), Failure> {
    let client = client(request);
    let area = Area::of(path);
    match area {
        Area::Open => {}
        Area::OwnKey => {
            let own = own_key(admin, request.headers(), client).await?;
            request.extensions_mut().insert(own);
        }
        Area::User | Area::Operator => {
            let person = person(admin, request.headers(), client).await?;
            if person.is_operator() {
                request
                    .extensions_mut()
                    .insert(Operator(person.name.clone()));
            } else if area == Area::Operator {
                return Err(Failure::Forbidden("this is for operators"));
            }
            request.extensions_mut().insert(person);
        }
    }
    Ok(())
}

pub(super) fn client(request: &Request) -> ClientAddr {
    let known = request.extensions().get::<ClientAddr>().copied();
    known.unwrap_or(ClientAddr(None))
}

async fn person(admin: &Admin, headers: &HeaderMap, client: ClientAddr) -> Result<Person, Failure> {
    let config = admin.config();
    let config = &config.admin;
    let Some(bearer) = credentials(headers, "bearer") else {
        let why = "sign in: Authorization: Bearer with the admin token, or with one from POST /admin/login";
        unlocked(config)?;
        return Err(Failure::Unauthorized(why, BEARER));
    };
    let now = admin.now();
    if bearer.split('.').count() == 3 {
        // A good signature cannot be guessed: a session is never kept out by others' guesses.
        let sessions = admin.guard.sessions(config, admin.store()).await?;
        match sessions.read(bearer, now) {
            Ok(token) => {
                if let Some(person) = holder_of(admin, config, &token).await? {
                    return Ok(person);
                }
            }
            Err(NoSession::Expired) => {
                let why = "the session is over, sign in again";
                return Err(Failure::Unauthorized(why, BEARER));
            }
            Err(NoSession::Forged) => {}
        }
    }
    unlocked(config)?;
    let guesser = Guesser::at_token(client.0);
    admin.guard.attempt(&guesser, now)?;
    if let Some(token) = &config.token
        && same(token, bearer)
    {
        admin.guard.forgive(&guesser);
        return Ok(Person {
            name: String::from("token"),
            user: None,
            session: None,
        });
    }
    refused(admin, client, "a wrong or forged token");
    Err(Failure::Unauthorized("the token is not valid", BEARER))
}

/// Whose session a well signed token is; `None` where it was ended, or its credential has changed.
async fn holder_of(
    admin: &Admin,
    config: &AdminConfig,
    token: &Token,
) -> Result<Option<Person>, Failure> {
    let sessions = admin.guard.sessions(config, admin.store()).await?;
    let user = match token.user {
        None if !has_password(config) => return Ok(None),
        None if !sessions.fits(token, &Holder::of_config(config)) => return Ok(None),
        None => None,
        Some(id) => match admin.store().user(id).await? {
            Some(user) if user.active && sessions.fits(token, &Holder::of_user(&user)) => {
                Some(user)
            }
            _ => return Ok(None),
        },
    };
    if admin.store().session_ended(token.id).await? {
        return Ok(None);
    }
    Ok(Some(Person {
        name: token.name.clone(),
        user,
        session: Some(OpenSession {
            id: token.id,
            until: token.until,
        }),
    }))
}

fn unlocked(config: &AdminConfig) -> Result<(), Failure> {
    if has_password(config) || config.token.is_some() {
        return Ok(());
    }
    let why = "the admin API is locked: set admin.password, admin.password_hash or admin.token";
    Err(Failure::Forbidden(why))
}

/// What follows the scheme in `Authorization`; nothing where the header stands twice.
pub(super) fn credentials<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else {
        return None;
    };
    let (found, rest) = value.to_str().ok()?.split_once(' ')?;
    let rest = rest.trim();
    (found.eq_ignore_ascii_case(scheme) && !rest.is_empty()).then_some(rest)
}

/// The caller by its key, admitted as the edge admits it.
async fn own_key(
    admin: &Admin,
    headers: &HeaderMap,
    client: ClientAddr,
) -> Result<OwnKey, Failure> {
    let origin = headers.get(ORIGIN);
    let caller = CallerFacts {
        hash: secret_hash(headers)?,
        ip: client.0,
        origin: origin.map(|o| o.to_str().unwrap_or("").to_owned()),
    };
    let desk = &admin.state.desk;
    let identity = desk.identify_now(&caller, None, admin.now()).await?;
    Ok(OwnKey { identity, caller })
}

/// The key from `Authorization: Bearer` or `X-API-Key`; two that differ are refused.
fn secret_hash(headers: &HeaderMap) -> Result<Option<KeyHash>, Refusal> {
    let bearers = headers.get_all(AUTHORIZATION).iter();
    let bearers = bearers.filter_map(|value| {
        let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
    });
    let named = headers.get_all("x-api-key").iter();
    let named = named.filter_map(|value| value.to_str().ok().map(str::trim));
    let mut hashes = bearers
        .chain(named)
        .filter(|secret| !secret.is_empty())
        .map(|secret| KeyHash::of(secret.as_bytes()));
    let Some(first) = hashes.next() else {
        return Ok(None);
    };
    if hashes.any(|other| !other.same(&first)) {
        return Err(Refusal::TwoKeys);
    }
    Ok(Some(first))
}
