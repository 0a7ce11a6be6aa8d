//! Peers and pools that fail: who is asked next, how often, and what it costs.

use std::time::{Duration, Instant};

use quota_proxy::cli::fake_upstream::Options;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{access_lines, always, answer_of, ask, first_says, in_order, is_in_state};
use crate::support::admin::Key;
use crate::support::rig::{Builder, CHAT, CREDENTIAL, Rig, chat, chat_stream};
use crate::support::upstream::{Manner, Upstream, json_answer, refusing};
use crate::support::wait::{PATIENCE, eventually, that};
use crate::support::wire::Wire;

fn peer(url: &str) -> Value {
    json!({"url": url, "credential": CREDENTIAL})
}

/// Two pools with one peer each; the first has its own names for models, prices and bounds.
fn two_pools(first: &str, second: &str) -> Builder {
    Rig::builder()
        .set("log", json!({"access": "access.jsonl"}))
        .set(
            "pools",
            json!([
                {"name": "dear", "dialect": "openai", "models": ["chat"], "aliases": {"chat": "gpt-4o"},
                 "peers": [peer(first)]},
                {"name": "cheap", "dialect": "openai", "models": ["chat"], "aliases": {"chat": "gpt-4o-mini"},
                 "output_bound": "max_tokens", "peers": [peer(second)]},
            ]),
        )
}

/// What `/admin/pools` says of a peer.
async fn peer_state(rig: &Rig, pool: usize, peer: usize) -> Value {
    let shown = rig.admin().get("/admin/pools").await;
    shown["pools"][pool]["peers"][peer].clone()
}

/// The second pool gets the client's body with its own alias and its own name for the bound; the
/// exchange costs what that pool costs, and the log says what was tried.
#[tokio::test]
async fn another_pool_gets_a_body_of_its_own_and_its_price_holds() {
    let (_closed, refused) = refusing();
    let second = Upstream::start(Manner::Answer(json_answer(
        "200 OK",
        "",
        &answer_of(1_000, 500),
    )))
    .await;
    let rig = two_pools(&refused, &second.url()).start().await;
    // Less than the default bound: it is clamped.
    let key =
        json!({"name": "k", "token_limit": 3_000, "usd_limit": 1, "rate_limit_tier": "unlimited"});
    let key = rig.admin().create(key).await;
    let answer = rig.post(CHAT, &key.secret, &chat("chat")).await;
    assert_eq!(answer.status(), 200);
    answer.bytes().await.unwrap();
    let seen = second.seen();
    assert_eq!(seen.len(), 1);
    let body: Value = serde_json::from_slice(&seen[0].body).unwrap();
    assert_eq!(body["model"], "gpt-4o-mini", "{body}");
    assert!(body["max_tokens"].is_i64(), "{body}");
    assert!(body["max_completion_tokens"].is_null(), "{body}");
    let logs = rig.admin().usage_logs_when(&key, 1).await;
    assert_eq!(logs[0]["pool"], "cheap");
    assert_eq!(logs[0]["model"], "chat");
    // 1,000 × 0.15 + 500 × 0.60 USD a million.
    assert_eq!(logs[0]["total_cost"], 0.00045, "{}", logs[0]);
    let lines = access_lines(&rig, 1).await;
    assert_eq!(lines[0]["attempts"], 2);
    assert_eq!(lines[0]["pool"], "cheap");
    let peer = refused.trim_start_matches("http://");
    let failed = json!([{"pool": "dear", "peer": peer, "reason": "connect"}]);
    assert_eq!(lines[0]["failed_attempts"], failed);
    rig.admin().settled().await;
    let shown = rig.admin().show(&key).await;
    assert_eq!(shown["token_used"], 1_500);
    assert_eq!(shown["token_remaining"], 1_500);
}

#[tokio::test]
async fn a_list_of_pools_rules_and_an_empty_one_ends_it() {
    let (_closed, refused) = refusing();
    for (fallback, status) in [(json!(["cheap"]), 200), (json!([]), 502)] {
        let rig = two_pools(&refused, "{fake0}")
            .fake(Options::default())
            .set("pools.0.fallback", fallback)
            .start()
            .await;
        let key = rig.admin().key(0).await;
        let answer = rig.post(CHAT, &key.secret, &chat("chat")).await;
        assert_eq!(answer.status(), status);
    }
}

