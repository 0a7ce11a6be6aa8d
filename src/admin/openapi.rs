//! The OpenAPI 3.1 document of every interface of ours, and a browser for it that needs no internet.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use utoipa::OpenApi as _;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, ResponseBuilder};
use utoipa_swagger_ui::Config;

use super::Admin;
use super::failure::{Failure, Missing};
use super::failure_schema::{Coded, CodedError, Detail};
use super::paths::{Area, Shape};

const DOCUMENT: &str = "/openapi.json";

/// Scripts and styles are our own files; the page styles itself inline, nothing comes from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "quota-proxy",
        description = "Keys, quotas, usage: what callers may ask about their own key, and what operators and users manage."
    ),
    tags(
        (name = "about", description = "What the process says of itself, to anyone."),
        (name = "self-service", description = "What a caller may ask about its own key, with that key."),
        (name = "users", description = "Signing in, and who may."),
        (name = "own keys", description = "The keys of whoever signed in."),
        (name = "keys", description = "All keys, as the relay has them."),
        (name = "groups", description = "Keys that share quotas."),
        (name = "pools", description = "Where requests go, and how the peers fare."),
        (name = "books", description = "Sums, the audit log, and whether the books are in order."),
    ),
    components(schemas(Detail, Coded, CodedError)),
)]
struct Head;

const BEARER: &str = "bearer";
const BASIC: &str = "basic";
const KEY: &str = "key";
const KEY_HEADER: &str = "key_header";

/// The document without its paths, which the routes bring along.
pub(super) fn document() -> OpenApi {
    let mut document = Head::openapi();
    let http = |scheme, words: &str| {
        let http = HttpBuilder::new().scheme(scheme).description(Some(words));
        SecurityScheme::Http(http.build())
    };
    let signed_in = "The admin token, or the access_token of a sign-in.";
    let operator = "The operator's name and password of the configuration.";
    let own = "A caller's own key.";
    let header = ApiKeyValue::with_description("X-API-Key", own);
    let components = document.components.get_or_insert_default();
    for (name, scheme) in [
        (BEARER, http(HttpAuthScheme::Bearer, signed_in)),
        (BASIC, http(HttpAuthScheme::Basic, operator)),
        (KEY, http(HttpAuthScheme::Bearer, own)),
        (KEY_HEADER, SecurityScheme::ApiKey(ApiKey::Header(header))),
    ] {
        components.add_security_scheme(name, scheme);
    }
    document
}

/// The document with who may ask, and with what the guard and the readers of bodies may answer anywhere.
pub(super) fn completed(mut document: OpenApi) -> OpenApi {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("put", &mut item.put),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ] {
            if let Some(operation) = operation {
                operation.operation_id = Some(operation_id(method, path));
                complete(path, method != "get", operation);
            }
        }
    }
    document
}

/// Of `GET /admin/users/{id}` it is `get_admin_users_id`: no two are the same.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric());
    let words = words.filter(|word| !word.is_empty());
    std::iter::once(method)
        .chain(words)
        .collect::<Vec<_>>()
        .join("_")
}

fn complete(path: &str, changes: bool, operation: &mut Operation) {
    let (area, shape) = (Area::of(path), Shape::of(path));
    let schemes: &[&str] = match area {
        Area::Open if path == "/admin/login" => &[BASIC],
        Area::Open => &[],
        Area::OwnKey => &[KEY, KEY_HEADER],
        Area::User | Area::Operator => &[BEARER],
    };
    if !schemes.is_empty() {
        let one = |name: &&str| SecurityRequirement::new(*name, Vec::<String>::new());
        operation.security = Some(schemes.iter().map(one).collect());
    }
    let schema = match shape {
        Shape::Detail => "Detail",
        Shape::Coded => "Coded",
    };
    let is_asked = area != Area::Open || changes;
    let failures: &[&[(&str, &str)]] = match (is_asked, shape) {
        (false, _) => &[],
        (true, Shape::Detail) if area == Area::OwnKey => &[&ALWAYS, &[INVALID, TWO_KEYS]],
        (true, Shape::Detail) => &[&ALWAYS, &[INVALID]],
        (true, Shape::Coded) => &[&ALWAYS, &[("400", INVALID.1)]],
    };
    let failures = failures.iter().copied().flatten();
    let names_one = path.contains('{') || path == "/api/v1/api-keys";
    let further = [(names_one, MISSING), (changes, CONFLICT)].into_iter();
    let further = further
        .filter(|(is_met, _)| is_asked && *is_met)
        .map(|(_, row)| row);
    for (status, words) in failures.copied().chain(further) {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema)));
        let response = ResponseBuilder::new().description(words);
        let response = response.content("application/json", content.build());
        let known = &mut operation.responses.responses;
        known
            .entry(status.to_owned())
            .or_insert_with(|| response.build().into());
    }
}

/// What may be answered wherever something is asked for.
const ALWAYS: [(&str, &str); 7] = [
    ("401", "Nobody is known by this credential."),
    ("403", "Whoever asks may not."),
    ("408", "The body did not arrive in time."),
    ("413", "The body is too large."),
    ("429", "Too many attempts, or a quota is used up."),
    ("500", "Our fault; the log says more."),
    ("503", "The store is away; try again."),
];
const INVALID: (&str, &str) = (
    "422",
    "What was asked makes no sense; every fault is named.",
);
const TWO_KEYS: (&str, &str) = ("400", "Two keys were sent, and they differ.");
const MISSING: (&str, &str) = ("404", "There is no such thing.");
const CONFLICT: (&str, &str) = ("409", "It is there already, or others are changing it.");

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
        Ok(None) => Failure::NotFound(Missing::Path).into_response(),
        Err(fault) => Failure::Internal(fault.to_string()).into_response(),
    }
}
