//! The admin service: keys, users, groups, audit, its own health and metrics, and what callers may ask
//! about their own keys.
//!
//! `router` makes an axum router over a store; `listen` serves it on the side port, and `edge_port`
//! lends the edge what is answered there too: both ports say the same. The guard (`auth`) stands
//! around every route and asks `paths` who may pass; a `failure` gets its shape and its language on
//! the way out. Each handler is described where it stands, and `openapi` is the sum of that.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::middleware::from_fn_with_state;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::Config;
use crate::exchange::Desk;
use crate::quota::Rates;
use crate::store::{AuditEntry, Store};
use crate::telemetry::Metrics;
use crate::time::UnixMs;

pub mod about;
pub mod audit;
pub mod auth;
pub mod backoff;
pub mod body;
pub mod chinese;
pub mod edge_port;
pub mod failure;
pub mod failure_schema;
pub mod fault;
pub mod groups;
pub mod key_change;
pub mod key_import;
pub mod key_item;
mod key_making;
pub mod key_schema;
pub mod keys;
pub mod listen;
pub mod login;
pub mod openapi;
pub mod own;
pub mod paths;
pub mod pools;
pub mod query;
pub mod session;
pub mod sign_in;
pub mod summary;
mod trial;
pub mod usd;
mod user_change;
pub mod user_key_item;
pub mod user_keys;
pub mod users;

pub use edge_port::EdgePort;

use failure::{Failure, Missing};

/// Tells the time; tests move it.
pub type Clock = Arc<dyn Fn() -> UnixMs + Send + Sync>;

/// What the admin service works on.
#[derive(Clone)]
pub struct AdminState {
    pub desk: Arc<Desk>,
    pub metrics: Arc<Metrics>,
    /// True from the moment the process takes no new work.
    pub draining: Arc<AtomicBool>,
    pub clock: Clock,
}

impl std::fmt::Debug for AdminState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminState").finish_non_exhaustive()
    }
}

/// The state together with what the guard remembers.
#[derive(Debug)]
pub struct Admin {
    pub(crate) state: AdminState,
    guard: login::Guard,
}

impl Admin {
    fn now(&self) -> UnixMs {
        (self.state.clock)()
    }

    fn store(&self) -> &dyn Store {
        &*self.state.desk.store
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.state.desk.live.load().config)
    }

    /// The rates of a tier; none where the configuration does not know it any more.
    fn rates(&self, tier: &str) -> Rates {
        self.config().tiers.get(tier).copied().unwrap_or_default()
    }
}

/// Everything the admin port answers.
pub fn router(state: AdminState) -> Router {
    let admin = Arc::new(Admin {
        state,
        guard: login::Guard::default(),
    });
    let (described, document) = described().split_for_parts();
    described
        .merge(openapi::router(openapi::completed(document)))
        .fallback(async || Failure::NotFound(Missing::Path))
        .method_not_allowed_fallback(async || Failure::MethodNotAllowed)
        .layer(from_fn_with_state(admin.clone(), auth::guard))
        .with_state(admin)
}

/// Routes together with their description.
fn described() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::with_openapi(openapi::document())
        .routes(routes!(about::root))
        .routes(routes!(about::health))
        .routes(routes!(about::healthz))
        .routes(routes!(about::metrics))
        .merge(own::described())
        .routes(routes!(login::login))
        .routes(routes!(sign_in::operator_logout))
        .routes(routes!(sign_in::register))
        .routes(routes!(sign_in::login))
        .routes(routes!(sign_in::me))
        .routes(routes!(sign_in::logout))
        .routes(routes!(users::list, users::create))
        .routes(routes!(users::show, users::change, users::delete))
        .routes(routes!(user_keys::list, user_keys::create))
        .routes(routes!(
            user_keys::show,
            user_keys::change,
            user_keys::replace,
            user_keys::delete
        ))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::show, keys::change, keys::delete))
        .routes(routes!(key_import::import))
        .routes(routes!(keys::stats))
        .routes(routes!(keys::disable))
        .routes(routes!(keys::enable))
        .routes(routes!(keys::rotate))
        .routes(routes!(keys::reset))
        .merge(trial::described())
        .routes(routes!(groups::list, groups::create))
        .routes(routes!(groups::show, groups::change, groups::delete))
        .routes(routes!(summary::summary))
        .routes(routes!(pools::list))
        .routes(routes!(audit::list))
        .routes(routes!(audit::invariants))
}

/// What was done, in words.
#[derive(Debug, Serialize, ToSchema)]
pub struct Message {
    message: String,
}

impl Message {
    fn of(text: &str) -> Json<Message> {
        Json(Message {
            message: text.to_owned(),
        })
    }
}

fn random_bytes() -> Result<[u8; 32], Failure> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| Failure::Internal(format!("no randomness: {e}")))?;
    Ok(bytes)
}

/// One line of the audit log. Records are given as JSON, in which no secret or hash of one stands.
fn audit_entry(
    admin: &Admin,
    who: &str,
    what: &str,
    subject: String,
    change: (Option<Value>, Option<Value>),
) -> AuditEntry {
    AuditEntry {
        at: admin.now(),
        who: who.to_owned(),
        what: what.to_owned(),
        subject,
        before: change.0,
        after: change.1,
    }
}