/// What may have been billed is not asked for twice, unless the operator says so.
#[tokio::test]
async fn what_may_have_been_billed_is_sent_once() {
    let silent = Upstream::start(Manner::Silent).await;
    for (first, directives, status) in [
        ("{fake1}", "drop", 502),
        ("{fake1}", "status=500", 500),
        ("{fake1}", "status=529", 529),
        (silent.url().as_str(), "", 504),
    ] {
        let rig = in_order(&[first, "{fake0}"])
            .fake(Options::default())
            .fake(always(directives))
            .set(
                "pools.0.timeouts",
                json!({"first_byte": "500ms", "idle": "500ms"}),
            )
            .start()
            .await;
        let key = rig.admin().key(10_000).await;
        assert_eq!(ask(&rig, &key).await, status, "{directives}");
        assert_eq!(rig.fakes()[0].ledger().await.requests, 0, "{directives}");
        rig.admin().settled().await;
        let shown = rig.admin().show(&key).await;
        assert_eq!(shown["token_used"], 0, "{directives}");
        assert_eq!(shown["request_count"], 0, "{directives}");
        assert_eq!(shown["token_remaining"], 10_000, "{directives}");
    }
    assert_eq!(silent.seen().len(), 1);
}

#[tokio::test]
async fn an_operator_may_have_it_sent_again() {
    let silent = Upstream::start(Manner::Silent).await;
    for (first, directives, reason) in [
        ("{fake1}", "status=500", "server_error"),
        ("{fake1}", "status=529", "server_error"),
        (silent.url().as_str(), "", "timeout"),
    ] {
        let rig = two_pools(first, "{fake0}")
            .fake(Options::default())
            .fake(always(directives))
            .set(
                "pools.0.timeouts",
                json!({"first_byte": "500ms", "idle": "500ms"}),
            )
            .set(
                "pools.0.retry",
                json!({"on": ["connect", "timeout", "5xx"]}),
            )
            .start()
            .await;
        let key = rig.admin().key(10_000).await;
        let answer = rig.post(CHAT, &key.secret, &chat_stream("chat")).await;
        assert_eq!(answer.status(), 200, "{directives}");
        let text = answer.text().await.unwrap();
        assert!(text.contains("[DONE]"), "{text}");
        let seen = rig.fakes()[0].last_ended(1).await;
        let lines = access_lines(&rig, 1).await;
        assert_eq!(lines[0]["failed_attempts"][0]["reason"], reason);
        rig.admin().settled().await;
        let shown = rig.admin().show(&key).await;
        let used = seen.input_tokens + seen.output_tokens;
        assert_eq!(shown["token_used"], used, "{directives}");
        assert_eq!(shown["token_remaining"], 10_000 - used, "{directives}");
        assert_eq!(shown["request_count"], 1);
    }
    assert_eq!(silent.seen().len(), 1);
}

/// Once a byte has reached the client there is no other peer.
#[tokio::test]
async fn an_answer_that_broke_off_stays_broken() {
    for wish in ["truncate-after=3", "reset-after=3"] {
        let rig = in_order(&["{fake1}", "{fake0}"])
            .fake(Options::default())
            .fake(always(wish))
            .set(
                "pools.0.retry",
                json!({"on": ["connect", "timeout", "5xx", "429"]}),
            )
            .start()
            .await;
        let key = rig.admin().key(10_000).await;
        let answer = rig.post(CHAT, &key.secret, &chat_stream("gpt-4o")).await;
        assert_eq!(answer.status(), 200);
        assert!(answer.bytes().await.is_err(), "{wish}");
        let logs = rig.admin().usage_logs_when(&key, 1).await;
        assert_eq!(logs[0]["reason"], "upstream_broke", "{wish}");
        assert_eq!(rig.fakes()[0].ledger().await.requests, 0, "{wish}");
        let metrics = rig.admin().metrics().await;
        let broken = format!(
            r#"upstream_attempts_total{{outcome="broken",peer="{}",pool="only"}} 1"#,
            rig.fakes()[1].address
        );
        assert!(metrics.lines().any(|line| line == broken), "{metrics}");
    }
}

