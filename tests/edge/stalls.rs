//! Bodies that come fast and then no more: what was fast does not pay for the stall, one key's bodies do
//! not take all the room that there is for bodies, and another key is served meanwhile.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::rig::{CHAT, Rig, chat};
use crate::support::wait::{PATIENCE, eventually, that};

const MIB: usize = 1 << 20;
const UPLOADS: &str = "/v1/audio/transcriptions";
const FORM: &str = "multipart/form-data; boundary=X";
const FORM_HEAD: &str = "--X\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n\
                         --X\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";

/// Where a body goes, its type, and how it begins.
type Target = (&'static str, &'static str, &'static str);

const HELD: Target = (CHAT, "application/json", "{\"a\":\"");
const STREAMED: Target = (UPLOADS, FORM, FORM_HEAD);

/// Nearly a whole body.
fn nearly(target: Target) -> Vec<u8> {
    let mut body = target.2.as_bytes().to_vec();
    body.resize(MIB - 100, b'x');
    body
}

/// Sends nearly a whole body at once over HTTP/1.1, and the rest byte by byte; what it was told.
async fn drips(rig: &Rig, key: &str, (path, kind, begin): Target, length: usize) -> String {
    let mut stream = TcpStream::connect(rig.edge()).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: edge.test\r\nauthorization: Bearer {key}\r\n\
         content-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let body = nearly((path, kind, begin));
    stream.write_all(&body).await.unwrap();
    let (mut read, mut write) = stream.split();
    let (mut told, mut left) = (Vec::new(), length - body.len());
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            come = read.read_buf(&mut told) => match come {
                Ok(0) | Err(_) => return String::from_utf8_lossy(&told).into_owned(),
                Ok(_) => {}
            },
            _ = ticks.tick(), if left > 0 => {
                left -= 1;
                write.write_all(b"x").await.unwrap_or_default();
            }
        }
    }
}

/// The same over HTTP/2, where nothing comes after it.
async fn stalls(rig: &Rig, key: &str, target: Target) -> String {
    let pieces: Vec<_> = nearly(target).chunks(16_384).map(<[u8]>::to_vec).collect();
    let pieces = stream::iter(pieces.into_iter().map(Ok::<_, String>)).chain(stream::pending());
    let request = rig.h2().post(format!("{}{}", rig.url(), target.0));
    let request = request.bearer_auth(key).header("content-type", target.1);
    let answer = request.body(reqwest::Body::wrap_stream(pieces)).send();
    let answer = answer.await.unwrap();
    format!(
        "HTTP/1.1 {} {}",
        answer.status(),
        answer.text().await.unwrap()
    )
}

/// What it was told in the end: the key's other requests may have its place for a moment.
async fn until_held(send: impl AsyncFn() -> String) -> String {
    loop {
        let told = send().await;
        if !told.starts_with("HTTP/1.1 503") {
            return told;
        }
    }
}

/// A chat whose body is nearly as large as bodies may be.
fn large_chat() -> Value {
    let mut body = chat("gpt-4o");
    body["padding"] = json!("x".repeat(MIB - 1_000));
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_bodies_of_one_key_end_in_time_and_leave_room_for_others() {
    let time = Duration::from_secs(20);
    let rig = Rig::builder()
        .set("edge.body_timeout", json!(format!("{}s", time.as_secs())))
        .set("edge.max_request_body", json!("1MiB"))
        // A quarter of it is four bodies.
        .set("edge.max_buffered", json!("16MiB"))
        .start()
        .await;
    let (hog, other) = (rig.admin().key(0).await, rig.admin().key(0).await);
    let begun = Instant::now();
    let stalled = async {
        let held = async {
            let http1 = || until_held(async || drips(&rig, &hog.secret, HELD, MIB).await);
            let http2 = || until_held(async || stalls(&rig, &hog.secret, HELD).await);
            let (a, b, c, d) = tokio::join!(http1(), http2(), http1(), http2());
            vec![a, b, c, d]
        };
        let streamed = async {
            let http1 = drips(&rig, &hog.secret, STREAMED, 4 * MIB);
            let http2 = stalls(&rig, &hog.secret, STREAMED);
            let (a, b) = tokio::join!(http1, http2);
            vec![a, b]
        };
        let (held, streamed) = tokio::join!(held, streamed);
        [held, streamed].concat()
    };
    let meanwhile = async {
        let refused = eventually(PATIENCE, || async {
            let answer = rig.post(CHAT, &hog.secret, &large_chat()).await;
            that(answer, |answer| answer.status() == 503)
        })
        .await;
        assert!(refused.headers().contains_key("retry-after"));
        let refused = refused.text().await.unwrap();
        assert!(refused.contains("This API key"), "{refused}");
        let served = rig.post(CHAT, &other.secret, &large_chat()).await;
        assert_eq!(served.status(), 200);
        let soon = begun.elapsed();
        assert!(soon < time, "the bodies are no longer there after {soon:?}");
    };
    let (told, ()) = tokio::join!(stalled, meanwhile);
    let took = begun.elapsed();
    for words in told {
        let is_told = words.starts_with("HTTP/1.1 400") && words.contains("too slowly");
        assert!(is_told, "{words}");
    }
    assert!(took >= time && took < time + PATIENCE, "{took:?}");
    // What they held is free again.
    eventually(PATIENCE, || async {
        let answer = rig.post(CHAT, &hog.secret, &large_chat()).await;
        that(answer.status(), |status| *status == 200)
    })
    .await;
    rig.end().await;
}

/// Who sends steadily has time for as long as it goes.
#[tokio::test]
async fn a_slow_but_steady_body_is_taken_whole() {
    let rig = Rig::builder()
        .set("edge.body_timeout", json!("2s"))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    let body = format!("{{\"padding\":\"{}\",", "x".repeat(256 * 1024));
    let body = body + chat("gpt-4o").to_string().trim_start_matches('{');
    let pieces: Vec<_> = body
        .as_bytes()
        .chunks(32 * 1024)
        .map(<[u8]>::to_vec)
        .collect();
    let pieces = stream::iter(pieces).then(|piece| async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        Ok::<_, String>(piece)
    });
    let begun = Instant::now();
    let request = rig.request(reqwest::Method::POST, CHAT, &key.secret);
    let request = request.header("content-type", "application/json");
    let answer = request.body(reqwest::Body::wrap_stream(pieces)).send();
    assert_eq!(answer.await.unwrap().status(), 200);
    assert!(begun.elapsed() > Duration::from_secs(3));
    rig.end().await;
}
