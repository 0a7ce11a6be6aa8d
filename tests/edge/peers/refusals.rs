//! Refusals that speak of the operator's account, and those that are the caller's own.

use std::io::Write as _;

use quota_proxy::cli::fake_upstream::Options;
use reqwest::Method;
use serde_json::{Value, json};

use super::{access_lines, ask, counts, in_order, is_in_state, state};
use crate::support::admin::Key;
use crate::support::rig::{CHAT, Rig, chat};
use crate::support::upstream::{Manner, Upstream};
use crate::support::wire::Answer;

/// How an answer comes.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Head and body at once.
    Whole,
    /// The head, then the body in two pieces.
    Late,
    Chunked,
    LateAndPacked,
}

const WAYS: [Way; 4] = [Way::Whole, Way::Late, Way::Chunked, Way::LateAndPacked];

/// The pieces of an answer, and its body as it stands on the wire.
fn pieces(status: &str, body: &str, way: Way) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut body = body.as_bytes().to_vec();
    let mut head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n");
    if let Way::LateAndPacked = way {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&body).unwrap();
        body = gzip.finish().unwrap();
        head.push_str("content-encoding: gzip\r\n");
    }
    match way {
        Way::Chunked => head.push_str("transfer-encoding: chunked\r\n\r\n"),
        _ => head.push_str(&format!("content-length: {}\r\n\r\n", body.len())),
    }
    let (first, last) = body.split_at(body.len() / 2);
    let chunk = |part: &[u8]| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
    let pieces = match way {
        Way::Whole => vec![[head.as_bytes(), &body].concat()],
        Way::Late | Way::LateAndPacked => vec![head.into(), first.to_vec(), last.to_vec()],
        Way::Chunked => {
            let end = b"0\r\n\r\n".to_vec();
            vec![head.into(), chunk(first), chunk(last), end]
        }
    };
    (pieces, body)
}

async fn upstream(status: &str, body: &Value, way: Way) -> Upstream {
    let (pieces, _) = pieces(status, &body.to_string(), way);
    Upstream::start(Manner::Pieces(pieces)).await
}

/// What providers say of an account that is empty, and of a key that is not valid.
fn of_our_account() -> [(&'static str, Value); 4] {
    let credit = "Your credit balance is too low to access the Anthropic API. Please go to \
                  Plans & Billing to upgrade or purchase credits.";
    let invalid = json!({"error": {"code": 400, "status": "INVALID_ARGUMENT",
        "message": "API key not valid. Please pass a valid API key. OURS",
        "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo",
                     "reason": "API_KEY_INVALID", "domain": "googleapis.com"}]}});
    let empty = json!({"error": {"message": "OURS exceeded the quota", "type": "insufficient_quota",
                                 "code": "insufficient_quota"}});
    [
        (
            "400 Bad Request",
            json!({"type": "error", "request_id": "OURS",
                   "error": {"type": "invalid_request_error", "message": credit}}),
        ),
        ("400 Bad Request", invalid.clone()),
        // Its dialect of OpenAI's.
        ("400 Bad Request", json!([invalid])),
        ("429 Too Many Requests", empty),
    ]
}

#[tokio::test]
async fn an_account_that_is_empty_or_a_key_that_is_invalid_fails_its_peer() {
    for (status, body) in of_our_account() {
        for way in WAYS {
            let first = upstream(status, &body, way).await;
            let rig = in_order(&[&first.url(), "{fake0}"])
                .fake(Options::default())
                // Not even a 429 is to reach another peer by itself.
                .set("pools.0.retry", json!({"on": ["connect"]}))
                .set("pools.0.cooldown", json!({"failures": 2, "for": "60s"}))
                .start()
                .await;
            let key = rig.admin().key(10_000).await;
            for _ in 0..3 {
                assert_eq!(ask(&rig, &key).await, 200, "{status} {way:?}");
            }
            is_in_state(&rig, 0, "resting").await;
            assert_eq!(first.seen().len(), 2, "{status} {way:?}");
            assert_eq!(rig.fakes()[0].ledger().await.requests, 3);
            let labels = format!(
                r#"outcome="credential",peer="{}",pool="only""#,
                first.address
            );
            counts(&rig, "upstream_attempts_total", &labels, 2).await;
            let line = &access_lines(&rig, 3).await[0];
            assert_eq!(line["attempts"], 2, "{line}");
            assert_eq!(line["failed_attempts"][0]["reason"], "credential", "{line}");
            rig.end().await;
        }
    }
}

/// A chat by hand over a new connection.
async fn answer_of(rig: &Rig, key: &Key) -> Answer {
    let bearer = format!("Bearer {}", key.secret);
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let mut wire = rig.wire().await;
    wire.post(CHAT, &headers, chat("gpt-4o").to_string().as_bytes())
        .await;
    wire.answer().await
}

