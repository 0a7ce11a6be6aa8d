//! The OpenAPI 3.1 document of every interface of ours, and a browser for it that needs no internet.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::Config;

use super::Admin;
use super::failure::Failure;

const DOCUMENT: &str = "/openapi.json";

/// Scripts and styles are our own files; the page styles itself inline, nothing comes from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'";

#[derive(utoipa::OpenApi)]
#[openapi(info(
    title = "quota-proxy",
    description = "Keys, quotas, usage: what callers may ask about their own key, and what operators and users manage."
))]
struct Head;

/// The document without its paths, which the routes bring along.
pub(super) fn document() -> OpenApi {
    Head::openapi()
}

/// `/openapi.json` and `/admin/docs`.
pub(super) fn router(document: OpenApi) -> Router<Arc<Admin>> {
    let text: Arc<str> = document.to_json().unwrap_or_default().into();
    let browser = Router::new()
        .route(
            "/admin/docs",
            get(async || Redirect::permanent("/admin/docs/")),
        )
        .route(
            "/admin/docs/",
            get(async |config| file(String::new(), config)),
        )
        .route(
            "/admin/docs/{*file}",
            get(async |Path(name): Path<String>, config| file(name, config)),
        )
        .with_state(Arc::new(Config::from(DOCUMENT)));
    let document = Router::new().route(
        DOCUMENT,
        get(async move || ([(CONTENT_TYPE, "application/json")], text.to_string())),
    );
    document.merge(browser)
}

fn file(name: String, State(config): State<Arc<Config<'static>>>) -> Response {
    match utoipa_swagger_ui::serve(&name, config) {
        Ok(Some(file)) => {
            let headers = [
                (CONTENT_TYPE, file.content_type),
                (CONTENT_SECURITY_POLICY, POLICY.to_owned()),
                (CACHE_CONTROL, String::from("max-age=3600")),
            ];
            (headers, file.bytes.into_owned()).into_response()
        }
        Ok(None) => Failure::NotFound("path").into_response(),
        Err(fault) => Failure::Internal(fault.to_string()).into_response(),
    }
}
