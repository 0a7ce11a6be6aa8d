//! Rests that a provider asks for.

use quota_proxy::cli::fake_upstream::Options;
use quota_proxy::time::UnixMs;
use serde_json::{Value, json};

use super::{access_lines, answer_of, ask, counts, in_order, is_in_state, state};
use crate::support::rig::{CHAT, chat, chat_stream};
use crate::support::upstream::{Manner, Upstream, json_answer};
use crate::support::wait::{PATIENCE, eventually, that};

/// Neither an exchange that was running there nor a health check that passes ends it.
#[tokio::test]
async fn a_rest_that_was_asked_for_lasts_its_time() {
    let rig = in_order(&["{fake1}", "{fake0}"])
        .fake(Options::default())
        .fake(Options::default())
        .set(
            "pools.0.health_check",
            json!({"path": "/v1/models", "interval": "100ms"}),
        )
        .start()
        .await;
    let key = rig.admin().key(0).await;
    let slow = "tokens=100,interval=5ms";
    let running = rig
        .post_fake(CHAT, &key.secret, &chat_stream("gpt-4o"), slow)
        .await;
    assert_eq!(running.status(), 200);
    let busy = "status=429,retry-after=50";
    let refused = rig
        .post_fake(CHAT, &key.secret, &chat("gpt-4o"), busy)
        .await;
    assert_eq!(refused.status(), 429, "both are busy");
    refused.bytes().await.unwrap();
    let resting = is_in_state(&rig, 0, "resting").await;
    running.bytes().await.unwrap();
    let checks = rig.fakes()[1].ledger().await.requests + 3;
    rig.fakes()[1]
        .ledger_when(|ledger| ledger.requests >= checks)
        .await;
    let still = state(&rig, 0).await;
    assert_eq!(still["state"], "resting", "{still}");
    // It is shown by the wall clock, from what is left of it.
    let until =
        |shown: &Value| UnixMs::parse_rfc3339(shown["rests_until"].as_str().unwrap()).unwrap();
    let moved = until(&still).0 - until(&resting).0;
    assert!(moved.abs() < 1_000, "{moved}");
    // It did as it was entitled to: that is no failure.
    assert_eq!(still["failures"], 0);
}

#[tokio::test]
async fn it_is_heard_in_every_form_and_of_every_busy_status() {
    for (status, header) in [
        ("429 Too Many Requests", "retry-after: 50\r\n"),
        ("429 Too Many Requests", "retry-after-ms: 45000\r\n"),
        (
            "429 Too Many Requests",
            "date: Sat, 21 Nov 2026 10:00:00 GMT\r\nretry-after: Sat, 21 Nov 2026 10:00:50 GMT\r\n",
        ),
        ("503 Service Unavailable", "retry-after: 50\r\n"),
        ("529 Overloaded", "retry-after: 50\r\n"),
    ] {
        let (first, tell) = Upstream::told(&json_answer(status, header, &json!({}))).await;
        let rig = in_order(&[&first.url(), "{fake0}"])
            .fake(Options::default())
            .set("pools.0.retry", json!({"on": ["429", "5xx"]}))
            .start()
            .await;
        let key = rig.admin().key(0).await;
        for _ in 0..3 {
            assert_eq!(ask(&rig, &key).await, 200, "{status} {header}");
        }
        assert_eq!(first.seen().len(), 1, "{status} {header}");
        let peer = first.address;
        counts(
            &rig,
            "upstream_rests_total",
            &format!(r#"cause="asked",peer="{peer}",pool="only""#),
            1,
        )
        .await;
        let labels = format!(r#"peer="{peer}",pool="only",reason="resting""#);
        counts(&rig, "upstream_skips_total", &labels, 2).await;
        let lines = access_lines(&rig, 3).await;
        let skipped = json!([{"pool": "only", "peer": peer.to_string(), "reason": "resting"}]);
        assert_eq!(lines[2]["passed_over"], skipped, "{}", lines[2]);
        assert!(
            rig.process()
                .output()
                .contains("ms: its provider asked for a rest")
        );
        drop(tell);
    }
}

/// A rest of no time at all is over at once.
#[tokio::test]
async fn a_short_rest_is_over_by_itself() {
    let busy = json_answer(
        "429 Too Many Requests",
        "retry-after-ms: 50\r\n",
        &json!({}),
    );
    let (first, tell) = Upstream::told(&busy).await;
    let rig = in_order(&[&first.url(), "{fake0}"])
        .fake(Options::default())
        .start()
        .await;
    let key = rig.admin().key(0).await;
    assert_eq!(ask(&rig, &key).await, 200);
    tell(&json_answer("200 OK", "", &answer_of(1, 1)));
    is_in_state(&rig, 0, "fit").await;
    eventually(PATIENCE, || async {
        assert_eq!(ask(&rig, &key).await, 200);
        that(first.seen().len(), |seen| *seen > 1)
    })
    .await;
}

/// Who asks for a rest of no time, or until a moment that is past, has failed like one who asks for none:
/// whether another peer is asked then or the client is told.
#[tokio::test]
async fn a_rest_of_no_time_is_none() {
    let date =
        "date: Sat, 21 Nov 2026 10:00:00 GMT\r\nretry-after: Sat, 21 Nov 2026 09:59:00 GMT\r\n";
    for header in ["retry-after: 0\r\n", "retry-after-ms: 0\r\n", date, ""] {
        for on in [json!(["429"]), json!(["connect"])] {
            let busy = json_answer("429 Too Many Requests", header, &json!({}));
            let first = Upstream::start(Manner::Answer(busy)).await;
            let rig = in_order(&[&first.url(), "{fake0}"])
                .fake(Options::default())
                .set("pools.0.retry", json!({"on": on}))
                .set("pools.0.cooldown", json!({"failures": 2, "for": "60s"}))
                .start()
                .await;
            let key = rig.admin().key(0).await;
            let status = if on == json!(["429"]) { 200 } else { 429 };
            for expected in [status, status, 200] {
                assert_eq!(ask(&rig, &key).await, expected, "{header} {on}");
            }
            assert_eq!(first.seen().len(), 2, "{header} {on}");
            is_in_state(&rig, 0, "resting").await;
            rig.end().await;
        }
    }
}
