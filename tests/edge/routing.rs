//! Where a request goes, and what of it stays here.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use quota_proxy::cli::fake_upstream::Options;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::admin::Key;
use crate::support::rig::{CHAT, CREDENTIAL, Rig, chat};
use crate::support::wait::{PATIENCE, eventually, that};

async fn key_with(rig: &Rig, change: Value) -> Key {
    let mut body = json!({"name": "k", "token_limit": 0, "rate_limit_tier": "unlimited"});
    let fields = change.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    rig.admin().create(body).await
}

/// Two fakes: the first serves `gpt-*`, the second everything else of OpenAI's and Anthropic's.
async fn two_providers() -> Rig {
    let pool = |name: &str, dialect: &str, models: Value, fake: &str| {
        json!({"name": name, "dialect": dialect, "models": models,
               "peers": [{"url": fake, "credential": CREDENTIAL}]})
    };
    Rig::builder()
        .fake(Options::default())
        .fake(Options::default())
        .set(
            "pools",
            json!([
                pool("gpt", "openai", json!(["gpt-4o", "gpt-*-mini"]), "{fake0}"),
                pool("rest", "openai", json!(["*"]), "{fake1}"),
                pool("claude", "anthropic", json!(["claude-*"]), "{fake1}"),
            ]),
        )
        .set("pools.1.paths", json!(["/v1/files*"]))
        .start()
        .await
}

#[tokio::test]
async fn the_model_picks_the_pool_and_the_path_where_there_is_none() {
    let rig = two_providers().await;
    let key = rig.admin().key(0).await.secret;
    for (model, fake) in [
        ("gpt-4o", 0),
        ("gpt-4o-mini", 0),
        ("gpt-4o-2024", 1),
        ("llama", 1),
    ] {
        for fake in rig.fakes() {
            fake.forget().await;
        }
        assert_eq!(
            rig.post(CHAT, &key, &chat(model)).await.status(),
            200,
            "{model}"
        );
        assert_eq!(rig.fakes()[fake].ledger().await.requests, 1, "{model}");
        assert_eq!(rig.fakes()[1 - fake].ledger().await.requests, 0, "{model}");
    }
    rig.fakes()[0].forget().await;
    let files = rig
        .request(Method::GET, "/v1/files?limit=2", &key)
        .send()
        .await;
    assert_eq!(files.unwrap().status(), 404, "the fake's own 404");
    assert_eq!(
        rig.fakes()[0].ledger().await.requests,
        0,
        "by the glob of the second pool"
    );
    let other = rig
        .request(Method::DELETE, "/v1/anything/x", &key)
        .send()
        .await;
    assert_eq!(other.unwrap().status(), 404);
    let seen = rig.fakes()[0].last_ended(1).await;
    assert_eq!(
        (seen.method.as_str(), seen.path.as_str()),
        ("DELETE", "/v1/anything/x")
    );
}