#[tokio::test]
async fn a_429_with_retry_after_cools_its_peer_and_the_next_is_asked() {
    let rig = in_order(&["{fake1}", "{fake0}"])
        .fake(Options::default())
        .fake(always("status=429,retry-after=50"))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    for _ in 0..3 {
        assert_eq!(ask(&rig, &key).await, 200);
    }
    assert_eq!(rig.fakes()[1].ledger().await.requests, 1, "it rests");
    assert_eq!(rig.fakes()[0].ledger().await.requests, 3);
    let resting = peer_state(&rig, 0, 0).await;
    assert_eq!(resting["state"], "resting");
    assert!(resting["rests_until"].is_string(), "{resting}");
    // Without it the peer is asked until it has failed too often.
    let rig = in_order(&["{fake1}", "{fake0}"])
        .fake(Options::default())
        .fake(always("status=429"))
        .set("pools.0.cooldown", json!({"failures": 2, "for": "60s"}))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    for _ in 0..4 {
        assert_eq!(ask(&rig, &key).await, 200);
    }
    assert_eq!(rig.fakes()[1].ledger().await.requests, 2);
    assert_eq!(rig.fakes()[0].ledger().await.requests, 4);
}

/// Two peers, of which the first has refused connections, rested, and listens now.
async fn waits_for_a_probe() -> (Rig, Key, TcpListener) {
    let (closed, refused) = refusing();
    let rig = in_order(&[&refused, "{fake0}"])
        .fake(Options::default())
        .set("pools.0.cooldown", json!({"failures": 1, "for": "100ms"}))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    assert_eq!(ask(&rig, &key).await, 200);
    is_in_state(&rig, 0, "doubtful").await;
    let listener = closed.listen(64).unwrap();
    (rig, key, listener)
}

/// A peer that rested gets one exchange as its probe; all others go elsewhere until it has answered.
#[tokio::test]
async fn one_probe_reopens_a_peer() {
    // It listens now, but takes its time.
    let (rig, key, listener) = waits_for_a_probe().await;
    let url = rig.url();
    let secret = key.secret.clone();
    let probe = tokio::spawn(async move {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http.post(format!("{url}{CHAT}")).bearer_auth(secret);
        let answer = request.json(&chat("gpt-4o")).send().await.unwrap();
        answer.status().as_u16()
    });
    let (stream, _) = listener.accept().await.unwrap();
    let mut wire = Wire::over(stream);
    wire.request().await.unwrap();
    for _ in 0..10 {
        assert_eq!(ask(&rig, &key).await, 200);
    }
    assert_eq!(rig.fakes()[0].ledger().await.requests, 11);
    wire.send(json_answer("200 OK", "", &answer_of(1, 1))).await;
    assert_eq!(probe.await.unwrap(), 200);
    is_in_state(&rig, 0, "fit").await;
    // Only the probe came here.
    let second = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await;
    assert!(second.is_err());
    eventually(PATIENCE, || async {
        that(rig.process().output(), |said| {
            said.contains("is in rotation")
        })
    })
    .await;
}

/// A probe whose client leaves has shown nothing: the next exchange is the probe, at once.
#[tokio::test]
async fn a_probe_whose_client_left_is_given_back() {
    let (rig, key, listener) = waits_for_a_probe().await;
    let bearer = format!("Bearer {}", key.secret);
    let body = chat("gpt-4o").to_string();
    for _ in 0..3 {
        let mut client = rig.wire().await;
        let headers = [("authorization", bearer.as_str())];
        client.post(CHAT, &headers, body.as_bytes()).await;
        let (stream, _) = listener.accept().await.unwrap();
        let mut peer = Wire::over(stream);
        peer.request().await.unwrap();
        assert_eq!(peer_state(&rig, 0, 0).await["state"], "resting");
        let left = Instant::now();
        client.close();
        is_in_state(&rig, 0, "doubtful").await;
        assert!(
            left.elapsed() < Duration::from_secs(15),
            "{:?}",
            left.elapsed()
        );
    }
    assert_eq!(rig.fakes()[0].ledger().await.requests, 1);
}

