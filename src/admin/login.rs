//! Signing in: passwords, checked few at a time, and what guessing costs.

use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::PasswordVerifier as _;
use argon2::password_hash::phc::PasswordHash;
use axum::Json;
use axum::extract::{Request, State};
use base64::Engine as _;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{OnceCell, Semaphore};

use super::auth::{client, credentials};
use super::backoff::{Backoff, Guesser};
use super::failure::Failure;
use super::listen::ClientAddr;
use super::session::{Holder, Sessions};
use super::{Admin, random_bytes};
use crate::config::{AdminConfig, SecretText};
use crate::keys::KeyHash;
use crate::store::Store;
use crate::telemetry::event::LoginRefused;
use crate::time::UnixMs;

const BASIC: &str = "Basic realm=\"quota-proxy admin\", charset=\"UTF-8\"";

/// Password hashes at work at once: each takes 19 MiB and more.
const MAX_HASHING: usize = 2;
/// Sign-ins that work at a hash or wait for it, at most; beyond, a caller tries again.
const MAX_QUEUED: usize = 16;
/// Seconds until then.
const QUEUE_WAIT_SECS: u64 = 1;

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
    pub(super) async fn sessions(
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

    pub(super) fn attempt(&self, guesser: &Guesser, now: UnixMs) -> Result<(), Failure> {
        let waiting = self.backoff.lock().attempt(guesser, now);
        waiting.map_err(|ms| Failure::TooMany(u64::try_from(ms).unwrap_or(0).div_ceil(1_000)))
    }

    pub(super) fn forgive(&self, guesser: &Guesser) {
        self.backoff.lock().forgive(guesser);
    }

    /// Works at a password hash off the event loop, few at a time. Not cancel safe: the work goes on.
    pub(super) async fn hashing<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, Failure> {
        let Ok(_place) = self.queue.try_acquire() else {
            return Err(Failure::TooMany(QUEUE_WAIT_SECS));
        };
        let slot = self.hashing.clone().acquire_owned().await;
        let slot = slot.map_err(|e| Failure::Internal(e.to_string()))?;
        let done = tokio::task::spawn_blocking(move || {
            // Held to the end of the work, though the caller may have gone.
            let _slot = slot;
            work()
        });
        let done = done.await.map_err(|e| Failure::Internal(e.to_string()))?;
        done.map_err(Failure::Internal)
    }

    /// Whether a password has this argon2 hash, a PHC string.
    pub(super) async fn verify(&self, hash: String, given: String) -> Result<bool, Failure> {
        let work = move || {
            let hash = PasswordHash::new(&hash)
                .map_err(|e| format!("a password hash cannot be read: {e}"))?;
            let checked = Argon2::default().verify_password(given.as_bytes(), &hash);
            Ok(checked.is_ok())
        };
        self.hashing(work).await
    }
}

/// `POST /admin/login`, Basic (RFC 7617).
pub(super) async fn login(
    State(admin): State<Arc<Admin>>,
    request: Request,
) -> Result<Json<Value>, Failure> {
    let config = admin.config();
    let config = &config.admin;
    if !has_password(config) {
        let why = "sign-in by password is off: set admin.password or admin.password_hash";
        return Err(Failure::Forbidden(why));
    }
    let Some((user, password)) = credentials(request.headers(), "basic").and_then(basic) else {
        let why = "sign in with Basic authentication";
        return Err(Failure::Unauthorized(why, BASIC));
    };
    let now = admin.now();
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
    let sessions = admin.guard.sessions(config, admin.store()).await?;
    let token = sessions
        .open(&Holder::of_config(config), config.session_ttl, now)
        .map_err(|e| Failure::Internal(format!("a session cannot be made: {e}")))?;
    Ok(Json(json!({
        "access_token": token,
        "token_type": "bearer",
        "expires_in": config.session_ttl.as_secs(),
    })))
}

pub(super) fn refused(admin: &Admin, client: ClientAddr, cause: &'static str) {
    let event = LoginRefused {
        from: client.0,
        cause,
    };
    event.emit(&admin.state.metrics);
}

pub(super) fn has_password(config: &AdminConfig) -> bool {
    config.password.is_some() || config.password_hash.is_some()
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
pub(super) fn same(expected: &SecretText, given: &str) -> bool {
    KeyHash::of(expected.reveal().as_bytes()).same(&KeyHash::of(given.as_bytes()))
}

/// Whether this is the password of the configuration.
pub(super) async fn password_fits(
    guard: &Guard,
    config: &AdminConfig,
    given: String,
) -> Result<bool, Failure> {
    match &config.password_hash {
        None => Ok(config.password.as_ref().is_some_and(|p| same(p, &given))),
        Some(hash) => guard.verify(hash.reveal().to_owned(), given).await,
    }
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
