//! What the caller is told of quotas, and what of it is held.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::support::rig::{CHAT, CREDENTIAL, Rig, chat};
use crate::support::upstream::{Manner, Upstream, json_answer};

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
    let key =
        json!({"name": "k", "token_limit": 10_000, "request_limit": 1_000, "rate_limit_tier": "t"});
    let key = rig.admin().create(key).await;
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
    let settled = |shown: &Value| shown["token_used"] == usage;
    rig.admin().show_when(&key, settled).await;
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
