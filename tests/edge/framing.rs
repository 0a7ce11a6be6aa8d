//! Smuggling and desync (RELIABILITY test 20): what two servers could read differently is refused and
//! its connection closed; what is forwarded is exactly one request each, and no pooled connection is
//! left with bytes of another.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};

use crate::support::fake::Fake;
use crate::support::nginx::Nginx;
use crate::support::reader::Reader;
use crate::support::rig::{CHAT, CREDENTIAL, Rig, chat, strict_fake};
use crate::support::upstream::sha256;
use crate::support::wait::{PATIENCE, eventually, that};

const BODY: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"x"}]}"#;

/// What a request with a second reading would carry to the upstream.
const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";

/// Heads and bodies that two servers could read differently.
fn ambiguous(key: &str) -> Vec<(&'static str, String)> {
    let length = BODY.len();
    let post = |headers: &str, body: &str| {
        format!(
            "POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n{headers}\r\n{body}"
        )
    };
    let chunked = format!("{length:x}\r\n{BODY}\r\n0\r\n\r\n");
    let both = format!("{chunked}{HIDDEN}");
    let te = |value: &str| post(&format!("transfer-encoding: {value}\r\n"), &both);
    let cl = |value: &str| {
        post(
            &format!("content-length: {value}\r\n"),
            &format!("{BODY}{HIDDEN}"),
        )
    };
    vec![
        (
            "CL.TE",
            post(
                &format!(
                    "content-length: {}\r\ntransfer-encoding: chunked\r\n",
                    both.len()
                ),
                &both,
            ),
        ),
        (
            "TE.CL",
            post(
                &format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n"),
                &both,
            ),
        ),
        (
            "CL 0 and TE",
            post("content-length: 0\r\ntransfer-encoding: chunked\r\n", &both),
        ),
        (
            "two lengths alike",
            post(
                &format!("content-length: {length}\r\ncontent-length: {length}\r\n"),
                BODY,
            ),
        ),
        (
            "two lengths",
            post(
                &format!("content-length: {length}\r\ncontent-length: 0\r\n"),
                BODY,
            ),
        ),
        ("a list of lengths", cl(&format!("{length}, {length}"))),
        ("signed length", cl(&format!("+{length}"))),
        ("negative length", cl("-1")),
        ("hex length", cl("0x40")),
        ("empty length", cl("")),
        ("length with letters", cl("64abc")),
        ("huge length", cl("99999999999999999999999")),
        ("TE xchunked", te("xchunked")),
        ("TE identity", te("identity")),
        ("TE chunked, identity", te("chunked, identity")),
        ("TE identity, chunked", te("identity, chunked")),
        ("TE gzip, chunked", te("gzip, chunked")),
        (
            "TE twice",
            post(
                "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
                &both,
            ),
        ),
        (
            "TE twice, one odd",
            post(
                "transfer-encoding: chunked\r\ntransfer-encoding: x\r\n",
                &both,
            ),
        ),
        ("TE in a list twice", te("chunked, chunked")),
        ("TE quoted", te("\"chunked\"")),
        ("TE with a parameter", te("chunked;q=1")),
        (
            "space before the colon",
            post("transfer-encoding : chunked\r\n", &both),
        ),
        (
            "folded TE",
            post("transfer-encoding:\r\n chunked\r\n", &both),
        ),
        (
            "folded header",
            post(
                &format!("x-a: b\r\n c\r\ncontent-length: {length}\r\n"),
                BODY,
            ),
        ),
        ("NUL in a name", post("x\0y: b\r\n", "")),
        (
            "no host",
            format!("POST {CHAT} HTTP/1.1\r\nauthorization: Bearer {key}\r\n\r\n"),
        ),
        ("two hosts", post("host: b\r\n", "")),
        (
            "TE in HTTP/1.0",
            te("chunked").replace("HTTP/1.1\r\nhost: a\r\nauth", "HTTP/1.0\r\nhost: a\r\nauth"),
        ),
        (
            "TRACE",
            format!("TRACE {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n\r\n"),
        ),
        (
            "CONNECT",
            format!("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\nauthorization: Bearer {key}\r\n\r\n"),
        ),
        (
            "Connection names Host",
            post(
                &format!("connection: host\r\ncontent-length: {length}\r\n"),
                BODY,
            ),
        ),
    ]
}

