//! A second attempt gets the same body as the first, in every framing.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use bytes::Bytes;
use futures_util::stream;
use quota_proxy::cli::fake_upstream::Options;
use quota_proxy::cli::fake_upstream::control::Control;
use serde_json::{Value, json};

use crate::support::admin::Key;
use crate::support::rig::{Builder, CHAT, CREDENTIAL, Rig, chat};
use crate::support::upstream::{Manner, Upstream, json_answer, refusing, sha256};

/// Below and above Pingora's replay buffer, and far above it.
const SIZES: [usize; 4] = [1_000, 65_537, 300_000, 3_000_000];

/// A chat request of about `size` bytes, its model at the end.
fn body_of(size: usize) -> Vec<u8> {
    let text = "0123456789abcdef".repeat(size / 16);
    format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}],"model":"gpt-4o"}}"#)
        .into_bytes()
}

/// Sends the body over HTTP/1.1 with a length, chunked, and over HTTP/2 with and without a length.
async fn send(rig: &Rig, key: &Key, body: &[u8], way: usize, wish: &str) -> (u16, Value) {
    let url = format!("{}{CHAT}", rig.url());
    let request = match way {
        0 | 1 => rig.request(reqwest::Method::POST, CHAT, &key.secret),
        _ => rig.h2().post(url).bearer_auth(&key.secret),
    };
    let body = match way {
        0 | 2 => body.to_vec().into(),
        _ => {
            let pieces: Vec<_> = body.chunks(9_001).map(Bytes::copy_from_slice).collect();
            reqwest::Body::wrap_stream(stream::iter(pieces.into_iter().map(Ok::<_, String>)))
        }
    };
    let request = request.header("x-fake", wish).body(body);
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

const WAYS: [usize; 4] = [0, 1, 2, 3];

/// Two peers in a fixed order: `first`, then the first fake.
fn two_peers(first: &str) -> Builder {
    two_peers_over(first, false)
}

fn two_peers_over(first: &str, http2: bool) -> Builder {
    let peers = json!([
        {"url": first, "credential": CREDENTIAL, "http2": http2},
        {"url": "{fake0}", "credential": CREDENTIAL, "http2": http2},
    ]);
    Rig::builder()
        .set("pools.2.peers", peers)
        .set("pools.2.balance", json!("fallback"))
        .set("pools.2.cooldown", json!({"failures": 1000, "for": "1s"}))
}

fn failing(directives: &str) -> Options {
    let mut always = Control::default();
    always.apply(directives).unwrap();
    Options {
        always,
        ..Options::default()
    }
}

/// Every size in every framing reaches the second peer whole, once.
async fn second_peer_gets_it(rig: &Rig, second: usize) {
    let key = rig.admin().key(0).await;
    let mut sent = 0;
    for size in SIZES {
        let body = body_of(size);
        for way in WAYS {
            let (status, answer) = send(rig, &key, &body, way, "").await;
            assert_eq!(status, 200, "{size} by way {way}: {answer}");
            sent += 1;
            let seen = rig.fakes()[second].last_ended(sent).await;
            assert_eq!(seen.body_sha256, Some(sha256(&body)), "{size} by way {way}");
        }
    }
    // Each is counted once.
    let counted = |shown: &Value| shown["request_count"] == sent;
    rig.admin().show_when(&key, counted).await;
}

#[tokio::test]
async fn after_a_refused_connection() {
    let (_closed, url) = refusing();
    let rig = two_peers(&url).start().await;
    second_peer_gets_it(&rig, 0).await;
}

#[tokio::test]
async fn after_a_429() {
    let rig = two_peers("{fake1}")
        .fake(Options::default())
        .fake(failing("status=429"))
        .start()
        .await;
    second_peer_gets_it(&rig, 0).await;
}

#[tokio::test]
async fn after_a_429_over_http2() {
    let rig = two_peers_over("{fake1}", true)
        .fake(Options::default())
        .fake(failing("status=429"))
        .start()
        .await;
    second_peer_gets_it(&rig, 0).await;
}

#[tokio::test]
async fn after_a_refused_connection_over_http2() {
    let (_closed, url) = refusing();
    let rig = two_peers_over(&url, true).start().await;
    second_peer_gets_it(&rig, 0).await;
}

#[tokio::test]
async fn after_a_rejected_credential() {
    let rig = two_peers("{fake1}")
        .fake(Options::default())
        .fake(failing("status=401"))
        .start()
        .await;
    second_peer_gets_it(&rig, 0).await;
}

/// More than any socket takes that nobody reads.
const UNREAD: usize = 8_000_000;

/// The connection of the first answer is pooled; the upstream hangs up just as the second request
/// comes. It cannot have had all of that, so it is sent once more, and the client is told nothing.
#[tokio::test]
async fn after_a_pooled_connection_that_ended_before_all_was_written() {
    let answer = json!({"object": "chat.completion", "choices": [], "model": "gpt-4o",
                        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}});
    let manner = Manner::HangUpOnSecond(json_answer("200 OK", "", &answer));
    let upstream = Upstream::start(manner).await;
    let rig = Rig::builder()
        .set(
            "pools.2.peers",
            json!([{"url": upstream.url(), "credential": "x"}]),
        )
        .start()
        .await;
    let key = rig.admin().key(0).await;
    let body = body_of(UNREAD);
    for (turn, way) in WAYS.into_iter().enumerate() {
        let (status, _) = send(&rig, &key, &body_of(100), way, "").await;
        assert_eq!(status, 200);
        // Its connection is pooled by then.
        rig.admin().settled().await;
        let (status, answer) = send(&rig, &key, &body, way, "").await;
        assert_eq!(status, 200, "by way {way}: {answer}");
        let seen = upstream.seen();
        // Each came whole over its own connection: the pooled one had always just died.
        let last = seen.last().unwrap();
        assert_eq!((seen.len(), last.connection), (2 * turn + 2, 2 * turn + 1));
        assert_eq!(last.sha256(), sha256(&body), "by way {way}");
    }
    let counted = |shown: &Value| shown["request_count"] == 2 * WAYS.len();
    rig.admin().show_when(&key, counted).await;
    let stale = format!(
        r#"upstream_attempts_total{{outcome="stale",peer="{}",pool="openai"}} {}"#,
        upstream.address,
        WAYS.len()
    );
    let metrics = rig.admin().metrics().await;
    assert!(metrics.lines().any(|line| line == stale), "{metrics}");
}

