//! `/admin/keys` and `/admin/usage`: keys as the trial-key API has them (SPEC section 6), that is by
//! their request quota. They are the same keys as everywhere.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::failure::Failure;
use super::query::MAX_PAGE;
use super::{Admin, key_item};
use crate::keys::{KeyId, KeyRecord};
use crate::store::{KeyFigures, KeyQuery};
use crate::time::UnixMs;

mod create;
mod manage;
mod usage;

/// The routes, each with its description.
pub(super) fn described() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::new()
        .routes(routes!(create::create, manage::list))
        .routes(routes!(manage::reset))
        .routes(routes!(manage::disable))
        .routes(routes!(manage::enable))
        .routes(routes!(usage::usage))
}

/// A key and what it has used.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct KeyLine {
    #[schema(value_type = String, format = Uuid)]
    id: KeyId,
    name: String,
    /// Masked.
    key: String,
    /// The request limit; 0 is unlimited.
    quota: i64,
    /// Null where it is unlimited.
    used: Option<i64>,
    /// Null where it is unlimited.
    remaining: Option<i64>,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<UnixMs>,
    #[schema(value_type = String, format = DateTime)]
    created_at: UnixMs,
    /// When something was charged last.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_used: Option<UnixMs>,
}

impl KeyLine {
    fn of(key: &KeyRecord, figures: &KeyFigures) -> Self {
        let requests = key_item::requests(&figures.standing);
        KeyLine {
            id: key.id,
            name: key.name.clone(),
            key: key.masked.clone(),
            quota: requests.limit,
            used: requests.used,
            remaining: requests.remaining,
            expires_at: key.expires_at,
            created_at: key.created_at,
            last_used: figures.activity.last_used_at,
        }
    }
}

/// A line for every key, in order of creation. Asks the store for a page of keys at a time.
async fn lines<T>(
    admin: &Admin,
    line: impl Fn(&KeyRecord, &KeyFigures) -> T,
) -> Result<Vec<T>, Failure> {
    let mut lines = Vec::new();
    let mut query = KeyQuery {
        limit: MAX_PAGE,
        ..KeyQuery::default()
    };
    loop {
        let page = admin.store().list_keys(query).await?;
        let figures = key_item::figures(admin, &page.items).await?;
        let keys = page.items.iter().zip(&figures);
        lines.extend(keys.map(|(key, figures)| line(key, figures)));
        query.skip += MAX_PAGE;
        if page.items.is_empty() || query.skip >= page.total {
            return Ok(lines);
        }
    }
}