#[tokio::test]
async fn where_nobody_else_is_left_its_text_is_not_shown() {
    for (status, body) in of_our_account() {
        for way in [Way::Whole, Way::Chunked] {
            let only = upstream(status, &body, way).await;
            let rig = in_order(&[&only.url()]).start().await;
            let key = rig.admin().key(10_000).await;
            let answer = answer_of(&rig, &key).await;
            assert_eq!(answer.status, 502, "{status} {way:?}");
            let shown = answer.json();
            assert_eq!(shown["error"]["code"], "upstream_unavailable", "{shown}");
            assert_eq!(state(&rig, 0).await["failures"], 1);
            rig.end().await;
        }
    }
}

/// What a caller did wrong is told as it came, and costs its peer nothing.
#[tokio::test]
async fn a_callers_own_refusals_pass_to_the_last_byte() {
    let body = r#"{ "error": {"type": "invalid_request_error",  "message":
        "messages.0: 'Your credit balance is too low to access the Anthropic API' API_KEY_INVALID insufficient_quota" }}"#;
    let slow = r#"{"error": {"message": "slow down", "type": "requests"}}"#;
    for (status, body) in [("400 Bad Request", body), ("429 Too Many Requests", slow)] {
        for way in WAYS {
            let (pieces, sent) = pieces(status, body, way);
            let first = Upstream::start(Manner::Pieces(pieces)).await;
            // The second: an inner request stands in the client's place.
            for timeouts in [json!({}), json!({"first_byte": "20s", "idle": "30s"})] {
                let rig = in_order(&[&first.url(), "{fake0}"])
                    .fake(Options::default())
                    .set("pools.0.retry", json!({"on": ["connect"]}))
                    .set("pools.0.timeouts", timeouts)
                    .start()
                    .await;
                let key = rig.admin().key(10_000).await;
                let answer = answer_of(&rig, &key).await;
                assert!(status.starts_with(&answer.status.to_string()), "{way:?}");
                assert!(answer.is_whole);
                assert_eq!(answer.body, sent, "{way:?}");
                assert_eq!(answer.header("content-type"), Some("application/json"));
                let packed = matches!(way, Way::LateAndPacked).then_some("gzip");
                assert_eq!(answer.header("content-encoding"), packed);
                assert!(answer.header("x-request-id").is_some());
                assert_eq!(rig.fakes()[0].ledger().await.requests, 0);
                let failures = u8::from(status.starts_with("429"));
                assert_eq!(state(&rig, 0).await["failures"], failures);
                let over_http2 = rig.h2().post(format!("{}{CHAT}", rig.url()));
                let over_http2 = over_http2.bearer_auth(&key.secret).json(&chat("gpt-4o"));
                let answer = over_http2.send().await.unwrap();
                assert!(status.starts_with(answer.status().as_str()), "{way:?}");
                assert_eq!(answer.text().await.unwrap(), body, "{way:?}");
                let line = &access_lines(&rig, 2).await[0];
                assert!(status.starts_with(&line["status"].to_string()), "{line}");
                assert!(
                    line["failed_attempts"].as_array().is_none_or(Vec::is_empty),
                    "{line}"
                );
                rig.end().await;
            }
        }
    }
}

/// One whose head and body come together keeps both connections.
#[tokio::test]
async fn a_callers_own_refusal_costs_no_connection() {
    let body = json!({"error": {"message": "no such field"}});
    let only = upstream("400 Bad Request", &body, Way::Whole).await;
    let rig = in_order(&[&only.url()]).start().await;
    let key = rig.admin().key(0).await;
    let bearer = format!("Bearer {}", key.secret);
    let mut wire = rig.wire().await;
    for turn in 1..=3 {
        let headers = [("authorization", bearer.as_str())];
        wire.post(CHAT, &headers, chat("gpt-4o").to_string().as_bytes())
            .await;
        assert_eq!(wire.answer().await.status, 400);
        assert_eq!(only.seen().len(), turn);
    }
    assert!(only.seen().iter().all(|seen| seen.connection == 0));
    rig.end().await;
}

/// A withheld answer that breaks off was seen by nobody: the client is told of the upstream instead.
#[tokio::test]
async fn a_withheld_refusal_that_breaks_off_is_an_unavailable_upstream() {
    let head =
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 90\r\n\r\n";
    let first = Upstream::start(Manner::Pieces(vec![head.into(), b"{\"half".to_vec()])).await;
    let rig = in_order(&[&first.url()])
        .set(
            "pools.0.timeouts",
            json!({"first_byte": "1s", "idle": "1s"}),
        )
        .start()
        .await;
    let key = rig.admin().key(10_000).await;
    let answer = rig
        .request(Method::POST, CHAT, &key.secret)
        .json(&chat("gpt-4o"));
    let answer = answer.send().await.unwrap();
    assert_eq!(answer.status(), 504);
    let shown: Value = answer.json().await.unwrap();
    assert_eq!(shown["error"]["code"], "upstream_timeout", "{shown}");
    rig.admin().settled().await;
    assert_eq!(rig.admin().show(&key).await["request_count"], 0);
    rig.end().await;
}
