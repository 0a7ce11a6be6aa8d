//! Times that a pool allows: to the first byte, and between two pieces of an answer.

use std::time::Duration;

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

/// The whole request has its time, whatever phase it is in and however it is carried: with time-outs of
/// their own for head and pieces it is relayed, else Pingora carries it.
fn in_all(first_byte: &str, idle: &str) -> Builder {
    timeouts(first_byte, idle).set("edge.request_timeout", json!("1500ms"))
}

/// A stream whose upstream stops for longer than all may take ends in its dialect's error event.
#[tokio::test]
async fn a_stream_that_hangs_ends_with_the_whole_requests_time() {
    for idle in ["60s", "59s"] {
        let rig = in_all("60s", idle).start().await;
        let key = rig.admin().key(100_000).await;
        let h2 = rig.h2();
        for http2 in [false, true] {
            let body = chat_stream("gpt-4o");
            let url = format!("{}{CHAT}", rig.url());
            let request = match http2 {
                true => h2.post(url).bearer_auth(&key.secret),
                false => rig.request(reqwest::Method::POST, CHAT, &key.secret),
            };
            let request = request.header("x-fake", "tokens=5,interval=60s");
            let answer = request.json(&body).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            let text = answer.text().await.unwrap();
            let last = text.trim_end().rsplit("data: ").next().unwrap();
            let event: serde_json::Value = serde_json::from_str(last).unwrap();
            assert_eq!(event["error"]["code"], "upstream_timeout", "{text}");
        }
        let logs = rig.admin().usage_logs_when(&key, 2).await;
        for event in &logs {
            assert_eq!(event["reason"], "upstream_broke", "{idle}: {event}");
            assert_eq!(event["error_code"], "UPSTREAM_TIMEOUT", "{idle}: {event}");
            assert_eq!(event["client_disconnected"], false, "{idle}: {event}");
            let produced = event["completion_tokens"].as_i64();
            assert!((1..=3).contains(&produced.unwrap_or(0)), "{idle}: {event}");
        }
        rig.fake()
            .ledger_when(|ledger| ledger.client_gone == 2)
            .await;
        rig.end().await;
    }
}

/// Before the head it is a 504, and no other peer is asked: there is no time for it.
#[tokio::test]
async fn a_head_that_does_not_come_within_the_whole_requests_time_is_a_504() {
    let silent =
        crate::support::upstream::Upstream::start(crate::support::upstream::Manner::Silent).await;
    for idle in ["60s", "59s"] {
        let peers = json!([
            {"url": silent.url(), "credential": CREDENTIAL},
            {"url": "{fake0}", "credential": CREDENTIAL},
        ]);
        let rig = in_all("60s", idle)
            .set("pools.2.balance", json!("fallback"))
            .set("pools.2.peers", peers)
            .set("pools.2.retry", json!({"on": ["timeout"]}))
            .start()
            .await;
        let key = rig.admin().key(100_000).await;
        let answer = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
        assert_eq!(answer.status(), 504, "{idle}");
        let body: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(body["error"]["code"], "upstream_timeout");
        assert_eq!(rig.fake().ledger().await.requests, 0, "{idle}");
        let shown = rig.admin().get("/admin/pools").await;
        assert_eq!(shown["pools"][2]["peers"][0]["failures"], 1, "{shown}");
        let logs = rig.admin().usage_logs_when(&key, 1).await;
        assert_eq!(logs[0]["total_tokens"], 0, "{}", logs[0]);
        rig.end().await;
    }
    assert_eq!(silent.seen().len(), 2, "once for each");
}

/// A plain answer cannot be told anything behind its half: it breaks off, at its time.
#[tokio::test]
async fn a_plain_answer_that_hangs_is_broken_off_at_the_whole_requests_time() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{";
    let stuck = crate::support::upstream::Upstream::start(
        crate::support::upstream::Manner::Answer(head.to_owned()),
    )
    .await;
    let rig = in_all("60s", "60s")
        .set(
            "pools.2.peers",
            json!([{"url": stuck.url(), "credential": CREDENTIAL}]),
        )
        .start()
        .await;
    let key = rig.admin().key(100_000).await;
    let answer = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.is_err(), "it must not look whole");
    let logs = rig.admin().usage_logs_when(&key, 1).await;
    assert_eq!(logs[0]["reason"], "upstream_broke", "{}", logs[0]);
    rig.end().await;
}

/// The answer's time begins when an upload has ended, and its pieces have theirs, over either version.
#[tokio::test]
async fn an_upload_may_take_longer_than_its_answer() {
    let silent =
        crate::support::upstream::Upstream::start(crate::support::upstream::Manner::Silent).await;
    for (url, status) in [("{fake0}", 200), (silent.url().as_str(), 504)] {
        let rig = timeouts("600ms", "500ms")
            .set(
                "pools.2.peers",
                json!([{"url": url, "credential": CREDENTIAL}]),
            )
            .start()
            .await;
        let key = rig.admin().key(0).await;
        let h2 = rig.h2();
        for http2 in [false, true] {
            let form = "--X\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n\
                        --X\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
            let pieces = futures_util::stream::unfold(0, move |n| async move {
                tokio::time::sleep(Duration::from_millis(if n == 0 { 0 } else { 150 })).await;
                match n {
                    0 => Some((Ok::<_, String>(form.to_owned()), 1)),
                    1..=15 => Some((Ok("s".repeat(9_000)), n + 1)),
                    16 => Some((Ok("\r\n--X--\r\n".to_owned()), n + 1)),
                    _ => None,
                }
            });
            let path = "/v1/audio/transcriptions";
            let request = match http2 {
                true => h2
                    .post(format!("{}{path}", rig.url()))
                    .bearer_auth(&key.secret),
                false => rig.request(reqwest::Method::POST, path, &key.secret),
            };
            let request = request.header("content-type", "multipart/form-data; boundary=X");
            let request = request.body(reqwest::Body::wrap_stream(pieces));
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), status, "{http2}");
        }
        rig.end().await;
    }
}
