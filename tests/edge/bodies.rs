//! Request bodies reach the upstream whole and byte for byte, in every framing and size.
//!
//! The fake's ledger gives the length and the digest of what really arrived.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};

use crate::support::chance::Chance;
use crate::support::rig::{CHAT, Rig};
use crate::support::upstream::sha256;
use crate::support::wait::{PATIENCE, eventually, that};
use crate::support::wire::Answer;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Around Pingora's replay buffer of 64 KiB, and far above it.
const SIZES: [usize; 8] = [
    KIB,
    64 * KIB - 1,
    64 * KIB,
    64 * KIB + 1,
    70_000,
    200_000,
    MIB,
    5 * MIB,
];

/// How a body is framed on its way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length,
    /// The head in its own segment, the body in pieces of an odd size.
    LengthInPieces,
    ExpectContinue,
    ExpectContinueChunked,
    /// Chunks of an odd size.
    Chunked(usize),
    /// The last chunk's terminator comes after a pause.
    ChunkedLateEnd,
    H2Length,
    /// Pieces without a length.
    H2(usize),
}

use Framing::{
    Chunked, ChunkedLateEnd, ExpectContinue, ExpectContinueChunked, H2, H2Length, Length,
    LengthInPieces,
};

const FRAMINGS: [Framing; 9] = [
    Length,
    LengthInPieces,
    ExpectContinue,
    ExpectContinueChunked,
    Chunked(4_093),
    Chunked(65_537),
    ChunkedLateEnd,
    H2Length,
    H2(10_007),
];

/// A chat request of exactly `size` bytes, its model at the very end.
fn chat_of(size: usize, chance: &mut Chance) -> Vec<u8> {
    let start = br#"{"messages":[{"role":"user","content":""#;
    let end = br#""}],"model":"gpt-4o"}"#;
    let mut body = start.to_vec();
    let letters = b"abcdefghijklmnopqrstuvwxyz 0123456789";
    while body.len() < size - end.len() {
        body.push(*chance.pick(letters));
    }
    body.extend_from_slice(end);
    assert_eq!(body.len(), size);
    body
}

/// Sends a POST in the given framing and reads its answer.
async fn send(
    rig: &Rig,
    key: &str,
    path: &str,
    kind: &str,
    body: &[u8],
    framing: Framing,
) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", kind)];
    let mut expecting = headers.to_vec();
    expecting.push(("expect", "100-continue"));
    let mut wire = rig.wire().await;
    match framing {
        Length => wire.post(path, &headers, body).await,
        LengthInPieces => {
            wire.post_head(path, &headers, body.len()).await;
            wire.send_in_pieces(body, 9_973, Duration::ZERO).await;
        }
        ExpectContinue => {
            wire.post_head(path, &expecting, body.len()).await;
            assert_eq!(wire.head().await.status, 100);
            wire.send(body).await;
        }
        ExpectContinueChunked => {
            wire.post_chunked(path, &expecting, &[], true).await;
            assert_eq!(wire.head().await.status, 100);
            for part in body.chunks(30_011) {
                wire.send_chunk(part).await;
            }
            wire.send("0\r\n\r\n").await;
        }
        Chunked(size) => {
            let parts: Vec<&[u8]> = body.chunks(size).collect();
            wire.post_chunked(path, &headers, &parts, false).await;
        }
        ChunkedLateEnd => {
            wire.post_chunked(path, &headers, &[body], true).await;
            tokio::time::sleep(Duration::from_millis(30)).await;
            wire.send("0\r\n").await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            wire.send("\r\n").await;
        }
        H2Length | H2(_) => return send_h2(rig, key, path, kind, body, framing).await,
    }
    wire.answer().await
}

async fn send_h2(
    rig: &Rig,
    key: &str,
    path: &str,
    kind: &str,
    body: &[u8],
    framing: Framing,
) -> Answer {
    let body = match framing {
        H2(size) => {
            let pieces: Vec<_> = body.chunks(size).map(Bytes::copy_from_slice).collect();
            reqwest::Body::wrap_stream(stream::iter(pieces.into_iter().map(Ok::<_, String>)))
        }
        _ => body.to_vec().into(),
    };
    let request = rig.h2().post(format!("{}{path}", rig.url()));
    let request = request.bearer_auth(key).header("content-type", kind);
    let answer = request.body(body).send().await.unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_2);
    Answer {
        status: answer.status().as_u16(),
        headers: Vec::new(),
        body: answer.bytes().await.unwrap().to_vec(),
        chunks: Vec::new(),
        is_whole: true,
    }
}

