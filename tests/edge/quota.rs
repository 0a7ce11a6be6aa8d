//! Quotas at the edge: holds and bounds as each admission rule sets them, the crowd at a nearly empty
//! key, and requests that are refused (RELIABILITY 2, 6).
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::admin::Key;
use crate::support::rig::{CHAT, Rig, chat, chat_stream};
use crate::support::wait::{PATIENCE, eventually, that};

/// The bodies as the upstream got them: only their sizes are in its ledger, so it echoes.
async fn bound_sent(rig: &Rig, key: &Key, body: &Value) -> u64 {
    let answer = rig
        .post_fake(CHAT, &key.secret, body, "tokens=1,echo")
        .await;
    assert_eq!(answer.status(), 200);
    let echoed: Value = answer.json().await.unwrap();
    echoed["body_bytes"].as_u64().unwrap()
}

/// Holds of a request that runs as long as the closure looks at it.
async fn held_by(rig: &Rig, key: &Key, body: &Value) -> i64 {
    let before = rig.fake().ledger().await.requests;
    let request = rig.request(reqwest::Method::POST, CHAT, &key.secret);
    let request = request.header("x-fake", "latency=60s").json(body);
    let running = tokio::spawn(request.send());
    rig.fake().ledger_when(|l| l.requests == before + 1).await;
    let held = rig.admin().held_tokens().await;
    running.abort();
    assert!(running.await.is_err());
    rig.admin().settled().await;
    held as i64
}

#[tokio::test]
async fn clamp_holds_and_sends_what_is_left() {
    let rig = Rig::start().await;
    let key = rig.admin().key(500).await;
    let mut body = chat("gpt-4o");
    body["max_tokens"] = json!(4_000);
    assert_eq!(held_by(&rig, &key, &body).await, 500);
    // The abandoned request paid for its input: 4000 became what is left, a digit less.
    let used = rig.admin().show(&key).await["token_used"].as_i64().unwrap();
    assert!(used > 0 && used < 30, "{used}");
    let size = body.to_string().len() as u64;
    assert_eq!(bound_sent(&rig, &key, &body).await, size - 1);
    // Where the client set none, one is put in.
    let free = chat("gpt-4o");
    let with = bound_sent(&rig, &key, &free).await;
    assert_eq!(
        with,
        free.to_string().len() as u64 + r#""max_completion_tokens":450,"#.len() as u64
    );
    // The upstream obeys, and the key ends exactly full.
    let answer = rig.post_fake(CHAT, &key.secret, &body, "tokens=4000").await;
    assert_eq!(answer.status(), 200);
    answer.bytes().await.unwrap();
    rig.admin().settled().await;
    let used = rig.admin().show(&key).await["token_used"].as_i64().unwrap();
    assert!(used <= 500 && used > 480, "{used}");
    rig.end().await;
}

#[tokio::test]
async fn strict_refuses_what_does_not_fit_whole() {
    let rig = Rig::builder()
        .set("quota.admission", json!("strict"))
        .start()
        .await;
    let key = rig.admin().key(500).await;
    let mut body = chat("gpt-4o");
    body["max_tokens"] = json!(4_000);
    let refused = rig.post(CHAT, &key.secret, &body).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let refused: Value = refused.json().await.unwrap();
    assert_eq!(refused["error"]["code"], "insufficient_quota", "{refused}");
    body["max_tokens"] = json!(400);
    let size = body.to_string().len() as u64;
    assert_eq!(bound_sent(&rig, &key, &body).await, size);
    body["n"] = json!(2);
    assert_eq!(rig.post(CHAT, &key.secret, &body).await.status(), 429);
    assert_eq!(rig.fake().ledger().await.requests, 1);
    rig.end().await;
}

#[tokio::test]
async fn open_admits_while_anything_is_left_and_books_the_debt() {
    let rig = Rig::builder()
        .set("quota.admission", json!("open"))
        .start()
        .await;
    let key = rig.admin().key(100).await;
    let mut body = chat("gpt-4o");
    body["max_tokens"] = json!(4_000);
    let size = body.to_string().len() as u64;
    assert_eq!(bound_sent(&rig, &key, &body).await, size);
    let answer = rig.post_fake(CHAT, &key.secret, &body, "tokens=1000").await;
    assert_eq!(answer.status(), 200);
    answer.bytes().await.unwrap();
    rig.admin().settled().await;
    let used = rig.admin().show(&key).await["token_used"].as_i64().unwrap();
    assert!(used >= 1_000, "{used}");
    assert_eq!(rig.post(CHAT, &key.secret, &body).await.status(), 429);
    let debt = rig.admin().metric("quota_debt_tokens_total").await;
    assert_eq!(debt, (used - 100) as f64);
    rig.end().await;
}

