//! What the process says of itself, to anyone on this port.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::Admin;
use super::failure::Failure;
use crate::config::Config;
use crate::store::{Condition, Store};

pub const SERVICE: &str = "quota-proxy";
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long health and metrics wait for the store: a probe has its own, longer time.
const STORE_PATIENCE: Duration = Duration::from_secs(1);

/// `GET /`.
pub fn root_json() -> Value {
    json!({
        "service": SERVICE,
        "version": VERSION,
        "status": "running",
        "documentation": "/admin/docs",
    })
}

/// `GET /health`, `GET /healthz`, on the edge too: 503 while draining or when it cannot serve.
pub async fn health(store: &dyn Store, config: &Config, draining: bool) -> (u16, Value) {
    let (status, word) = if draining {
        (503, "draining")
    } else {
        let condition = tokio::time::timeout(STORE_PATIENCE, store.condition()).await;
        match condition.unwrap_or(Condition::Away) {
            Condition::Serving => (200, "ok"),
            Condition::Degraded => (200, "degraded"),
            Condition::Away => (503, "unavailable"),
        }
    };
    let body = json!({
        "status": word,
        "service": SERVICE,
        "version": VERSION,
        "environment": config.admin.environment,
    });
    (status, body)
}

pub(super) async fn root() -> Json<Value> {
    Json(root_json())
}

pub(super) async fn health_answer(State(admin): State<Arc<Admin>>) -> Response {
    let draining = admin.state.draining.load(Ordering::Relaxed);
    let config = admin.config();
    let (status, body) = health(admin.store(), &config, draining).await;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(body)).into_response()
}

/// `GET /metrics`. What is held is asked of the store now; a store that is away leaves the last figures.
pub(super) async fn metrics(State(admin): State<Arc<Admin>>) -> Result<Response, Failure> {
    let totals = tokio::time::timeout(STORE_PATIENCE, admin.store().totals()).await;
    if let Ok(Ok(totals)) = totals {
        let held = totals.held;
        let open = totals.open_reservations;
        admin.state.metrics.held(open, held.tokens, held.nano_usd);
    }
    let text = admin.state.metrics.render();
    let text = text.map_err(|e| Failure::Internal(format!("metrics cannot be shown: {e}")))?;
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}