#[tokio::test]
async fn a_json_body_arrives_whole_in_every_size_and_framing() {
    arrives_whole(Rig::start().await).await;
}

#[tokio::test]
async fn a_json_body_arrives_whole_over_http2_too() {
    let http2 = Rig::builder().set("pools.2.peers.0.http2", json!(true));
    arrives_whole(http2.start().await).await;
}

async fn arrives_whole(rig: Rig) {
    let key = rig.admin().key(0).await;
    let mut chance = Chance::from_env();
    let mut sent = 0;
    for size in SIZES {
        let body = chat_of(size, &mut chance);
        for framing in FRAMINGS {
            let answer = send(&rig, &key.secret, CHAT, "application/json", &body, framing).await;
            assert_eq!(answer.status, 200, "{size} {framing:?}: {}", answer.text());
            sent += 1;
            let seen = rig.fake().last_ended(sent).await;
            assert_eq!(seen.body_bytes, size as u64, "{framing:?}");
            assert_eq!(seen.body_sha256, Some(sha256(&body)), "{size} {framing:?}");
            assert_eq!(seen.headers["content-length"], size.to_string());
        }
    }
}

#[tokio::test]
async fn many_small_chunks_arrive_whole() {
    let rig = Rig::start().await;
    let key = rig.admin().key(0).await;
    let body = chat_of(70_000, &mut Chance::from_env());
    // HTTP/2 frames are not as small: the library takes a flood of tiny ones for an attack.
    for (turn, framing) in [Chunked(1), Chunked(7), H2(211)].into_iter().enumerate() {
        let answer = send(&rig, &key.secret, CHAT, "application/json", &body, framing).await;
        assert_eq!(answer.status, 200, "{framing:?}: {}", answer.text());
        let seen = rig.fake().last_ended(turn as u64 + 1).await;
        assert_eq!(seen.body_sha256, Some(sha256(&body)), "{framing:?}");
    }
}

#[tokio::test]
async fn the_limit_of_32_mib_is_kept_in_every_framing() {
    let rig = Rig::start().await;
    let key = rig.admin().key(0).await;
    let limit = 32 * MIB;
    let fits = chat_of(limit, &mut Chance::from_env());
    let above = [&fits[..], b" "].concat();
    let framings = [Length, Chunked(65_536), H2Length, H2(65_536)];
    for (turn, framing) in framings.into_iter().enumerate() {
        let answer = send(&rig, &key.secret, CHAT, "application/json", &fits, framing).await;
        assert_eq!(answer.status, 200, "{framing:?}: {}", answer.text());
        let seen = rig.fake().last_ended(turn as u64 + 1).await;
        assert_eq!(seen.body_bytes, limit as u64);
        assert_eq!(seen.body_sha256, Some(sha256(&fits)), "{framing:?}");
        let answer = send(&rig, &key.secret, CHAT, "application/json", &above, framing).await;
        assert_eq!(answer.status, 413, "{framing:?}: {}", answer.text());
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains(&limit.to_string()), "{message}");
    }
    assert_eq!(
        rig.fake().ledger().await.requests,
        framings.len() as u64,
        "nothing of what was refused went upstream"
    );
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_it_is_asked_for() {
    let rig = Rig::builder()
        .set("edge.max_request_body", json!("1MiB"))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    let bearer = format!("Bearer {}", key.secret);
    let headers = [
        ("authorization", bearer.as_str()),
        ("expect", "100-continue"),
    ];
    let mut wire = rig.wire().await;
    wire.post_head(CHAT, &headers, MIB + 1).await;
    // No 100 comes before it.
    assert_eq!(wire.answer().await.status, 413);
}

