//! Every row of the table of errors, in the shape, words and headers of the dialect that was called.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use quota_proxy::cli::fake_upstream::Options;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::admin::Key;
use crate::support::rig::{CREDENTIAL, Rig, chat};
use crate::support::upstream::{Manner, Upstream, refusing};
use crate::support::wait::{PATIENCE, eventually, that};

/// One path of each dialect with a body that its pool serves.
const OPENAI: &str = "/v1/chat/completions";
const ANTHROPIC: &str = "/v1/messages";
const GEMINI: &str = "/v1beta/models/gemini-2.5-pro:generateContent";
const DIALECTS: [&str; 3] = [OPENAI, ANTHROPIC, GEMINI];

fn body_of(path: &str) -> Value {
    match path {
        OPENAI => chat("gpt-4o"),
        ANTHROPIC => json!({"model": "claude-sonnet-4-5", "max_tokens": 50,
                            "messages": [{"role": "user", "content": "hello"}]}),
        _ => json!({"contents": [{"parts": [{"text": "hello"}]}]}),
    }
}

/// What a cause must look like.
#[derive(Clone, Copy, Debug)]
struct Row {
    status: u16,
    openai: (&'static str, Option<&'static str>),
    anthropic: &'static str,
    gemini: &'static str,
    chinese: &'static str,
}

const fn row(
    status: u16,
    openai: (&'static str, Option<&'static str>),
    anthropic: &'static str,
    gemini: &'static str,
    chinese: &'static str,
) -> Row {
    Row {
        status,
        openai,
        anthropic,
        gemini,
        chinese,
    }
}

const BAD: &str = "invalid_request_error";
const DENIED: &str = "permission_error";
const AUTH: &str = "authentication_error";

/// Sends to one dialect, also with a preference for Chinese, and compares with the row. Answers the
/// English one's headers and body.
async fn check(
    rig: &Rig,
    key: &str,
    path: &str,
    body: &Value,
    row: Row,
) -> (reqwest::header::HeaderMap, Value) {
    let mut first = None;
    for language in ["en-US,en;q=0.9", "zh-CN,zh;q=0.9,en;q=0.5"] {
        let request = rig.request(Method::POST, path, key).json(body);
        let answer = request.header("accept-language", language).send().await;
        let answer = answer.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let shown: Value = answer.json().await.unwrap();
        let what = format!("{path} {row:?}: {shown}");
        assert_eq!(status, row.status, "{what}");
        assert_eq!(headers["content-type"], "application/json");
        let error = &shown["error"];
        let message = error["message"].as_str().unwrap();
        if language.starts_with("zh") {
            assert!(message.contains(row.chinese), "{what}");
        } else {
            assert!(message.is_ascii() && !message.is_empty(), "{what}");
        }
        let id = headers["x-request-id"].to_str().unwrap();
        match path {
            OPENAI => {
                assert_eq!(error["type"], row.openai.0, "{what}");
                assert_eq!(error["code"], json!(row.openai.1), "{what}");
                assert!(error.get("param").is_some(), "{what}");
            }
            ANTHROPIC => {
                assert_eq!(shown["type"], "error", "{what}");
                assert_eq!(error["type"], row.anthropic, "{what}");
                assert_eq!(shown["request_id"], id, "{what}");
                assert_eq!(headers["request-id"], id, "{what}");
            }
            _ => {
                assert_eq!(error["code"], row.status, "{what}");
                assert_eq!(error["status"], row.gemini, "{what}");
            }
        }
        first.get_or_insert((headers, shown));
    }
    first.unwrap()
}

async fn check_all(rig: &Rig, key: &str, row: Row) {
    for path in DIALECTS {
        check(rig, key, path, &body_of(path), row).await;
    }
}

async fn key_with(rig: &Rig, change: Value) -> Key {
    let mut body = json!({"name": "k", "token_limit": 0, "rate_limit_tier": "unlimited"});
    let fields = change.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    rig.admin().create(body).await
}

