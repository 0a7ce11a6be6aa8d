//! What the process says of itself, to anyone on this port.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use utoipa::ToSchema;

use super::failure::Failure;
use super::pools::peer_states;
use super::{Admin, AdminState};
use crate::store::{Condition, Store};

pub const SERVICE: &str = "quota-proxy";
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long health and metrics wait for the store: a probe has its own, longer time.
const STORE_PATIENCE: Duration = Duration::from_secs(1);

/// What runs here.
#[derive(Debug, Serialize, ToSchema)]
pub struct Root {
    service: &'static str,
    version: &'static str,
    /// Always `running`.
    status: &'static str,
    /// The path of the interface's description.
    documentation: &'static str,
}

/// How the process is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`, `degraded` (serving without its store), `draining` or `unavailable`.
    status: &'static str,
    service: &'static str,
    version: &'static str,
    /// `admin.environment` of the configuration.
    environment: String,
}

/// What runs here.
#[utoipa::path(
    get, path = "/", tag = "about",
    responses((status = 200, body = Root)),
)]
pub(super) async fn root() -> Json<Root> {
    Json(Root {
        service: SERVICE,
        version: VERSION,
        status: "running",
        documentation: "/admin/docs",
    })
}

/// How the process is; 503 while it drains, or when it cannot serve.
#[utoipa::path(
    get, path = "/health", tag = "about",
    responses((status = 200, body = Health), (status = 503, body = Health)),
)]
pub(super) async fn health(State(admin): State<Arc<Admin>>) -> Response {
    checked(&admin).await
}

/// How the process is; the same as `/health`.
#[utoipa::path(
    get, path = "/healthz", tag = "about",
    responses((status = 200, body = Health), (status = 503, body = Health)),
)]
pub(super) async fn healthz(State(admin): State<Arc<Admin>>) -> Response {
    checked(&admin).await
}

async fn checked(admin: &Admin) -> Response {
    let (code, status) = if admin.state.draining.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else {
        match condition(admin.store()).await {
            Condition::Serving => (StatusCode::OK, "ok"),
            Condition::Degraded => (StatusCode::OK, "degraded"),
            Condition::Away => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        }
    };
    let health = Health {
        status,
        service: SERVICE,
        version: VERSION,
        environment: admin.config().admin.environment.clone(),
    };
    (code, Json(health)).into_response()
}

async fn condition(store: &dyn Store) -> Condition {
    let condition = tokio::time::timeout(STORE_PATIENCE, store.condition()).await;
    condition.unwrap_or(Condition::Away)
}

/// Metrics in Prometheus' text format. What is a state and no count is asked for now; a store that is
/// away leaves the last figures of what it holds.
#[utoipa::path(
    get, path = "/metrics", tag = "about",
    responses((status = 200, body = String, content_type = "text/plain")),
)]
pub(super) async fn metrics(State(admin): State<Arc<Admin>>) -> Result<Response, Failure> {
    let AdminState { desk, metrics, .. } = &admin.state;
    let totals = tokio::time::timeout(STORE_PATIENCE, desk.store.totals());
    let (condition, totals) = tokio::join!(condition(&*desk.store), totals);
    metrics.condition(condition);
    if let Ok(Ok(totals)) = totals {
        let held = totals.held;
        metrics.held(totals.open_reservations, held.tokens, held.nano_usd);
    }
    metrics.settlements_waiting(desk.settler.waiting());
    let peers = peer_states(&desk.live.load().pools, Instant::now());
    metrics.peers.show(peers);
    let text = metrics.render();
    let text = text.map_err(|e| Failure::Internal(format!("metrics cannot be shown: {e}")))?;
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}