#[tokio::test]
async fn a_dribbled_body_arrives_whole() {
    let rig = Rig::start().await;
    let key = rig.admin().key(0).await;
    let body = chat_of(600, &mut Chance::from_env());
    let bearer = format!("Bearer {}", key.secret);
    let headers = [("authorization", bearer.as_str())];
    let mut wire = rig.wire().await;
    wire.post_head(CHAT, &headers, body.len()).await;
    wire.send_in_pieces(&body, 3, Duration::from_millis(1))
        .await;
    assert_eq!(wire.answer().await.status, 200);
    wire.post_chunked(CHAT, &headers, &[], true).await;
    for part in body.chunks(5) {
        let chunk = format!("{:x}\r\n{}\r\n", part.len(), String::from_utf8_lossy(part));
        wire.send_in_pieces(chunk.as_bytes(), 2, Duration::from_millis(1))
            .await;
    }
    wire.send("0\r\n\r\n").await;
    assert_eq!(wire.answer().await.status, 200);
    let seen = rig.fake().last_ended(2).await;
    assert_eq!(seen.body_sha256, Some(sha256(&body)));
}

#[tokio::test]
async fn a_body_that_ends_early_goes_nowhere_and_holds_nothing() {
    let rig = Rig::start().await;
    let key = rig.admin().key(0).await;
    let body = chat_of(100_000, &mut Chance::from_env());
    let bearer = format!("Bearer {}", key.secret);
    let headers = [("authorization", bearer.as_str())];
    for sent in [0, 10, 40_000, 99_999] {
        let mut wire = rig.wire().await;
        wire.post_head(CHAT, &headers, body.len()).await;
        wire.send(&body[..sent]).await;
        wire.half_close().await;
        assert_eq!(wire.answer().await.status, 400, "{sent}");
        let mut wire = rig.wire().await;
        wire.post_chunked(CHAT, &headers, &[&body[..sent.max(1)]], true)
            .await;
        wire.half_close().await;
        assert_eq!(wire.answer().await.status, 400, "{sent}");
        let mut wire = rig.wire().await;
        wire.post_head(CHAT, &headers, body.len()).await;
        wire.send(&body[..sent]).await;
        wire.reset();
    }
    // The edge still serves, and nothing of the above went up or is held.
    let answer = send(&rig, &key.secret, CHAT, "application/json", &body, Length).await;
    assert_eq!(answer.status, 200);
    assert_eq!(rig.fake().ledger().await.requests, 1);
    let counted = |shown: &Value| shown["request_count"] == 1;
    rig.admin().show_when(&key, counted).await;
}

#[tokio::test]
async fn large_bodies_beyond_the_budget_wait_outside() {
    let rig = Rig::builder()
        .set("edge.max_request_body", json!("6MiB"))
        .set("edge.max_buffered", json!("6MiB"))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    let body = chat_of(5 * MIB, &mut Chance::from_env());
    let bearer = format!("Bearer {}", key.secret);
    let headers = [("authorization", bearer.as_str())];
    let small = chat_of(KIB, &mut Chance::from_env());
    for framing in [Length, Chunked(65_536), H2(65_536)] {
        // Until the holder's bytes are read the other body may fit, and then the holder may not.
        let refused_beside_a_holder = || async {
            let mut holder = rig.wire().await;
            holder.post_head(CHAT, &headers, body.len()).await;
            holder.send(&body[..4 * MIB]).await;
            let refused = send(&rig, &key.secret, CHAT, "application/json", &body, framing).await;
            let passed = send(&rig, &key.secret, CHAT, "application/json", &small, Length).await;
            assert_eq!(passed.status, 200, "small bodies always pass");
            holder.send(&body[4 * MIB..]).await;
            match (refused.status, holder.answer().await.status) {
                (503, 200) => Ok(refused),
                other => Err(other),
            }
        };
        let refused = eventually(PATIENCE, refused_beside_a_holder).await;
        assert_eq!(refused.json()["error"]["code"], "upstream_unavailable");
        if framing != H2(65_536) {
            assert_eq!(refused.header("retry-after"), Some("1"), "{refused:?}");
        }
    }
    // All was given back: now it fits again.
    let fits = || async {
        let answer = send(&rig, &key.secret, CHAT, "application/json", &body, Length).await;
        that(answer.status, |&status| status == 200)
    };
    eventually(PATIENCE, fits).await;
}
