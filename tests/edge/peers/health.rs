//! What traffic shows of a peer, and what it does not.

use std::time::Duration;

use quota_proxy::cli::fake_upstream::Options;
use serde_json::json;
use tokio::net::TcpListener;

use super::{access_lines, always, answer_of, ask, counts, in_order, is_in_state, state};
use crate::support::admin::Key;
use crate::support::rig::{CHAT, Rig, chat, chat_stream};
use crate::support::upstream::{Manner, Upstream, json_answer};
use crate::support::wait::{PATIENCE, eventually, that};
use crate::support::wire::Wire;

/// A check asks for a list; what it takes to answer a chat it does not show.
#[tokio::test]
async fn passing_checks_do_not_end_a_rest_after_failures() {
    let busy = json_answer("429 Too Many Requests", "", &json!({}));
    let (first, tell) = Upstream::told(&busy).await;
    let rig = in_order(&[&first.url(), "{fake0}"])
        .fake(Options::default())
        .set("pools.0.cooldown", json!({"failures": 1, "for": "60s"}))
        .set(
            "pools.0.health_check",
            json!({"path": "/v1/models", "interval": "100ms"}),
        )
        .start()
        .await;
    let key = rig.admin().key(0).await;
    assert_eq!(ask(&rig, &key).await, 200);
    let checks = || {
        first
            .seen()
            .iter()
            .filter(|seen| seen.head.starts_with("GET"))
            .count()
    };
    let before = checks();
    eventually(PATIENCE, || async {
        that(checks(), |now| *now > before + 3)
    })
    .await;
    let shown = state(&rig, 0).await;
    assert_eq!(shown["state"], "resting", "{shown}");
    assert_eq!(
        (&shown["down"], &shown["failures"]),
        (&json!(false), &json!(1))
    );
    drop(tell);
}

/// A head is soon sent. What counts is the whole answer.
#[tokio::test]
async fn bodies_that_break_off_are_failures() {
    for wish in ["truncate-after=3", "reset-after=3", "truncate-after=0"] {
        let rig = in_order(&["{fake1}", "{fake0}"])
            .fake(Options::default())
            .fake(always(wish))
            .set("pools.0.cooldown", json!({"failures": 2, "for": "60s"}))
            .start()
            .await;
        let key = rig.admin().key(0).await;
        for turn in 1..=2 {
            let answer = rig.post(CHAT, &key.secret, &chat_stream("gpt-4o")).await;
            assert!(answer.bytes().await.is_err(), "{wish}");
            let failed = |shown: &serde_json::Value| shown["failures"] == turn;
            eventually(PATIENCE, || async { that(state(&rig, 0).await, failed) }).await;
        }
        is_in_state(&rig, 0, "resting").await;
        assert_eq!(ask(&rig, &key).await, 200);
        assert_eq!(rig.fakes()[1].ledger().await.requests, 2, "{wish}");
    }
}

#[tokio::test]
async fn bodies_that_stall_are_failures() {
    let begun = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
    let first = Upstream::start(Manner::Answer(begun.to_owned())).await;
    let rig = in_order(&[&first.url(), "{fake0}"])
        .fake(Options::default())
        .set("pools.0.cooldown", json!({"failures": 1, "for": "60s"}))
        .set("pools.0.timeouts", json!({"idle": "300ms"}))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    let answer = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
    assert!(answer.bytes().await.is_err());
    is_in_state(&rig, 0, "resting").await;
    let labels = format!(r#"outcome="broken",peer="{}",pool="only""#, first.address);
    counts(&rig, "upstream_attempts_total", &labels, 1).await;
    rig.end().await;
}

/// It had begun before the peer failed: that it ends well says nothing of the peer now.
#[tokio::test]
async fn an_answer_of_before_does_not_reopen_a_peer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let rig = in_order(&[&url])
        .set("pools.0.cooldown", json!({"failures": 1, "for": "60s"}))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    let take = async || {
        let (stream, _) = listener.accept().await.unwrap();
        let mut wire = Wire::over(stream);
        wire.request().await.unwrap();
        wire
    };
    let good = async {
        let mut good = take().await;
        let bad = async {
            let status = ask(&rig, &key);
            let (status, ()) = tokio::join!(status, async { drop(take().await) });
            status
        };
        assert_eq!(bad.await, 502);
        is_in_state(&rig, 0, "resting").await;
        good.send(json_answer("200 OK", "", &answer_of(1, 1))).await;
        good
    };
    let (status, _connection) = tokio::join!(ask(&rig, &key), good);
    assert_eq!(status, 200);
    rig.admin().settled().await;
    assert_eq!(state(&rig, 0).await["state"], "resting");
}

