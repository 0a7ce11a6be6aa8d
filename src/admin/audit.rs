//! Who changed what, and when.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::Uri;
use serde_json::{Value, json};

use super::Admin;
use super::failure::Failure;
use super::query::Query;

/// `GET /admin/audit?skip&limit`, newest first.
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    uri: Uri,
) -> Result<Json<Value>, Failure> {
    let mut query = Query::of(&uri);
    let (skip, limit) = query.page();
    query.finish()?;
    let page = admin.store().audit(skip, limit).await?;
    Ok(Json(json!({
        "items": page.items, "total": page.total, "skip": skip, "limit": limit,
    })))
}
