//! Who may use the admin service. Denied by default: the open paths are listed, every other one,
//! known or not, asks for an operator.

use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::PasswordVerifier as _;
use argon2::password_hash::phc::PasswordHash;
use axum::Json;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use http::header::{AUTHORIZATION, CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{OnceCell, Semaphore};

use super::backoff::{Backoff, Guesser};
use super::failure::Failure;
use super::listen::ClientAddr;
use super::session::{NoSession, Sessions};
use super::{Admin, random_bytes};
use crate::config::{AdminConfig, SecretText};
use crate::keys::KeyHash;
use crate::store::Store;
use crate::telemetry::event::LoginRefused;
use crate::time::UnixMs;

/// Paths that anyone may ask. The sign-in checks for itself who asks.
const OPEN: [&str; 5] = ["/", "/health", "/healthz", "/metrics", "/admin/login"];

/// Paths that a caller asks with a key of its own, checked where they are answered.
const OWN_KEY: &str = "/api/usage/";

const BEARER: &str = "Bearer";
const BASIC: &str = "Basic realm=\"quota-proxy admin\", charset=\"UTF-8\"";

/// Password hashes at work at once: each takes 19 MiB and more.
const MAX_HASHING: usize = 2;
/// Sign-ins that work at a hash or wait for it, at most; beyond, a caller tries again.
const MAX_QUEUED: usize = 16;
/// Seconds until then.
const QUEUE_WAIT_SECS: u64 = 1;

/// The operator behind a request; what the audit log calls `who`.
#[derive(Clone, Debug)]
pub struct Operator(pub String);

/// What the guard remembers.
#[derive(Debug)]
pub struct Guard {
    backoff: Mutex<Backoff>,
    hashing: Arc<Semaphore>,
    queue: Semaphore,
    sessions: OnceCell<Sessions>,
}

impl Default for Guard {
    fn default() -> Self {
        Guard {
            backoff: Mutex::default(),
            hashing: Arc::new(Semaphore::new(MAX_HASHING)),
            queue: Semaphore::new(MAX_QUEUED),
            sessions: OnceCell::new(),
        }
    }
}

impl Guard {
    async fn sessions(
        &self,
        config: &AdminConfig,
        store: &dyn Store,
    ) -> Result<&Sessions, Failure> {
        let made = self.sessions.get_or_try_init(|| async {
            if let Some(key) = &config.secret_key {
                return Ok(Sessions::new(key.reveal().as_bytes()));
            }
            let fresh = base64::engine::general_purpose::STANDARD.encode(random_bytes()?);
            let key = store.setting_or_insert("secret_key", &fresh).await?;
            Ok(Sessions::new(key.as_bytes()))
        });
        made.await
    }

    fn attempt(&self, guesser: &Guesser, now: UnixMs) -> Result<(), Failure> {
        let waiting = self.backoff.lock().attempt(guesser, now);
        waiting.map_err(|ms| Failure::TooMany(u64::try_from(ms).unwrap_or(0).div_ceil(1_000)))
    }

    fn forgive(&self, guesser: &Guesser) {
        self.backoff.lock().forgive(guesser);
    }
}

/// The layer around every route.
pub async fn guard(State(admin): State<Arc<Admin>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let open = OPEN.contains(&path) || path.starts_with(OWN_KEY);
    let mut response = if open {
        next.run(request).await
    } else {
        match operator(&admin, request.headers(), client(&request)).await {
            Ok(operator) => {
                request.extensions_mut().insert(operator);
                next.run(request).await
            }
            Err(failure) => failure.into_response(),
        }
    };
    let headers = response.headers_mut();
    // Answers carry secrets and figures of the moment.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn client(request: &Request) -> ClientAddr {
    let known = request.extensions().get::<ClientAddr>().copied();
    known.unwrap_or(ClientAddr(None))
}

async fn operator(
    admin: &Admin,
    headers: &HeaderMap,
    client: ClientAddr,
) -> Result<Operator, Failure> {
    let config = admin.state.config.load_full();
    let config = &config.admin;
    unlocked(config)?;
    let Some(bearer) = credentials(headers, "bearer") else {
        let why = "sign in: Authorization: Bearer with the admin token, or with one from POST /admin/login";
        return Err(Failure::Unauthorized(why, BEARER));
    };
    let now = (admin.state.clock)();
    if bearer.split('.').count() == 3 && has_password(config) {
        // A good signature cannot be guessed: a session is never kept out by others' guesses.
        let store = &*admin.state.store;
        match admin
            .guard
            .sessions(config, store)
            .await?
            .read(bearer, config, now)
        {
            Ok(user) => return Ok(Operator(user)),
            Err(NoSession::Expired) => {
                let why = "the session is over, sign in again";
                return Err(Failure::Unauthorized(why, BEARER));
            }
            Err(NoSession::Forged) => {}
        }
    }
    let guesser = Guesser::at_token(client.0);
    admin.guard.attempt(&guesser, now)?;
    if let Some(token) = &config.token
        && same(token, bearer)
    {
        admin.guard.forgive(&guesser);
        return Ok(Operator(String::from("token")));
    }
    refused(admin, client, "a wrong or forged token");
    Err(Failure::Unauthorized("the token is not valid", BEARER))
}

/// `POST /admin/login`, Basic (RFC 7617).
pub async fn login(
    State(admin): State<Arc<Admin>>,
    request: Request,
) -> Result<Json<Value>, Failure> {
    let config = admin.state.config.load_full();
    let config = &config.admin;
    unlocked(config)?;
    if !has_password(config) {
        let why = "sign-in by password is off: set admin.password or admin.password_hash";
        return Err(Failure::Forbidden(why));
    }
    let Some((user, password)) = credentials(request.headers(), "basic").and_then(basic) else {
        let why = "sign in with Basic authentication";
        return Err(Failure::Unauthorized(why, BASIC));
    };
    let now = (admin.state.clock)();
    let client = client(&request);
    let guesser = Guesser::at_password(client.0, &user);
    admin.guard.attempt(&guesser, now)?;
    let right_user = same(&SecretText::new(config.username.clone()), &user);
    // The password is checked for a wrong user too: names must not be told by time.
    let right_password = password_fits(&admin.guard, config, password).await?;
    if !(right_user && right_password) {
        refused(&admin, client, "a wrong user name or password");
        let why = "the user name or the password is wrong";
        return Err(Failure::Unauthorized(why, BASIC));
    }
    admin.guard.forgive(&guesser);
    let sessions = admin.guard.sessions(config, &*admin.state.store).await?;
    let token = sessions
        .open(config, now)
        .map_err(|e| Failure::Internal(format!("a session cannot be made: {e}")))?;
    Ok(Json(json!({
        "access_token": token,
        "token_type": "bearer",
        "expires_in": config.session_ttl.as_secs(),
    })))
}

fn refused(admin: &Admin, client: ClientAddr, cause: &'static str) {
    let event = LoginRefused {
        from: client.0,
        cause,
    };
    event.emit(&admin.state.metrics);
}

fn has_password(config: &AdminConfig) -> bool {
    config.password.is_some() || config.password_hash.is_some()
}

fn unlocked(config: &AdminConfig) -> Result<(), Failure> {
    if has_password(config) || config.token.is_some() {
        return Ok(());
    }
    let why = "the admin API is locked: set admin.password, admin.password_hash or admin.token";
    Err(Failure::Forbidden(why))
}

/// What follows the scheme in `Authorization`; nothing where the header stands twice.
fn credentials<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else {
        return None;
    };
    let (found, rest) = value.to_str().ok()?.split_once(' ')?;
    let rest = rest.trim();
    (found.eq_ignore_ascii_case(scheme) && !rest.is_empty()).then_some(rest)
}

