//! Who may call: lists of addresses, origins and models; keys that change; groups; browsers.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::admin::Key;
use crate::support::chance::Chance;
use crate::support::rig::{CHAT, Rig, chat};

async fn key_with(rig: &Rig, change: Value) -> Key {
    let mut body = json!({"name": "k", "token_limit": 0, "rate_limit_tier": "unlimited"});
    let fields = change.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    rig.admin().create(body).await
}

async fn status(rig: &Rig, key: &str) -> u16 {
    rig.post(CHAT, key, &chat("gpt-4o")).await.status().as_u16()
}

/// A chat with extra headers.
async fn chat_with(rig: &Rig, key: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = rig.request(Method::POST, CHAT, key).json(&chat("gpt-4o"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn a_key_changes_and_its_next_request_knows() {
    let rig = Rig::start().await;
    let admin = rig.admin();
    let key = admin.key(0).await;
    for round in 0..3 {
        assert_eq!(status(&rig, &key.secret).await, 200, "{round}");
        admin.act(&key, "disable").await;
        assert_eq!(status(&rig, &key.secret).await, 403, "{round}");
        admin.act(&key, "enable").await;
        assert_eq!(status(&rig, &key.secret).await, 200, "{round}");
        admin
            .patch(&key, json!({"allowed_models": ["other"]}))
            .await;
        assert_eq!(status(&rig, &key.secret).await, 403, "{round}");
        admin.patch(&key, json!({"allowed_models": []})).await;
    }
    admin.delete(&key, false).await;
    assert_eq!(status(&rig, &key.secret).await, 401);
}

#[tokio::test]
async fn a_rotated_key_serves_for_its_grace_and_both_draw_on_one_quota() {
    let rig = Rig::start().await;
    let admin = rig.admin();
    let key = key_with(&rig, json!({"request_limit": 3})).await;
    assert_eq!(status(&rig, &key.secret).await, 200);
    let rotated = admin.act(&key, "rotate").await;
    let new = rotated["api_key"].as_str().unwrap();
    assert_ne!(new, key.secret);
    assert_eq!(status(&rig, new).await, 200);
    assert_eq!(status(&rig, &key.secret).await, 200, "within its grace");
    assert_eq!(
        status(&rig, new).await,
        429,
        "the quota follows the key, not its secret"
    );
    assert_eq!(status(&rig, &key.secret).await, 429);
    // A second rotation ends the first secret.
    admin.act(&key, "rotate").await;
    assert_eq!(status(&rig, &key.secret).await, 401);
}

#[tokio::test]
async fn random_keys_are_refused_and_leave_nothing() {
    let rig = Rig::start().await;
    let key = rig.admin().key(0).await.secret;
    let mut chance = Chance::from_env();
    let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    for _ in 0..200 {
        let length = chance.below(80) + 1;
        let garbage: String = (0..length).map(|_| *chance.pick(letters) as char).collect();
        assert_eq!(status(&rig, &garbage).await, 401, "{garbage}");
    }
    // Near misses: one letter more, less, or other.
    let mut other = key.clone().into_bytes();
    let last = other.len() - 1;
    other[last] = if other[last] == b'a' { b'b' } else { b'a' };
    for near in [
        format!("{key}a"),
        key[..last].to_owned(),
        String::from_utf8(other).unwrap(),
    ] {
        assert_eq!(status(&rig, &near).await, 401);
    }
    assert_eq!(status(&rig, &key).await, 200);
    assert_eq!(rig.fake().ledger().await.requests, 1);
    let keys = rig.admin().get("/admin/api-keys").await;
    assert_eq!(keys["total"], 1);
}

#[tokio::test]
async fn addresses_come_from_the_connection_or_a_trusted_proxy() {
    let rig = Rig::start().await;
    let inside = key_with(&rig, json!({"allowed_ips": ["10.1.0.0/16"]})).await;
    let forged = [
        ("x-forwarded-for", "10.1.2.3"),
        ("x-real-ip", "10.1.2.3"),
        ("forwarded", "for=10.1.2.3"),
        ("cf-connecting-ip", "10.1.2.3"),
    ];
    let answer = chat_with(&rig, &inside.secret, &forged).await;
    assert_eq!(answer.status(), 403, "nobody is trusted by default");
    let trusting = Rig::builder()
        .set("edge.trusted_proxies", json!(["127.0.0.0/8"]))
        .start()
        .await;
    let inside = key_with(&trusting, json!({"allowed_ips": ["10.1.0.0/16"]})).await;
    for (list, status) in [
        ("10.1.2.3", 200),
        ("9.9.9.9, 10.1.2.3", 200),
        ("10.1.2.3, 9.9.9.9", 403),
        ("10.1.2.3, 9.9.9.9, 127.0.0.1", 403),
        ("10.1.2.3, nonsense", 403),
        ("", 403),
    ] {
        let answer = chat_with(&trusting, &inside.secret, &[("x-forwarded-for", list)]).await;
        assert_eq!(answer.status(), status, "{list}");
    }
}

#[tokio::test]
async fn origins_are_ruled_by_the_key() {
    let rig = Rig::start().await;
    let key = key_with(
        &rig,
        json!({"allowed_origins": ["*.example.com", "https://a.test"]}),
    )
    .await;
    for (origin, status) in [
        (None, 200),
        (Some("https://app.example.com"), 200),
        (Some("https://a.test"), 200),
        (Some("https://example.org"), 403),
        (Some("https://app.example.com.evil.test"), 403),
        (Some("null"), 403),
    ] {
        let headers: Vec<_> = origin.map(|o| ("origin", o)).into_iter().collect();
        let answer = chat_with(&rig, &key.secret, &headers).await;
        assert_eq!(answer.status(), status, "{origin:?}");
        if status == 403 {
            let shown: Value = answer.json().await.unwrap();
            assert_eq!(shown["error"]["code"], "origin_not_allowed");
        }
    }
}

#[tokio::test]
async fn browsers_can_call_and_read_every_answer() {
    let rig = Rig::start().await;
    let key = rig.admin().key(0).await.secret;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let preflight = http.request(Method::OPTIONS, format!("{}{CHAT}", rig.url()));
    let preflight = preflight
        .header("origin", "https://app.test")
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "authorization, x-stainless-os",
        );
    let answer = preflight.send().await.unwrap();
    assert_eq!(answer.status(), 204);
    let headers = answer.headers();
    assert_eq!(headers["access-control-allow-origin"], "*");
    assert_eq!(
        headers["access-control-allow-headers"],
        "authorization, x-stainless-os"
    );
    assert!(
        headers["access-control-allow-methods"]
            .to_str()
            .unwrap()
            .contains("POST")
    );
    let origin = [("origin", "https://app.test")];
    let failing = [("origin", "https://app.test"), ("x-fake", "status=401")];
    for (answer, status) in [
        (chat_with(&rig, &key, &origin).await, 200),
        (chat_with(&rig, "sk-nobody", &origin).await, 401),
        (chat_with(&rig, &key, &failing).await, 502),
    ] {
        assert_eq!(answer.status(), status);
        assert_eq!(
            answer.headers()["access-control-allow-origin"],
            "*",
            "{status}"
        );
        let exposed = answer.headers()["access-control-expose-headers"]
            .to_str()
            .unwrap();
        assert!(exposed.contains("x-request-id") && exposed.contains("retry-after"));
    }
    assert_eq!(
        rig.fake().ledger().await.requests,
        2,
        "preflights go nowhere"
    );
    // Named origins: others get no leave.
    let rig = Rig::builder()
        .set("edge.cors", json!({"origins": ["https://app.test"]}))
        .start()
        .await;
    let key = rig.admin().key(0).await.secret;
    let answer = chat_with(&rig, &key, &origin).await;
    assert_eq!(
        answer.headers()["access-control-allow-origin"],
        "https://app.test"
    );
    let answer = chat_with(&rig, &key, &[("origin", "https://evil.test")]).await;
    assert!(
        answer
            .headers()
            .get("access-control-allow-origin")
            .is_none()
    );
}

#[tokio::test]
async fn a_group_shares_its_quota_pools_and_models() {
    let rig = Rig::start().await;
    let admin = rig.admin();
    let group = json!({"name": "team", "quotas": {"requests": {"limit": 3, "period": "total"}},
                       "allowed_models": ["gpt-4o*", "claude-*"], "allowed_pools": ["openai"]});
    let group = admin.ok(Method::POST, "/admin/groups", Some(&group)).await;
    let id = group["id"].as_str().unwrap();
    let one = key_with(&rig, json!({"group": "team", "request_limit": 2})).await;
    let two = key_with(&rig, json!({"group": id})).await;
    assert_eq!(status(&rig, &one.secret).await, 200);
    assert_eq!(status(&rig, &two.secret).await, 200);
    let answer = chat_with(&rig, &one.secret, &[]).await;
    assert_eq!(answer.status(), 200);
    // The tightest of the key's and the group's quota is shown, as it stood when it was reserved.
    assert_eq!(answer.headers()["x-quota-type"], "requests");
    assert_eq!(answer.headers()["x-quota-remaining"], "0");
    for key in [&one, &two] {
        let answer = chat_with(&rig, &key.secret, &[]).await;
        assert_eq!(answer.status(), 429);
        let shown: Value = answer.json().await.unwrap();
        assert_eq!(shown["error"]["code"], "insufficient_quota");
    }
    let change = json!({"quotas": {"requests": {"limit": 10, "period": "total"}}});
    let path = format!("/admin/groups/{id}");
    admin.ok(Method::PATCH, &path, Some(&change)).await;
    assert_eq!(
        status(&rig, &one.secret).await,
        429,
        "its own quota is still spent"
    );
    assert_eq!(status(&rig, &two.secret).await, 200);
    let denied = rig.post(CHAT, &two.secret, &chat("gpt-5")).await;
    assert_eq!(denied.status(), 403);
    let body = json!({"model": "claude-sonnet-4-5", "max_tokens": 5, "messages": []});
    let other_pool = rig.post("/v1/messages", &two.secret, &body).await;
    assert_eq!(other_pool.status(), 404, "the group may not use that pool");
    let shown = admin.get(&path).await;
    assert_eq!(shown["key_count"], 2);
}

#[tokio::test]
async fn spend_that_shows_no_usage_is_refused_to_keys_with_such_a_quota() {
    let rig = Rig::start().await;
    let free = key_with(&rig, json!({"request_limit": 100})).await;
    let tokens = key_with(&rig, json!({"token_limit": 1000})).await;
    let usd = key_with(&rig, json!({"usd_limit": "5"})).await;
    let background = json!({"model": "gpt-4o", "input": "hi", "background": true});
    for (method, path, body) in [
        (Method::POST, "/v1/batches", json!({"input_file_id": "f"})),
        (Method::POST, "/v1/responses", background),
        (Method::POST, "/v1/videos", json!({"model": "gpt-4o"})),
        (Method::GET, "/v1/realtime?model=gpt-4o", json!({})),
    ] {
        for key in [&tokens, &usd] {
            let request = rig.request(method.clone(), path, &key.secret).json(&body);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 403, "{path}");
            let shown: Value = answer.json().await.unwrap();
            assert_eq!(shown["error"]["code"], "unmetered_endpoint", "{path}");
        }
        let request = rig.request(method, path, &free.secret).json(&body);
        assert_ne!(request.send().await.unwrap().status(), 403, "{path}");
    }
    // A websocket is one whatever its path.
    let upgrade = rig.request(Method::GET, "/ws/any.Service", &tokens.secret);
    let upgrade = upgrade
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(upgrade.send().await.unwrap().status(), 403);
    let lenient = Rig::builder()
        .set("edge.allow_unmetered", json!(true))
        .start()
        .await;
    let tokens = key_with(&lenient, json!({"token_limit": 1000})).await;
    let answer = lenient
        .post("/v1/batches", &tokens.secret, &json!({}))
        .await;
    assert_eq!(
        answer.status(),
        404,
        "the fake's own word: it was forwarded"
    );
    assert_eq!(lenient.fake().ledger().await.requests, 1);
}

#[tokio::test]
async fn no_key_or_two() {
    let rig = Rig::start().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for path in [
        CHAT,
        "/v1/messages",
        "/v1beta/models/gemini-2.5-pro:generateContent",
    ] {
        let url = format!("{}{path}", rig.url());
        let none = http.post(&url).json(&chat("gpt-4o")).send().await.unwrap();
        assert_eq!(none.status(), 401, "{path}");
        let two = http.post(&url).bearer_auth("a").header("x-api-key", "b");
        let two = two.json(&chat("gpt-4o")).send().await.unwrap();
        assert_eq!(two.status(), 400, "{path}");
        let in_query = http.post(format!("{url}?key=b")).bearer_auth("a");
        assert_eq!(
            in_query
                .json(&chat("gpt-4o"))
                .send()
                .await
                .unwrap()
                .status(),
            400
        );
    }
    // The same key in each of its places is one key.
    let key = rig.admin().key(0).await.secret;
    let url = format!("{}{CHAT}?key={key}&a=b", rig.url());
    let same = http
        .post(url)
        .bearer_auth(&key)
        .header("x-goog-api-key", &key);
    let same = same.json(&chat("gpt-4o")).send().await.unwrap();
    assert_eq!(same.status(), 200);
}
