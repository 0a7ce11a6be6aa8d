//! Where a request goes, what of it stays here, and what the caller is told of quotas.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use quota_proxy::cli::fake_upstream::Options;
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

mod support;

use support::admin::Key;
use support::rig::{CREDENTIAL, Rig, chat};
use support::upstream::{Manner, Upstream, json_answer};
use support::wait::{PATIENCE, eventually, that};

const CHAT: &str = "/v1/chat/completions";

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
        assert_eq!(
            shown["error"]["message"].as_str().is_some(),
            true,
            "{shown}"
        );
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

fn number(headers: &HeaderMap, name: &str) -> i64 {
    let value = headers
        .get(name)
        .unwrap_or_else(|| panic!("{name} in {headers:?}"));
    value.to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn quota_headers_tell_the_tightest_quota_and_the_buckets() {
    let tiers =
        json!({"t": {"requests_per_minute": 60, "tokens_per_minute": 6000}, "unlimited": {}});
    let rig = Rig::builder().set("tiers", tiers).start().await;
    let change = json!({"token_limit": 10_000, "request_limit": 1_000, "rate_limit_tier": "t"});
    let key = key_with(&rig, change).await;
    let mut body = chat("gpt-4o");
    body["max_tokens"] = json!(100);
    let first = rig.post(CHAT, &key.secret, &body).await;
    let headers = first.headers().clone();
    let usage = first.json::<Value>().await.unwrap()["usage"]["total_tokens"]
        .as_i64()
        .unwrap();
    assert_eq!(headers["x-quota-type"], "tokens");
    assert_eq!(number(&headers, "x-quota-limit"), 10_000);
    assert_eq!(number(&headers, "x-quota-used"), 0);
    // What runs is held: at least its bound.
    assert!(
        (9_000..=9_900).contains(&number(&headers, "x-quota-remaining")),
        "{headers:?}"
    );
    assert_eq!(number(&headers, "x-ratelimit-limit-requests"), 60);
    assert_eq!(number(&headers, "x-ratelimit-remaining-requests"), 59);
    assert_eq!(number(&headers, "x-ratelimit-limit-tokens"), 6_000);
    assert!((5_000..=5_900).contains(&number(&headers, "x-ratelimit-remaining-tokens")));
    for name in ["x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"] {
        let reset = headers[name].to_str().unwrap();
        assert!(reset.ends_with('s'), "{reset}");
    }
    let policy = headers["ratelimit-policy"].to_str().unwrap();
    assert_eq!(policy, r#""requests";q=60;w=60, "tokens";q=6000;w=60"#);
    assert!(
        headers["ratelimit"]
            .to_str()
            .unwrap()
            .starts_with(r#""requests";r=59;t=1"#)
    );
    // The provider's own figures are not the caller's business.
    assert!(headers.get_all("x-ratelimit-limit-requests").iter().count() == 1);
    let second = rig.post(CHAT, &key.secret, &body).await;
    assert_eq!(number(second.headers(), "x-quota-used"), usage);
    let body = json!({"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": []});
    let third = rig.post("/v1/messages", &key.secret, &body).await;
    let headers = third.headers();
    assert_eq!(number(headers, "anthropic-ratelimit-requests-limit"), 60);
    assert!(number(headers, "anthropic-ratelimit-requests-remaining") < 60);
    assert_eq!(number(headers, "anthropic-ratelimit-tokens-limit"), 6_000);
    assert!(
        headers["anthropic-ratelimit-tokens-reset"]
            .to_str()
            .unwrap()
            .ends_with('Z')
    );
    assert_eq!(headers["request-id"], headers["x-request-id"]);
    assert!(headers.get("x-ratelimit-limit-requests").is_none());
}

/// Figures of our account at the provider do not reach a caller, its request id does.
#[tokio::test]
async fn a_providers_own_account_headers_stay_here() {
    let usage = json!({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2});
    let theirs = format!(
        "x-ratelimit-limit-requests: 777\r\nopenai-organization: org-ours\r\nset-cookie: a=b\r\n\
         access-control-allow-origin: https://evil.test\r\nx-request-id: req_theirs\r\n\
         x-echo: Bearer {CREDENTIAL}\r\nx-kept: yes\r\n"
    );
    let answer = json!({"choices": [], "usage": usage});
    let upstream = Upstream::start(Manner::Answer(json_answer("200 OK", &theirs, &answer))).await;
    let rig = Rig::builder()
        .set(
            "pools.2.peers",
            json!([{"url": upstream.url(), "credential": CREDENTIAL}]),
        )
        .start()
        .await;
    let key = rig.admin().key(0).await.secret;
    let answer = rig.post(CHAT, &key, &chat("gpt-4o")).await;
    let headers = answer.headers();
    for name in [
        "x-ratelimit-limit-requests",
        "openai-organization",
        "set-cookie",
        "x-echo",
        "access-control-allow-origin",
    ] {
        assert!(headers.get(name).is_none(), "{name}: {headers:?}");
    }
    assert_eq!(headers["x-kept"], "yes");
    assert_eq!(headers["x-upstream-request-id"], "req_theirs");
    assert_ne!(headers["x-request-id"], "req_theirs");
}

/// RELIABILITY test 7: the largest declared bound times the choices is held, and nonsense is a 400.
#[tokio::test]
async fn bounds_are_held_as_declared_and_nonsense_is_refused() {
    let rig = Rig::builder()
        .set("quota.admission", json!("strict"))
        .start()
        .await;
    let body = |change: Value| {
        let mut body = chat("gpt-4o");
        body.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        body
    };
    for (change, tokens, fits) in [
        (
            json!({"max_tokens": 1, "max_completion_tokens": 1_000}),
            1_000,
            false,
        ),
        (
            json!({"max_tokens": 1, "max_completion_tokens": 1_000}),
            1_100,
            true,
        ),
        (json!({"max_tokens": 20, "n": 50}), 1_000, false),
        (json!({"max_tokens": 20, "n": 50}), 1_100, true),
        (json!({}), 4_000, false),
        (json!({}), 4_200, true),
    ] {
        let key = rig.admin().key(tokens).await.secret;
        let answer = rig.post(CHAT, &key, &body(change.clone())).await;
        let expected = if fits { 200 } else { 429 };
        assert_eq!(answer.status(), expected, "{change} of {tokens}");
    }
    let key = rig.admin().key(0).await.secret;
    for change in [
        json!({"max_tokens": -1}),
        json!({"max_tokens": "10"}),
        json!({"max_tokens": 1.5}),
        json!({"n": -1}),
        json!({"n": 0}),
        json!({"max_tokens": 1e30}),
        json!({"stream": "yes"}),
    ] {
        let answer = rig.post(CHAT, &key, &body(change.clone())).await;
        assert_eq!(answer.status(), 400, "{change}");
    }
    // Clamped, a tiny quota is used to its end and never bricked.
    let lenient = Rig::start().await;
    let key = lenient.admin().key(40).await.secret;
    assert_eq!(
        lenient.post(CHAT, &key, &chat("gpt-4o")).await.status(),
        200
    );
}