#[tokio::test]
async fn models_are_listed_as_the_key_may_use_them() {
    let rig = two_providers().await;
    let list = async |key: &Key, path: &str, anthropic: bool| -> (u16, Value) {
        let mut request = rig.request(Method::GET, path, &key.secret);
        if anthropic {
            request = request.header("anthropic-version", "2023-06-01");
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    };
    let ids = |list: &Value| -> Vec<String> {
        let data = list["data"].as_array().unwrap().iter();
        data.map(|m| m["id"].as_str().unwrap().to_owned()).collect()
    };
    let all = rig.admin().key(0).await;
    let (_, found) = list(&all, "/v1/models", false).await;
    assert_eq!(found["object"], "list");
    assert_eq!(
        ids(&found),
        ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small"]
    );
    let (_, found) = list(&all, "/v1/models", true).await;
    assert_eq!(ids(&found), ["claude-haiku-4-5", "claude-sonnet-4-5"]);
    let some = key_with(&rig, json!({"allowed_models": ["gpt-4o"]})).await;
    let (_, found) = list(&some, "/v1/models", false).await;
    assert_eq!(ids(&found), ["gpt-4o"]);
    let (status, one) = list(&some, "/v1/models/gpt-4o", false).await;
    assert_eq!((status, &one["id"]), (200, &json!("gpt-4o")));
    let (status, none) = list(&some, "/v1/models/gpt-4o-mini", false).await;
    assert_eq!(
        (status, &none["error"]["code"]),
        (404, &json!("model_not_found"))
    );
    let (status, one) = list(&all, "/v1/models/claude-haiku-4-5", true).await;
    assert_eq!((status, &one["type"]), (200, &json!("model")));
    // The upstreams were asked once for each pool with a glob, not once for each question.
    let asked: u64 =
        rig.fakes()[0].ledger().await.requests + rig.fakes()[1].ledger().await.requests;
    assert_eq!(asked, 3);
    let shown = rig.admin().show(&all).await;
    assert_eq!(shown["request_count"], 0, "lists cost nothing");
}

#[tokio::test]
async fn our_own_paths_are_never_forwarded() {
    let rig = Rig::start().await;
    let key = rig.admin().key(0).await.secret;
    for path in [
        "/admin",
        "/admin/api-keys",
        "/admin/login",
        "/metrics",
        "/openapi.json",
        "/api/x",
        "/api/auth/login",
        "/usage/x",
        "/admin/api-keys?x=1",
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let answer = rig
                .request(method.clone(), path, &key)
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status(), 404, "{method} {path}");
        }
    }
    let host = rig.edge();
    let mut wire = rig.wire().await;
    for target in [
        "/admin/../admin/api-keys",
        "/v1/../admin",
        "/%2e%2e/admin",
        "/v1/./models",
    ] {
        wire = rig.wire().await;
        let head =
            format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n\r\n");
        wire.send(head).await;
        assert_eq!(wire.answer().await.status, 400, "{target}");
    }
    drop(wire);
    // An absolute target is read by its path (RFC 9112 section 3.2.2).
    let mut wire = rig.wire().await;
    let head = format!(
        "GET http://{host}/admin/api-keys HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n\r\n"
    );
    wire.send(head).await;
    assert_eq!(wire.answer().await.status, 404);
    for path in ["/", "/health", "/healthz"] {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = http
            .get(format!("{}{path}", rig.url()))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let answer = http
            .head(format!("{}{path}", rig.url()))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
    assert_eq!(rig.fake().ledger().await.requests, 0);
}

#[tokio::test]
async fn an_upstreams_errors_pass_and_everything_is_given_back() {
    let rig = Rig::start().await;
    let key = rig.admin().key(100_000).await;
    for (wish, status) in [
        ("status=500", 500),
        ("status=503", 503),
        ("status=400", 400),
        ("status=404", 404),
        ("status=429,retry-after=2", 429),
        ("status=529", 529),
    ] {
        let answer = rig
            .post_fake(CHAT, &key.secret, &chat("gpt-4o"), wish)
            .await;
        assert_eq!(answer.status().as_u16(), status);
        assert!(answer.headers().contains_key("x-request-id"));
        if status == 429 {
            assert_eq!(answer.headers()["retry-after"], "2");
        }
        let shown: Value = answer.json().await.unwrap();
        assert!(shown["error"]["message"].is_string(), "{shown}");
    }
    for (wish, status) in [
        ("status=401", 502),
        ("status=403", 502),
        ("status=402", 502),
        ("status=429,code=insufficient_quota", 502),
        ("drop", 502),
    ] {
        let answer = rig
            .post_fake(CHAT, &key.secret, &chat("gpt-4o"), wish)
            .await;
        assert_eq!(answer.status().as_u16(), status, "{wish}");
        let shown: Value = answer.json().await.unwrap();
        assert_eq!(
            shown["error"]["code"], "upstream_unavailable",
            "{wish}: {shown}"
        );
        assert_eq!(
            shown["error"]["message"], "The upstream is unavailable.",
            "{wish}"
        );
    }
    let shown = eventually(PATIENCE, || async {
        that(rig.admin().show(&key).await, |shown| {
            shown["error_count"] == 11
        })
    })
    .await;
    assert_eq!(shown["request_count"], 0, "{shown}");
    assert_eq!(shown["token_used"], 0);
    assert_eq!(shown["token_remaining"], 100_000);
}