/// A provider that says it has no room left is spared until it has, and the caller is not told.
#[tokio::test]
async fn a_provider_near_its_limit_is_steered_around() {
    for headers in [
        "x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 1m30s\r\n",
        "x-ratelimit-remaining-requests: 9\r\nx-ratelimit-remaining-tokens: 3\r\nx-ratelimit-reset-tokens: 40s\r\n",
    ] {
        let (first, rig) = first_says(headers).await;
        let key = rig.admin().key(100_000).await;
        let answer = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
        assert_eq!(answer.status(), 200);
        assert!(
            !answer
                .headers()
                .contains_key("x-ratelimit-remaining-requests")
        );
        answer.bytes().await.unwrap();
        for _ in 0..3 {
            assert_eq!(ask(&rig, &key).await, 200);
        }
        assert_eq!(first.seen().len(), 1, "{headers}");
        assert_eq!(rig.fakes()[0].ledger().await.requests, 3);
    }
}

/// Two credentials for one host are two peers, which share nothing.
#[tokio::test]
async fn two_credentials_for_one_host_are_two_peers() {
    let rig = Rig::builder()
        .fake(Options::default())
        .set(
            "pools",
            json!([{"name": "only", "dialect": "openai", "models": ["*"], "peers": [
                {"url": "{fake0}", "credential": "sk-first-1111"},
                {"url": "{fake0}/v1", "credential": "sk-second-2222"}]}]),
        )
        .start()
        .await;
    let key = rig.admin().key(0).await;
    for _ in 0..4 {
        assert_eq!(ask(&rig, &key).await, 200);
    }
    let ledger = rig.fake().ledger().await;
    let used = |last4: &str| {
        let with = ledger.records.iter().filter(|record| {
            let credential = record.credential.as_ref();
            credential.is_some_and(|credential| credential.last4 == last4)
        });
        with.count()
    };
    assert_eq!((used("1111"), used("2222")), (2, 2));
    let text = rig.admin().get("/admin/pools").await.to_string();
    assert!(text.contains("#2"), "{text}");
    assert!(!text.contains("sk-"), "{text}");
    let metrics = rig.admin().metrics().await;
    let peers = metrics
        .lines()
        .filter(|line| line.starts_with("upstream_peer_healthy{"));
    assert_eq!(peers.count(), 2, "{metrics}");
}

/// A health check that fails takes its peer out before any request finds it so, and one that passes
/// brings it back, as often as it changes its mind.
#[tokio::test]
async fn flapping_health_checks_take_a_peer_out_and_back() {
    let (first, tell) = Upstream::told(&json_answer("200 OK", "", &answer_of(1, 1))).await;
    let rig = in_order(&[&first.url(), "{fake0}"])
        .fake(Options::default())
        .set(
            "pools.0.health_check",
            json!({"path": "/v1/health", "interval": "100ms"}),
        )
        .start()
        .await;
    let key = rig.admin().key(0).await;
    let chats = || {
        let seen = first.seen();
        seen.iter()
            .filter(|seen| seen.head.starts_with("POST"))
            .count()
    };
    for turn in 1..=2 {
        is_in_state(&rig, 0, "fit").await;
        assert_eq!(ask(&rig, &key).await, 200);
        assert_eq!(chats(), turn);
        tell(&json_answer("503 Service Unavailable", "", &json!({})));
        let out = is_in_state(&rig, 0, "resting").await;
        assert_eq!(out["down"], true);
        assert_eq!(rig.admin().metric("upstream_peer_healthy").await, 1.0);
        assert_eq!(ask(&rig, &key).await, 200);
        assert_eq!(chats(), turn, "it is not asked while its checks fail");
        // Who answers is there, whatever it thinks of the question.
        tell(&json_answer("401 Unauthorized", "", &json!({})));
        is_in_state(&rig, 0, "fit").await;
        tell(&json_answer("200 OK", "", &answer_of(1, 1)));
    }
    let checks = first.seen();
    let check = checks
        .iter()
        .find(|seen| seen.head.starts_with("GET"))
        .unwrap();
    assert!(
        check.head.starts_with("GET /v1/health HTTP/1.1\r\n"),
        "{}",
        check.head
    );
    let bearer = format!("authorization: Bearer {CREDENTIAL}").to_lowercase();
    assert!(
        check.head.to_lowercase().contains(&bearer),
        "{}",
        check.head
    );
    assert!(rig.process().output().contains("its health check fails"));
}
