//! The admin service on the side port: keys, groups, audit, its own health and metrics.
//!
//! `router` makes an axum router over a store; `listen` serves it on Pingora's listener. Every path
//! but a few listed ones asks for an operator (see `auth`). `own` answers callers about their own
//! key, on this port and, called by the edge, on that one.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use serde_json::Value;

use crate::config::Config;
use crate::quota::Rates;
use crate::store::{AuditEntry, Store};
use crate::telemetry::Metrics;
use crate::time::UnixMs;

pub mod about;
pub mod audit;
pub mod auth;
pub mod backoff;
pub mod body;
pub mod failure;
pub mod groups;
pub mod key_change;
pub mod key_item;
pub mod keys;
pub mod listen;
pub mod own;
pub mod query;
pub mod session;
pub mod usd;

use failure::Failure;

/// Tells the time; tests move it.
pub type Clock = Arc<dyn Fn() -> UnixMs + Send + Sync>;

/// What the admin service works on.
#[derive(Clone)]
pub struct AdminState {
    pub store: Arc<dyn Store>,
    pub config: Arc<ArcSwap<Config>>,
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
    guard: auth::Guard,
}

impl Admin {
    fn now(&self) -> UnixMs {
        (self.state.clock)()
    }

    /// The rates of a tier; none where the configuration does not know it any more.
    fn rates(&self, tier: &str) -> Rates {
        let config = self.state.config.load();
        config.tiers.get(tier).copied().unwrap_or_default()
    }
}

/// Everything the admin port answers.
pub fn router(state: AdminState) -> Router {
    let admin = Arc::new(Admin {
        state,
        guard: auth::Guard::default(),
    });
    let keys = Router::new()
        .route("/", post(keys::create).get(keys::list))
        .route(
            "/{id}",
            get(keys::show).patch(keys::change).delete(keys::delete),
        )
        .route("/{id}/stats", get(keys::stats))
        .route("/{id}/disable", post(keys::disable))
        .route("/{id}/enable", post(keys::enable))
        .route("/{id}/rotate", post(keys::rotate))
        .route("/{id}/reset", post(keys::reset));
    let groups = Router::new()
        .route("/", post(groups::create).get(groups::list))
        .route(
            "/{id}",
            get(groups::show)
                .patch(groups::change)
                .delete(groups::delete),
        );
    Router::new()
        .route("/", get(about::root))
        .route("/health", get(about::health_answer))
        .route("/healthz", get(about::health_answer))
        .route("/metrics", get(about::metrics))
        .route("/api/usage/{what}", get(own::answer))
        .route("/admin/login", post(auth::login))
        .route("/admin/audit", get(audit::list))
        .nest("/admin/api-keys", keys)
        .nest("/admin/groups", groups)
        .fallback(async || Failure::NotFound("path"))
        .method_not_allowed_fallback(async || Failure::MethodNotAllowed)
        .layer(from_fn_with_state(admin.clone(), auth::guard))
        .with_state(admin)
}

fn random_bytes() -> Result<[u8; 32], Failure> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| Failure::Internal(format!("no randomness: {e}")))?;
    Ok(bytes)
}

/// One line of the audit log. Records are given as JSON, in which no secret or hash of one stands.
fn audit_entry(
    admin: &Admin,
    who: &auth::Operator,
    what: &str,
    subject: String,
    change: (Option<Value>, Option<Value>),
) -> AuditEntry {
    AuditEntry {
        at: admin.now(),
        who: who.0.clone(),
        what: what.to_owned(),
        subject,
        before: change.0,
        after: change.1,
    }
}