#[tokio::test]
async fn of_a_crowd_exactly_as_many_pass_as_the_key_bears() {
    let rig = Arc::new(Rig::start().await);
    let quota = json!({"name": "crowd", "token_limit": 0, "request_limit": 37,
                       "rate_limit_tier": "unlimited"});
    let key = rig.admin().create(quota).await;
    let tokens = rig.admin().key(3_000).await;
    let mut crowd = tokio::task::JoinSet::new();
    for n in 0..500 {
        let (rig, key, tokens) = (Arc::clone(&rig), key.secret.clone(), tokens.secret.clone());
        crowd.spawn(async move {
            let body = if n % 2 == 0 {
                chat("gpt-4o")
            } else {
                chat_stream("gpt-4o")
            };
            let first = rig
                .post_fake(CHAT, &key, &body, "latency=20ms")
                .await
                .status();
            let mut bounded = chat("gpt-4o");
            bounded["max_tokens"] = json!(50);
            let second = rig
                .post_fake(CHAT, &tokens, &bounded, "tokens=50")
                .await
                .status();
            (first, second)
        });
    }
    let statuses = crowd.join_all().await;
    let passed = statuses.iter().filter(|(first, _)| *first == 200).count();
    assert_eq!(passed, 37);
    assert!(
        statuses
            .iter()
            .all(|(a, b)| [200, 429].contains(&a.as_u16()) && [200, 429].contains(&b.as_u16()))
    );
    rig.admin().settled().await;
    let shown = rig.admin().show(&key).await;
    assert_eq!(
        (&shown["request_used"], &shown["request_count"]),
        (&json!(37), &json!(37))
    );
    assert_eq!(shown["error_count"], 500 - 37);
    let used = rig.admin().show(&tokens).await["token_used"]
        .as_i64()
        .unwrap();
    assert!(used > 2_800 && used <= 3_000, "{used}");
    Arc::try_unwrap(rig).unwrap().end().await;
}

#[tokio::test]
async fn ten_thousand_refusals_move_error_counts_only() {
    let rig = Arc::new(Rig::start().await);
    let key = rig.admin().key(100).await;
    let admitted = rig
        .post_fake(CHAT, &key.secret, &chat("gpt-4o"), "tokens=97")
        .await;
    assert_eq!(admitted.status(), 200);
    admitted.bytes().await.unwrap();
    rig.admin().settled().await;
    let before = rig.admin().show(&key).await;
    let each = if std::env::var_os("QUOTA_PROXY_SOAK").is_some() {
        5_000
    } else {
        1_250
    };
    let mut connections = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (rig, key) = (Arc::clone(&rig), key.clone());
        connections.spawn(async move {
            let mut wire = rig.wire().await;
            let bearer = format!("Bearer {}", key.secret);
            let body = chat("gpt-4o").to_string();
            for _ in 0..each {
                wire.post(CHAT, &[("authorization", &bearer)], body.as_bytes())
                    .await;
                let refused = wire.answer().await;
                assert_eq!(refused.status, 429, "{}", refused.text());
            }
        });
    }
    connections.join_all().await;
    let counted = before["error_count"].as_i64().unwrap() + 8 * each;
    let after = eventually(PATIENCE, || async {
        that(rig.admin().show(&key).await, |now| {
            now["error_count"] == counted
        })
    });
    let after = after.await;
    for name in [
        "token_used",
        "token_remaining",
        "request_count",
        "request_used",
        "usd_used",
    ] {
        assert_eq!(after[name], before[name], "{name}");
    }
    assert_eq!(rig.fake().ledger().await.requests, 1);
    assert_eq!(rig.admin().held_tokens().await, 0.0);
    Arc::try_unwrap(rig).unwrap().end().await;
}
