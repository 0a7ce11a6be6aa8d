//! Answers that come while the client is still sending: refusals, early answers, and what can no
//! longer be sent to another peer.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use bytes::Bytes;
use futures_util::stream;
use quota_proxy::cli::fake_upstream::Options;
use quota_proxy::cli::fake_upstream::control::Control;
use serde_json::{Value, json};

use crate::support::rig::{CHAT, CREDENTIAL, Rig};
use crate::support::upstream::{Manner, Upstream, json_answer};
use crate::support::wire::Answer;

const SOUND: &str = "/v1/audio/transcriptions";
const FORM: &str = "multipart/form-data; boundary=XboundaryX";
const MIB: usize = 1 << 20;

/// Writes the whole body before it reads a byte of the answer, as simple clients do.
async fn send(rig: &Rig, path: &str, kind: &str, key: &str, body: &[u8], chunked: bool) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", kind)];
    let mut wire = rig.wire().await;
    if chunked {
        let parts: Vec<&[u8]> = body.chunks(50_000).collect();
        wire.post_chunked(path, &headers, &parts, false).await;
    } else {
        wire.post(path, &headers, body).await;
    }
    wire.answer().await
}

/// Over HTTP/2; `length` declares it.
async fn send_h2(rig: &Rig, path: &str, key: &str, body: &[u8], length: bool) -> (u16, Value) {
    let body = if length {
        body.to_vec().into()
    } else {
        let pieces: Vec<_> = body.chunks(50_000).map(Bytes::copy_from_slice).collect();
        reqwest::Body::wrap_stream(stream::iter(pieces.into_iter().map(Ok::<_, String>)))
    };
    let request = rig.h2().post(format!("{}{path}", rig.url()));
    let answer = request.bearer_auth(key).body(body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn chat_of(size: usize) -> Vec<u8> {
    let text = "x".repeat(size);
    format!(r#"{{"model":"gpt-4o","messages":[{{"role":"user","content":"{text}"}}]}}"#)
        .into_bytes()
}

fn form_of(size: usize) -> Vec<u8> {
    let field = "--XboundaryX\r\ncontent-disposition: form-data; name=";
    let mut body =
        format!("{field}\"model\"\r\n\r\nwhisper-1\r\n{field}\"file\"; filename=\"a\"\r\n\r\n");
    body.push_str(&"s".repeat(size));
    body.push_str("\r\n--XboundaryX--\r\n");
    body.into_bytes()
}

#[tokio::test]
async fn a_refusal_is_readable_by_a_client_that_is_still_sending() {
    let rig = Rig::builder()
        .set("edge.max_request_body", json!("1MiB"))
        .set(
            "tiers",
            json!({"slow": {"requests_per_minute": 1}, "unlimited": {}}),
        )
        .start()
        .await;
    let admin = rig.admin();
    let open = admin.key(0).await.secret;
    let disabled = admin.key(0).await;
    admin.act(&disabled, "disable").await;
    let body = chat_of(20 * MIB);
    for (key, status) in [
        (&open, 413),
        (&"sk-nobody".to_owned(), 401),
        (&disabled.secret, 403),
    ] {
        for chunked in [false, true] {
            let answer = send(&rig, CHAT, "application/json", key, &body, chunked).await;
            assert_eq!(answer.status, status, "{chunked} {}", answer.text());
            assert!(answer.is_whole && answer.json()["error"]["message"].is_string());
            let (got, shown) = send_h2(&rig, CHAT, key, &body, !chunked).await;
            assert_eq!(got, status, "HTTP/2 {chunked} {shown}");
            assert!(shown["error"]["message"].is_string());
        }
    }
    assert_eq!(rig.fake().ledger().await.requests, 0);
}

#[tokio::test]
async fn a_quota_refusal_is_readable_too() {
    let rig = Rig::start().await;
    // The body is read before the quota is asked; an upload's is not.
    let body = json!({"name": "spent", "token_limit": 0, "request_limit": 1});
    let key = rig.admin().create(body).await.secret;
    let first = send(&rig, CHAT, "application/json", &key, &chat_of(10), false).await;
    assert_eq!(first.status, 200);
    for (path, kind, body) in [
        (CHAT, "application/json", chat_of(20 * MIB)),
        (SOUND, FORM, form_of(20 * MIB)),
    ] {
        for chunked in [false, true] {
            let answer = send(&rig, path, kind, &key, &body, chunked).await;
            assert_eq!(answer.status, 429, "{path} {}", answer.text());
            assert_eq!(answer.json()["error"]["code"], "insufficient_quota");
        }
    }
    assert_eq!(rig.fake().ledger().await.requests, 1, "only the first");
}

/// An upstream may judge by the head alone. Its answer passes, and the next request is served.
#[tokio::test]
async fn an_early_answer_passes_while_the_upload_goes_on() {
    let early = json_answer(
        "400 Bad Request",
        "",
        &json!({"error": {"message": "early"}}),
    );
    let upstream = Upstream::start(Manner::AnswerEarly(early)).await;
    let rig = Rig::builder()
        .set(
            "pools.2.peers",
            json!([{"url": upstream.url(), "credential": "x"}]),
        )
        .start()
        .await;
    let key = rig.admin().key(0).await.secret;
    let body = form_of(3 * MIB);
    for chunked in [false, true, false, true] {
        let answer = send(&rig, SOUND, FORM, &key, &body, chunked).await;
        assert_eq!(answer.status, 400, "{chunked} {}", answer.text());
        assert_eq!(answer.json()["error"]["message"], "early");
    }
}

/// A streamed body that outgrew what can be replayed is never sent in part to a second peer.
#[tokio::test]
async fn what_cannot_be_replayed_goes_to_no_second_peer() {
    for (wish, status) in [
        ("status=429", 429),
        ("status=500", 500),
        ("status=401", 502),
    ] {
        let mut always = Control::default();
        always.apply(wish).unwrap();
        let failing = Options {
            always,
            ..Options::default()
        };
        let peers = json!([{"url": "{fake0}", "credential": CREDENTIAL},
                           {"url": "{fake1}", "credential": CREDENTIAL}]);
        // A 429 may ask for a rest, in which the second peer would serve: each has a rig of its own.
        for chunked in [false, true] {
            let rig = Rig::builder()
                .fake(failing.clone())
                .fake(Options::default())
                .set("pools.2.peers", peers.clone())
                .set("pools.2.balance", json!("fallback"))
                .set(
                    "pools.2.retry",
                    json!({"attempts": 2, "on": ["connect", "429", "5xx"]}),
                )
                .start()
                .await;
            let key = rig.admin().key(0).await.secret;
            let body = form_of(3 * MIB);
            let answer = send(&rig, SOUND, FORM, &key, &body, chunked).await;
            assert_eq!(answer.status, status, "{wish} {}", answer.text());
            assert_eq!(rig.fakes()[1].ledger().await.requests, 0, "{wish}");
            // A short one can be, and is.
            let answer = send(&rig, SOUND, FORM, &key, &form_of(1_000), false).await;
            assert_eq!(answer.status, 200, "{wish} {}", answer.text());
        }
    }
}