#[tokio::test]
async fn keys_that_may_not() {
    let rig = Rig::start().await;
    let admin = rig.admin();
    let code = |code| (BAD, Some(code));
    let denied = |code| (DENIED, Some(code));
    let unknown = row(
        401,
        code("invalid_api_key"),
        AUTH,
        "UNAUTHENTICATED",
        "密钥不正确",
    );
    check_all(&rig, "sk-proxy-nobody", unknown).await;
    let deleted = admin.key(0).await;
    admin.delete(&deleted, false).await;
    check_all(&rig, &deleted.secret, unknown).await;
    let gone = admin.key(0).await;
    admin.delete(&gone, true).await;
    check_all(&rig, &gone.secret, unknown).await;
    let disabled = admin.key(0).await;
    admin.act(&disabled, "disable").await;
    let row_disabled = row(
        403,
        denied("key_disabled"),
        DENIED,
        "PERMISSION_DENIED",
        "禁用",
    );
    check_all(&rig, &disabled.secret, row_disabled).await;
    let ip = key_with(&rig, json!({"allowed_ips": ["10.0.0.0/8"]})).await;
    let row_ip = row(
        403,
        denied("ip_not_allowed"),
        DENIED,
        "PERMISSION_DENIED",
        "地址",
    );
    check_all(&rig, &ip.secret, row_ip).await;
    let ip = key_with(&rig, json!({"denied_ips": ["127.0.0.0/8"]})).await;
    check_all(&rig, &ip.secret, row_ip).await;
    let model = key_with(&rig, json!({"allowed_models": ["other-*"]})).await;
    let row_model = row(
        403,
        denied("model_not_allowed"),
        DENIED,
        "PERMISSION_DENIED",
        "模型",
    );
    check_all(&rig, &model.secret, row_model).await;
    assert_eq!(rig.fake().ledger().await.requests, 0);
    // A refused request moves the error count of a known key, and nothing else.
    let shown = eventually(PATIENCE, || async {
        that(admin.show(&model).await, |shown| shown["error_count"] == 6)
    })
    .await;
    assert_eq!(shown["request_count"], 0);
}

#[tokio::test]
async fn an_expired_key() {
    let rig = Rig::start().await;
    let key = rig.admin().key(0).await;
    let soon = quota_proxy::time::UnixMs::now().plus_ms(1_000).to_rfc3339();
    rig.admin().patch(&key, json!({"expires_at": soon})).await;
    eventually(PATIENCE, || async {
        let answer = rig.post(OPENAI, &key.secret, &chat("gpt-4o")).await;
        that(answer.status().as_u16(), |&status| status == 401)
    })
    .await;
    let expired = row(
        401,
        (BAD, Some("key_expired")),
        AUTH,
        "UNAUTHENTICATED",
        "已过期",
    );
    check_all(&rig, &key.secret, expired).await;
}