fn basic(encoded: &str) -> Option<(String, String)> {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Equality in time that depends on neither content nor length: hashes are compared.
fn same(expected: &SecretText, given: &str) -> bool {
    KeyHash::of(expected.reveal().as_bytes()).same(&KeyHash::of(given.as_bytes()))
}

async fn password_fits(
    guard: &Guard,
    config: &AdminConfig,
    given: String,
) -> Result<bool, Failure> {
    let Some(hash) = config.password_hash.clone() else {
        return Ok(config.password.as_ref().is_some_and(|p| same(p, &given)));
    };
    let Ok(_place) = guard.queue.try_acquire() else {
        return Err(Failure::TooMany(QUEUE_WAIT_SECS));
    };
    let slot = guard.hashing.clone().acquire_owned().await;
    let slot = slot.map_err(|e| Failure::Internal(e.to_string()))?;
    let checked = tokio::task::spawn_blocking(move || {
        // Held to the end of the work, though the caller may have gone.
        let _slot = slot;
        let hash = PasswordHash::new(hash.reveal()).map_err(|e| e.to_string())?;
        Ok(Argon2::default()
            .verify_password(given.as_bytes(), &hash)
            .is_ok())
    });
    let checked: Result<bool, String> = checked
        .await
        .map_err(|e| Failure::Internal(e.to_string()))?;
    checked.map_err(|e| Failure::Internal(format!("admin.password_hash cannot be read: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sign_ins_do_not_queue_without_end() {
        let parsed = crate::config::parse("", "none", std::path::Path::new("."), &|_| None);
        let mut config = parsed.unwrap().config.admin;
        config.password_hash = Some(SecretText::new("no hash"));
        let guard = Guard::default();
        let places = guard.queue.try_acquire_many(16).unwrap();
        let fits = password_fits(&guard, &config, String::from("x")).await;
        assert!(matches!(fits, Err(Failure::TooMany(1))), "{fits:?}");
        drop(places);
        let fits = password_fits(&guard, &config, String::from("x")).await;
        assert!(matches!(fits, Err(Failure::Internal(_))), "{fits:?}");
    }
}