/// Chunked bodies that are no such thing.
fn malformed_chunks() -> Vec<(&'static str, String)> {
    let length = BODY.len();
    let chunks = |text: String| format!("{text}{HIDDEN}");
    vec![
        ("bare LF", chunks(format!("{length:x}\n{BODY}\n0\n\n"))),
        (
            "bare LF after the data",
            chunks(format!("{length:x}\r\n{BODY}\n0\r\n\r\n")),
        ),
        ("0x", chunks(format!("0x{length:x}\r\n{BODY}\r\n0\r\n\r\n"))),
        (
            "signed",
            chunks(format!("+{length:x}\r\n{BODY}\r\n0\r\n\r\n")),
        ),
        ("negative", chunks("-1\r\n".to_owned())),
        (
            "too huge",
            chunks(format!("fffffffffffffffff\r\n{BODY}\r\n0\r\n\r\n")),
        ),
        (
            "size too small",
            chunks(format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", length - 4)),
        ),
        ("no size", chunks(format!("\r\n{BODY}\r\n0\r\n\r\n"))),
    ]
}

/// Over a proxy whose upstream is `url`: sends each odd request between two good ones. Answers how
/// many requests were answered with 200.
async fn attack(rig: &Rig, key: &str) -> u64 {
    let mut served = 0;
    let odd = ambiguous(key)
        .into_iter()
        .chain(malformed_chunks().into_iter().map(|(name, chunks)| {
            let head =
                format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n");
            (
                name,
                format!("{head}transfer-encoding: chunked\r\n\r\n{chunks}"),
            )
        }));
    for (turn, (name, text)) in odd.enumerate() {
        let mut wire = rig.wire().await;
        wire.send(text).await;
        let answer = wire.answer().await;
        // RFC 9112 section 6.3: chunked may win over a length, if the connection then ends.
        let both = name.contains("CL");
        let refused = matches!(answer.status, 400 | 405);
        assert!(
            refused || both,
            "{name}: {} {}",
            answer.status,
            answer.text()
        );
        served += u64::from(answer.status == 200);
        assert!(
            wire.is_closed(PATIENCE).await,
            "{name}: the connection stays open"
        );
        // A good one over the pooled connection gets its own answer.
        let tokens = turn % 7 + 3;
        let wish = format!("tokens={tokens}");
        let good = rig.post_fake(CHAT, key, &chat("gpt-4o"), &wish).await;
        assert_eq!(good.status(), 200, "after {name}");
        let good: Value = good.json().await.unwrap();
        assert_eq!(good["usage"]["completion_tokens"], tokens, "after {name}");
        served += 1;
    }
    served
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused() {
    let rig = Rig::start().await;
    let key = rig.admin().key(0).await.secret;
    let served = attack(&rig, &key).await;
    let ledger = rig.fake().ledger().await;
    assert_eq!(
        ledger.requests, served,
        "one upstream request for each that was served"
    );
    assert!(
        ledger.records.iter().all(|record| record.path == CHAT),
        "{ledger:?}"
    );
}

/// A request that is shorter than HTTP/2's preface is no part of one: haproxy's check is such.
pub const SHORT: [&str; 4] = [
    "GET / HTTP/1.0\r\n\r\n",
    "OPTIONS / HTTP/1.0\r\n\r\n",
    "P / HTTP/1.0\r\n\r\n",
    "PRI / HTTP/1.0\r\n\r\n",
];

#[tokio::test]
async fn a_short_request_is_answered_at_once() {
    let rig = Rig::start().await;
    let begun = Instant::now();
    for text in SHORT {
        let mut wire = rig.wire().await;
        wire.send(text).await;
        let status = wire.answer().await.status;
        assert!((200..500).contains(&status), "{status} to {text}");
    }
    // A head has half a minute.
    assert!(begun.elapsed() < Duration::from_secs(15));
    rig.end().await;
}

/// What is sound but odd is served, once, and read the same way by all.
#[tokio::test]
async fn odd_but_sound_requests_are_served_once() {
    let rig = Rig::start().await;
    let key = rig.admin().key(0).await.secret;
    let length = BODY.len();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n");
    let sound = [
        format!(
            "{head}transfer-encoding: Chunked\r\n\r\n{length:X};name=value\r\n{BODY}\r\n0\r\n\r\n"
        ),
        format!(
            "{head}transfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n{length:x}\r\n{BODY}\r\n0\r\nx-t: 1\r\n\r\n"
        ),
        format!("{head}content-length: 000{length}\r\n\r\n{BODY}"),
        format!("{head}content-length: {length}\r\nx-te: chunked\r\nte: trailers\r\n\r\n{BODY}"),
        format!(
            "{head}content-length: {length}\r\nconnection: x-other, keep-alive\r\nx-other: 1\r\n\r\n{BODY}"
        ),
    ];
    for (turn, text) in sound.iter().enumerate() {
        let mut wire = rig.wire().await;
        wire.send(text).await;
        assert_eq!(wire.answer().await.status, 200, "{text}");
        let seen = rig.fake().last_ended(turn as u64 + 1).await;
        assert_eq!(seen.body_sha256, Some(sha256(BODY.as_bytes())), "{text}");
        for name in ["transfer-encoding", "trailer", "te", "x-other"] {
            assert!(
                !seen.header_names.iter().any(|n| n == name),
                "{name} of {text}"
            );
        }
        assert_eq!(seen.headers["content-length"], length.to_string());
    }
}

/// Bytes behind a body are the next request on that connection, judged on its own.
#[tokio::test]
async fn bytes_behind_a_body_are_a_request_of_their_own() {
    let rig = Rig::start().await;
    let key = rig.admin().key(0).await.secret;
    let length = BODY.len();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n");
    for text in [
        format!("{head}content-length: {length}\r\n\r\n{BODY}{HIDDEN}"),
        format!(
            "{head}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{BODY}\r\n0\r\n\r\n{HIDDEN}"
        ),
    ] {
        let mut wire = rig.wire().await;
        wire.send(text).await;
        assert_eq!(wire.answer().await.status, 200);
        // The connection may end behind the first; then the second was never read.
        if wire.read_some(1).await > 0 {
            assert_eq!(wire.answer().await.status, 401, "it has no key");
        }
    }
    let ledger = rig.fake().ledger().await;
    assert_eq!(ledger.requests, 2);
    assert!(ledger.records.iter().all(|record| record.path == CHAT));
}

/// Uploads without a length go up chunked; HTTP/2 ends them with an empty frame. The connection they
/// leave behind must serve the next request (pingora#935): the server at `url` reads as many requests
/// as were sent, and nothing else. `behind`: who has the bodies.
async fn uploads_leave_the_connection_clean(
    url: &str,
    behind: Option<&Fake>,
    lines: impl Fn() -> Vec<String>,
) {
    let rig = Rig::builder()
        .set(
            "pools.2.peers",
            json!([{"url": url, "credential": CREDENTIAL}]),
        )
        .start()
        .await;
    let key = rig.admin().key(0).await.secret;
    let h2 = rig.h2();
    let mut sent = 0;
    for (size, empty_frames) in [(0, 0), (0, 2), (1, 0), (1, 2), (70_000, 0), (70_000, 2)] {
        let body: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let mut pieces = vec![Bytes::new(); empty_frames];
        pieces.extend(body.chunks(9_000).map(Bytes::copy_from_slice));
        pieces.extend(vec![Bytes::new(); empty_frames]);
        let pieces = stream::iter(pieces.into_iter().map(Ok::<_, String>));
        let request = h2
            .post(format!("{}/_fake/echo", rig.url()))
            .bearer_auth(&key);
        let request = request.header("content-type", "audio/wav");
        let answer = request
            .body(reqwest::Body::wrap_stream(pieces))
            .send()
            .await;
        assert_eq!(answer.unwrap().status(), 200, "{size} {empty_frames}");
        sent += 1;
        if let Some(fake) = behind {
            let seen = fake.last_ended(sent).await;
            let expected = Some(sha256(&body));
            assert_eq!(seen.body_sha256, expected, "{size} {empty_frames}");
        }
        let answer = rig.post(CHAT, &key, &chat("gpt-4o")).await;
        assert_eq!(answer.status(), 200, "after {size} {empty_frames}");
        sent += 1;
    }
    let lines = eventually(PATIENCE, || async {
        that(lines(), |lines| lines.len() as u64 >= sent)
    })
    .await;
    assert_eq!(lines.len() as u64, sent, "{lines:?}");
    let is_good = |line: &String| line.starts_with("200 POST ");
    assert!(lines.iter().all(is_good), "{lines:?}");
}

#[tokio::test]
async fn http2_uploads_leave_nginxs_connection_clean() {
    let fake = Fake::start(strict_fake());
    let nginx = Nginx::start(&fake.url()).await;
    uploads_leave_the_connection_clean(&nginx.url, Some(&fake), || nginx.lines()).await;
}

#[tokio::test]
async fn http2_uploads_leave_haproxys_connection_clean() {
    let fake = Fake::start(strict_fake());
    let haproxy = Reader::haproxy(&fake.url()).await;
    uploads_leave_the_connection_clean(&haproxy.url, Some(&fake), || haproxy.requests()).await;
}

#[tokio::test]
async fn http2_uploads_leave_h11s_connection_clean() {
    let h11 = Reader::h11().await;
    uploads_leave_the_connection_clean(&h11.url, None, || h11.requests()).await;
}

#[tokio::test]
async fn http2_uploads_leave_nodes_connection_clean() {
    let node = Reader::node().await;
    uploads_leave_the_connection_clean(&node.url, None, || node.requests()).await;
}

/// Attacks through a proxy before the server at `url`, which read as many good requests as were
/// answered, and nothing else.
async fn reads_as_we_do(url: &str, lines: impl Fn() -> Vec<String>) {
    let rig = Rig::builder()
        .set(
            "pools.2.peers",
            json!([{"url": url, "credential": CREDENTIAL}]),
        )
        .start()
        .await;
    let key = rig.admin().key(0).await.secret;
    let served = attack(&rig, &key).await;
    let read = eventually(PATIENCE, || async {
        that(lines(), |lines| lines.len() as u64 >= served)
    })
    .await;
    assert_eq!(read.len() as u64, served, "{read:?}");
    let expected = format!("200 POST {CHAT}");
    assert!(read.iter().all(|line| *line == expected), "{read:?}");
}

#[tokio::test]
async fn nginx_reads_what_we_forward_as_we_do() {
    let fake = Fake::start(strict_fake());
    let nginx = Nginx::start(&fake.url()).await;
    reads_as_we_do(&nginx.url, || nginx.lines()).await;
}

#[tokio::test]
async fn haproxy_reads_what_we_forward_as_we_do() {
    let fake = Fake::start(strict_fake());
    let haproxy = Reader::haproxy(&fake.url()).await;
    reads_as_we_do(&haproxy.url, || haproxy.requests()).await;
}

#[tokio::test]
async fn h11_reads_what_we_forward_as_we_do() {
    let h11 = Reader::h11().await;
    reads_as_we_do(&h11.url, || h11.requests()).await;
}

#[tokio::test]
async fn node_reads_what_we_forward_as_we_do() {
    let node = Reader::node().await;
    reads_as_we_do(&node.url, || node.requests()).await;
}
