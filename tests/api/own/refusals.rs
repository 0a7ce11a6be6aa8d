//! Who is turned away, in each shape.

use reqwest::Method;
use serde_json::{Value, json};

use super::house::House;
use crate::reply::reply;
use crate::support::wait::{PATIENCE, eventually, that};
use quota_proxy::time::UnixMs;

on_both_stores!(
    keys_that_may_not_be_used_are_told_why,
    paths_and_methods_that_are_not_there,
    everything_is_described,
);

const CODED: [(&str, &str); 5] = [
    ("GET", "/api/v1/validate"),
    ("POST", "/api/v1/use"),
    ("POST", "/api/v1/use/batch"),
    ("GET", "/api/v1/quota"),
    ("GET", "/api/v1/usage/history"),
];
const DETAIL: [(&str, &str); 5] = [
    ("GET", "/usage"),
    ("GET", "/api/usage"),
    ("GET", "/api/usage/daily"),
    ("GET", "/api/usage/logs"),
    ("GET", "/api/usage/quota"),
];

/// Every endpoint refuses a key, if there is one, in its own shape.
async fn refused(house: &House, key: Option<&str>, status: u16, code: &str, words: &str) {
    for (method, path) in CODED.into_iter().chain(DETAIL) {
        let request = house.edge(method.parse().unwrap(), path);
        let request = match key {
            Some(key) => request.header("x-api-key", key),
            None => request,
        };
        let answer = reply(request).await;
        let message = if path.starts_with("/api/v1") {
            answer.coded(status, code).0
        } else {
            answer.detail(status)
        };
        assert!(message.contains(words), "{path}: {message}");
    }
}

async fn keys_that_may_not_be_used_are_told_why(house: House) {
    refused(&house, None, 401, "UNAUTHORIZED", "No API key").await;
    refused(
        &house,
        Some("sk-proxy_nobody"),
        401,
        "UNAUTHORIZED",
        "Incorrect API key",
    )
    .await;
    let (id, secret) = house.key(5).await;
    house
        .manage("/admin/keys/disable", &json!({"id": id}))
        .await
        .ok();
    refused(&house, Some(&secret), 403, "KEY_DISABLED", "disabled").await;
    house
        .manage("/admin/keys/enable", &json!({"id": id}))
        .await
        .ok();
    house.get("/usage", &secret).await.ok();

    let soon = UnixMs::now().plus_ms(1_500).to_rfc3339();
    let made = house
        .manage("/admin/keys", &json!({"quota": 1, "expiresAt": soon}))
        .await
        .ok();
    let brief = made["key"].as_str().unwrap();
    eventually(PATIENCE, || async {
        let answer = house.get("/usage", brief).await;
        that(answer.status, |status| *status == 401)
    })
    .await;
    refused(&house, Some(brief), 401, "KEY_EXPIRED", "expired").await;

    let narrow = json!({"name": "n", "allowed_origins": ["example.com"], "denied_ips": ["0.0.0.0/0", "::/0"]});
    let narrow = house.manage("/admin/api-keys", &narrow).await.ok();
    let narrow = narrow["api_key"].as_str().unwrap();
    refused(&house, Some(narrow), 403, "FORBIDDEN", "address").await;

    let two = house
        .edge(Method::GET, "/api/v1/validate")
        .bearer_auth(&secret);
    reply(two.header("x-api-key", brief))
        .await
        .coded(400, "INVALID_REQUEST");
    let chinese = house
        .edge(Method::GET, "/api/v1/validate")
        .header("accept-language", "zh");
    let (message, _) = reply(chinese).await.coded(401, "UNAUTHORIZED");
    assert!(message.contains("密钥"), "{message}");
}

async fn paths_and_methods_that_are_not_there(house: House) {
    let (_, secret) = house.key(5).await;
    let answer = house.get("/api/v1/use", &secret).await;
    answer.coded(405, "METHOD_NOT_ALLOWED");
    let answer = house.get("/api/usage/nothing", &secret).await;
    answer.detail(404);
    // An operator's sign-in is no key, and a key signs nobody in.
    let token = crate::support::admin::TOKEN;
    house
        .get("/api/v1/validate", token)
        .await
        .coded(401, "UNAUTHORIZED");
    let stranger = house.side(Method::GET, "/admin/keys").bearer_auth(&secret);
    reply(stranger).await.coded(401, "UNAUTHORIZED");
    // The admin service is not on the edge unless it is mounted there.
    assert_eq!(house.get("/admin/keys", token).await.status, 404);
}

/// The OpenAPI document knows every endpoint, and what it refers to is there.
async fn everything_is_described(house: House) {
    let document = house.look("/openapi.json").await.ok();
    for (method, path) in CODED.into_iter().chain(DETAIL) {
        let operation = &document["paths"][path][method.to_lowercase()];
        let answers = operation["responses"]
            .as_object()
            .unwrap_or_else(|| panic!("{method} {path}"));
        for status in ["200", "401", "403", "503"] {
            assert!(answers.contains_key(status), "{method} {path} {status}");
        }
        assert!(operation["summary"].is_string(), "{method} {path}");
    }
    let mut operations = Vec::new();
    let paths = document["paths"].as_object().unwrap().values();
    for operation in paths.flat_map(|methods| methods.as_object().unwrap().values()) {
        operations.push(operation["operationId"].as_str().unwrap().to_owned());
    }
    let count = operations.len();
    operations.sort();
    operations.dedup();
    assert_eq!(
        operations.len(),
        count,
        "operation ids stand once: {operations:?}"
    );
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let place = document.pointer(reference.strip_prefix('#').unwrap());
        assert!(place.is_some(), "{reference}");
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                found.push(reference.clone());
            }
            fields
                .values()
                .for_each(|field| collect_references(field, found));
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect_references(item, found)),
        _ => {}
    }
}
