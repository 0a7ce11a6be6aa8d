//! Times that a pool allows: to the first byte, and between two pieces of an answer.

use quota_proxy::cli::fake_upstream::Options;
use serde_json::json;

use crate::support::rig::{Builder, CHAT, CREDENTIAL, Rig, chat, chat_stream};

fn timeouts(first_byte: &str, idle: &str) -> Builder {
    let timeouts = json!({"first_byte": first_byte, "idle": idle});
    Rig::builder().set("pools.2.timeouts", timeouts)
}

/// The head may take its time, the pieces may not, and the other way round.
#[tokio::test]
async fn each_phase_has_its_own_time() {
    let rig = timeouts("20s", "300ms").start().await;
    let key = rig.admin().key(0).await.secret;
    let slow_head = rig
        .post_fake(CHAT, &key, &chat("gpt-4o"), "latency=1s")
        .await;
    assert_eq!(slow_head.status(), 200);
    let rig = timeouts("300ms", "20s").start().await;
    let key = rig.admin().key(0).await;
    let body = chat_stream("gpt-4o");
    let wish = "tokens=2,interval=1s";
    let slow_pieces = rig.post_fake(CHAT, &key.secret, &body, wish).await;
    assert_eq!(slow_pieces.status(), 200);
    assert!(slow_pieces.text().await.unwrap().contains("[DONE]"));
    rig.admin()
        .show_when(&key, |shown| shown["request_count"] == 1)
        .await;
    rig.end().await;
}

/// A stream that stops is broken off, and charged as one that its upstream broke off.
#[tokio::test]
async fn a_stream_that_stops_is_broken_off() {
    let rig = timeouts("20s", "300ms").start().await;
    let key = rig.admin().key(100_000).await;
    let wish = "tokens=5,interval=60s";
    let answer = rig
        .post_fake(CHAT, &key.secret, &chat_stream("gpt-4o"), wish)
        .await;
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.is_err(), "it must not look whole");
    let logs = rig.admin().usage_logs_when(&key, 1).await;
    assert_eq!(logs[0]["reason"], "upstream_broke", "{}", logs[0]);
    assert_eq!(logs[0]["client_disconnected"], false);
    rig.fake()
        .ledger_when(|ledger| ledger.client_gone == 1)
        .await;
    rig.end().await;
}

/// No first byte in time: 504 and nothing charged, or the next peer where the operator says so.
#[tokio::test]
async fn no_first_byte_in_time_is_a_failed_attempt() {
    let silent =
        crate::support::upstream::Upstream::start(crate::support::upstream::Manner::Silent).await;
    for (on, status, served) in [(json!(["connect"]), 504, 0), (json!(["timeout"]), 200, 1)] {
        let peers = json!([
            {"url": silent.url(), "credential": CREDENTIAL},
            {"url": "{fake0}", "credential": CREDENTIAL},
        ]);
        let rig = timeouts("500ms", "20s")
            .fake(Options::default())
            .set("log", json!({"access": "access.jsonl"}))
            .set("pools.2.balance", json!("fallback"))
            .set("pools.2.peers", peers)
            .set("pools.2.retry", json!({"on": on}))
            .start()
            .await;
        let key = rig.admin().key(100_000).await;
        let answer = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
        assert_eq!(answer.status(), status);
        answer.bytes().await.unwrap();
        rig.admin().settled().await;
        let shown = rig.admin().show(&key).await;
        assert_eq!(shown["request_count"], served, "{shown}");
        assert_eq!(rig.fake().ledger().await.requests, served);
        let shown = rig.admin().get("/admin/pools").await;
        assert_eq!(shown["pools"][2]["peers"][0]["failures"], 1, "{shown}");
        assert_eq!(shown["pools"][2]["peers"][0]["running"], 0, "{shown}");
    }
    assert_eq!(silent.seen().len(), 2, "once for each");
}