/// A refusal over a pooled connection is the peer's word, not a stale connection.
#[tokio::test]
async fn a_peer_that_refuses_is_asked_once_also_over_a_pooled_connection() {
    for wish in ["status=401", "status=403", "status=429"] {
        let rig = two_peers("{fake1}")
            .fake(Options::default())
            .fake(Options::default())
            .start()
            .await;
        let key = rig.admin().key(0).await;
        // A success pools a connection to the first peer.
        let (status, _) = send(&rig, &key, &body_of(100), 0, "").await;
        assert_eq!(status, 200);
        rig.fakes()[1].forget().await;
        let (status, _) = send(&rig, &key, &body_of(100), 0, wish).await;
        assert_eq!(
            status,
            if wish == "status=429" { 429 } else { 502 },
            "{wish}"
        );
        assert_eq!(rig.fakes()[1].ledger().await.requests, 1, "{wish}");
        assert_eq!(rig.fakes()[0].ledger().await.requests, 1, "{wish}");
        let shown = rig.admin().show(&key).await;
        assert_eq!(
            shown["request_count"], 1,
            "a refused request counts nothing"
        );
    }
}

/// `retry.attempts` bounds the peers tried, and the client hears of the last one.
#[tokio::test]
async fn attempts_are_bounded() {
    let fakes: Vec<_> = (0..4)
        .map(|n| json!({"url": format!("{{fake{n}}}")}))
        .collect();
    let mut builder = Rig::builder()
        .set("pools.2.peers", json!(fakes))
        .set("pools.2.retry", json!({"attempts": 3, "on": ["5xx"]}));
    for _ in 0..4 {
        builder = builder.fake(failing("status=500"));
    }
    let rig = builder.start().await;
    let key = rig.admin().key(0).await;
    let answer = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
    assert_eq!(answer.status(), 500);
    let mut asked = 0;
    for fake in rig.fakes() {
        asked += fake.ledger().await.requests;
    }
    assert_eq!(asked, 3);
}