#[tokio::test]
async fn quotas_and_limits() {
    let tiers = json!({"slow": {"requests_per_minute": 2}, "one": {"concurrency": 1},
                       "unlimited": {}, "basic": {"requests_per_minute": 100}});
    let rig = Rig::builder().set("tiers", tiers).start().await;
    let quota = ("insufficient_quota", Some("insufficient_quota"));
    let used_up = row(
        429,
        quota,
        "rate_limit_error",
        "RESOURCE_EXHAUSTED",
        "额度不足",
    );
    for limits in [
        json!({"request_limit": 1}),
        json!({"token_limit": 1}),
        json!({"usd_limit": "0.000000001"}),
    ] {
        let key = key_with(&rig, limits.clone()).await;
        if limits.get("request_limit").is_some() {
            let first = rig.post(OPENAI, &key.secret, &chat("gpt-4o")).await;
            assert_eq!(first.status(), 200);
            let settled = |shown: &Value| shown["request_count"] == 1;
            rig.admin().show_when(&key, settled).await;
        }
        for path in DIALECTS {
            let (headers, shown) = check(&rig, &key.secret, path, &body_of(path), used_up).await;
            assert_eq!(headers["x-should-retry"], "false", "{limits} {path}");
            assert!(headers.get("retry-after").is_none(), "{limits} {path}");
            let message = shown["error"]["message"].as_str().unwrap();
            assert!(message.contains("API_KEY_QUOTA_EXHAUSTED"), "{message}");
        }
    }
    let key = key_with(&rig, json!({"rate_limit_tier": "slow"})).await;
    for _ in 0..2 {
        assert_eq!(
            rig.post(OPENAI, &key.secret, &chat("gpt-4o"))
                .await
                .status(),
            200
        );
    }
    let limited = ("rate_limit_error", Some("rate_limit_exceeded"));
    let limited = row(
        429,
        limited,
        "rate_limit_error",
        "RESOURCE_EXHAUSTED",
        "速率限制",
    );
    for path in DIALECTS {
        let (headers, _) = check(&rig, &key.secret, path, &body_of(path), limited).await;
        let number = |name: &str| headers[name].to_str().unwrap().parse::<u64>().unwrap();
        assert!((1..=30).contains(&number("retry-after")), "{headers:?}");
        assert!(
            (1..=30_000).contains(&number("retry-after-ms")),
            "{headers:?}"
        );
        assert!(headers.get("x-should-retry").is_none());
    }
    // One at a time: while a slow answer runs, the second is refused, and told to come back.
    let key = key_with(&rig, json!({"rate_limit_tier": "one"})).await;
    let slow = rig
        .request(Method::POST, OPENAI, &key.secret)
        .json(&chat("gpt-4o"));
    let slow = tokio::spawn(slow.header("x-fake", "latency=2s").send());
    rig.fake().ledger_when(|ledger| ledger.requests == 4).await;
    let (headers, _) = check(&rig, &key.secret, OPENAI, &chat("gpt-4o"), limited).await;
    assert!(headers.contains_key("retry-after-ms"), "{headers:?}");
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn bodies_paths_and_models_that_are_wrong() {
    let rig = Rig::builder()
        .set("edge.max_request_body", json!("1MiB"))
        .start()
        .await;
    let key = rig.admin().key(0).await.secret;
    let bad = row(400, (BAD, None), BAD, "INVALID_ARGUMENT", "请求无效");
    check(&rig, &key, OPENAI, &json!({"messages": []}), bad).await;
    check(
        &rig,
        &key,
        OPENAI,
        &json!({"model": 7, "messages": []}),
        bad,
    )
    .await;
    check(&rig, &key, OPENAI, &json!([1]), bad).await;
    check(&rig, &key, ANTHROPIC, &json!({"messages": []}), bad).await;
    check(&rig, &key, GEMINI, &json!("text"), bad).await;
    let none = row(
        404,
        (BAD, Some("model_not_found")),
        "not_found_error",
        "NOT_FOUND",
        "模型",
    );
    let (_, shown) = check(&rig, &key, OPENAI, &chat("llama-3"), none).await;
    assert_eq!(shown["error"]["param"], "model");
    check(
        &rig,
        &key,
        ANTHROPIC,
        &json!({"model": "x", "messages": []}),
        none,
    )
    .await;
    // A model that another dialect serves: the answer names a path that would do.
    for (path, model, way) in [
        (OPENAI, "claude-sonnet-4-5", "/v1/messages"),
        (ANTHROPIC, "gpt-4o", "/v1/chat/completions"),
        (OPENAI, "gemini-2.5-pro", ":generateContent"),
    ] {
        let body = json!({"model": model, "max_tokens": 5, "messages": []});
        let (_, shown) = check(&rig, &key, path, &body, none).await;
        let message = shown["error"]["message"].as_str().unwrap();
        assert!(message.contains(way), "{message}");
    }
    let large = row(
        413,
        (BAD, None),
        "request_too_large",
        "INVALID_ARGUMENT",
        "请求体超过",
    );
    for path in DIALECTS {
        let mut body = body_of(path);
        body["padding"] = json!("x".repeat(1 << 20));
        check(&rig, &key, path, &body, large).await;
    }
    assert_eq!(rig.fake().ledger().await.requests, 0);
}

#[tokio::test]
async fn upstreams_that_fail() {
    let (_closed, url) = refusing();
    let silent = Upstream::start(Manner::Silent).await;
    let peer = |url: &str| json!([{"url": url, "credential": CREDENTIAL}]);
    let timeouts = json!({"connect": "2s", "first_byte": "300ms", "idle": "300ms"});
    let rig = Rig::builder()
        .fake(Options::default())
        .set("pools.0.peers", peer(&url))
        .set("pools.1.peers", peer(&url))
        .set("pools.2.peers", peer(&url))
        .start()
        .await;
    let key = rig.admin().key(1_000_000).await;
    let code = |code| ("api_error", Some(code));
    let down = row(
        502,
        code("upstream_unavailable"),
        "api_error",
        "INTERNAL",
        "上游不可用",
    );
    check_all(&rig, &key.secret, down).await;
    let mut config = rig.config();
    for pool in 0..3 {
        config["pools"][pool]["peers"] = peer(&silent.url());
        config["pools"][pool]["timeouts"] = timeouts.clone();
    }
    rig.write_config(&config);
    rig.process().signal("HUP");
    let too_slow = code("upstream_timeout");
    let late = row(
        504,
        too_slow,
        "api_error",
        "DEADLINE_EXCEEDED",
        "未在规定时间",
    );
    eventually(PATIENCE, || async {
        let answer = rig.post(OPENAI, &key.secret, &chat("gpt-4o")).await;
        that(answer.status().as_u16(), |&status| status == 504)
    })
    .await;
    check_all(&rig, &key.secret, late).await;
    // Everything was given back.
    let whole = |shown: &Value| {
        shown["token_remaining"] == 1_000_000
            && shown["token_used"] == 0
            && shown["request_count"] == 0
    };
    rig.admin().show_when(&key, whole).await;
}