/// It fails, rests, is probed and serves, over and over; nobody who asks is told.
#[tokio::test]
async fn a_flapping_peer_is_left_and_taken_back() {
    let good = json_answer("200 OK", "", &answer_of(1, 1));
    let busy = json_answer("429 Too Many Requests", "", &json!({}));
    let (first, tell) = Upstream::told(&good).await;
    let rig = in_order(&[&first.url(), "{fake0}"])
        .fake(Options::default())
        .set("pools.0.cooldown", json!({"failures": 1, "for": "100ms"}))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    for turn in 1..=3 {
        tell(&good);
        assert_eq!(ask(&rig, &key).await, 200);
        is_in_state(&rig, 0, "fit").await;
        tell(&busy);
        assert_eq!(ask(&rig, &key).await, 200);
        // Its rest is over by itself; who asks next is its probe.
        is_in_state(&rig, 0, "doubtful").await;
        assert_eq!(first.seen().len(), 2 * turn);
    }
    assert_eq!(rig.fakes()[0].ledger().await.requests, 3);
}

/// Asks, and leaves so long after the peer has the request.
async fn leaves(rig: &Rig, key: &Key, peer: &Upstream, patience: Duration) {
    let before = peer.seen().len();
    let bearer = format!("Bearer {}", key.secret);
    let headers = [("authorization", bearer.as_str())];
    let mut client = rig.wire().await;
    client
        .post(CHAT, &headers, chat("gpt-4o").to_string().as_bytes())
        .await;
    eventually(PATIENCE, || async {
        that(peer.seen().len(), |now| *now > before)
    })
    .await;
    tokio::time::sleep(patience).await;
    client.close();
    rig.admin().settled().await;
}

/// A peer that hangs is found out also where no client waits for its time-out.
#[tokio::test]
async fn a_peer_that_clients_give_up_on_has_failed() {
    let first = Upstream::start(Manner::Silent).await;
    let rig = in_order(&[&first.url(), "{fake0}"])
        .fake(Options::default())
        .set("pools.0.cooldown", json!({"failures": 2, "for": "60s"}))
        .set(
            "pools.0.timeouts",
            json!({"first_byte": "1s", "idle": "1s"}),
        )
        .start()
        .await;
    let key = rig.admin().key(0).await;
    for _ in 0..2 {
        leaves(&rig, &key, &first, Duration::from_millis(600)).await;
    }
    is_in_state(&rig, 0, "resting").await;
    let labels = format!(
        r#"outcome="client_gone",peer="{}",pool="only""#,
        first.address
    );
    counts(&rig, "upstream_attempts_total", &labels, 2).await;
    let line = &access_lines(&rig, 2).await[1];
    assert_eq!(
        line["failed_attempts"][0]["reason"], "client_gone",
        "{line}"
    );
    assert_eq!(line["client_disconnected"], true, "{line}");
    assert_eq!(ask(&rig, &key).await, 200);
    rig.end().await;
}

/// Who leaves soon has shown nothing of its peer.
#[tokio::test]
async fn a_client_that_leaves_soon_says_nothing_of_its_peer() {
    let first = Upstream::start(Manner::Silent).await;
    let rig = in_order(&[&first.url(), "{fake0}"])
        .fake(Options::default())
        .set("pools.0.cooldown", json!({"failures": 1, "for": "60s"}))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    leaves(&rig, &key, &first, Duration::ZERO).await;
    let line = &access_lines(&rig, 1).await[0];
    assert!(
        line["failed_attempts"].as_array().is_none_or(Vec::is_empty),
        "{line}"
    );
    assert_eq!(state(&rig, 0).await["state"], "fit");
    rig.end().await;
}
