//! RELIABILITY 19: clients that drip their heads or bodies, or stop reading. Each keeps its connection
//! busy so that no bound on a single read would end it; each is closed at the end of its time, and nobody
//! else notices.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::support::admin::Key;
use crate::support::h2_wire::{DATA, END_STREAM, H2Wire, RST_STREAM, WINDOW_UPDATE, head};
use crate::support::rig::{CHAT, CREDENTIAL, Rig, chat, chat_stream};
use crate::support::soak::soak;
use crate::support::upstream::{Manner, Upstream};
use crate::support::wait::{PATIENCE, eventually, that};

/// What a slow client is slow with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Slow {
    /// It connects, and that is all.
    Silent,
    /// Less than a head, byte by byte.
    Head,
    /// HTTP/2's preface, byte by byte.
    Preface,
    /// A body that is held whole before it is forwarded.
    Body,
    /// A body that is streamed.
    Upload,
    /// It asks for more than any buffer takes, and reads nothing of it.
    Reader,
}

const KINDS: [Slow; 6] = [
    Slow::Silent,
    Slow::Head,
    Slow::Preface,
    Slow::Body,
    Slow::Upload,
    Slow::Reader,
];

/// Far below any bound on one read. Of five thousand, what they cost is to be seen, and not what it costs
/// this machine to send so many bytes one by one.
fn drip() -> Duration {
    Duration::from_millis(if soak() > 1 { 1_000 } else { 200 })
}

const UPLOAD: &str = "--X\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n\
                      --X\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";

/// Slow clients, in turn of each kind.
fn count() -> usize {
    if soak() > 1 { 5_000 } else { 240 }
}

/// Of the slow clients so many are readers. What is buffered for each takes this machine a while to
/// produce, too.
fn readers() -> usize {
    (count() / KINDS.len()).min(100)
}

/// What it sends at once, before it becomes slow.
fn opening(kind: Slow, key: &str) -> String {
    let post = |path: &str, more: &str, length: usize, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: edge.test\r\nauthorization: Bearer {key}\r\n{more}\
             content-length: {length}\r\n\r\n{body}"
        )
    };
    match kind {
        Slow::Silent => String::new(),
        Slow::Head => "GET /v1/models HTTP/1.1\r\nhost: edge.test\r\nx-slow: ".to_owned(),
        Slow::Preface => "PRI ".to_owned(),
        Slow::Body => post(CHAT, "content-type: application/json\r\n", 10_000, "{"),
        Slow::Upload => {
            let kind = "content-type: multipart/form-data; boundary=X\r\n";
            post("/v1/audio/transcriptions", kind, 200_000, UPLOAD)
        }
        Slow::Reader => {
            let body = chat_stream("o-flood").to_string();
            post(CHAT, "", body.len(), &body)
        }
    }
}

/// A rig in which every request has this time, with a model that never ends its answer.
async fn rig(time: &str) -> Rig {
    let flood = Upstream::start(Manner::Flood).await;
    let flood = json!({"name": "flood", "dialect": "openai", "models": ["o-flood"],
                       "peers": [{"url": flood.url(), "credential": CREDENTIAL}]});
    let openai = json!({"name": "openai", "dialect": "openai", "models": ["gpt-*", "whisper-*"],
                        "peers": [{"url": "{fake0}", "credential": CREDENTIAL}]});
    Rig::builder()
        .set("edge.request_timeout", json!(time))
        .set("quota.on_overrun", json!("record"))
        .set("pools", json!([flood, openai]))
        .start()
        .await
}

/// One slow client, until the other side ends it; what it was told.
async fn visit(edge: SocketAddr, key: String, kind: Slow, over: Arc<AtomicBool>) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    if kind == Slow::Reader {
        socket.set_recv_buffer_size(4_096).unwrap();
    }
    let mut stream = socket.connect(edge).await.unwrap();
    stream
        .write_all(opening(kind, &key).as_bytes())
        .await
        .unwrap();
    if kind == Slow::Reader {
        while !over.load(Relaxed) {
            tokio::time::sleep(drip()).await;
        }
        return String::new();
    }
    let (mut read, mut write) = stream.split();
    let mut told = Vec::new();
    let mut ticks = tokio::time::interval(drip());
    loop {
        tokio::select! {
            come = read.read_buf(&mut told) => match come {
                Ok(0) | Err(_) => return String::from_utf8_lossy(&told).into_owned(),
                Ok(_) => {}
            },
            _ = ticks.tick(), if kind != Slow::Silent => {
                let byte = if kind == Slow::Preface { b"\n" } else { b"x" };
                // Whether it is closed, the read tells.
                write.write_all(byte).await.unwrap_or_default();
            }
        }
    }
}

/// When an exchange began, and how long it took.
type Took = (Instant, Duration);

/// Clients as one wishes them, until they are told to stop.
async fn good(rig: &Rig, key: &Key, clients: usize, over: &AtomicBool) -> Vec<Took> {
    let one = || async {
        let mut took = Vec::new();
        while !over.load(Relaxed) {
            let begun = Instant::now();
            let answer = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
            assert_eq!(answer.status(), 200);
            answer.bytes().await.unwrap();
            took.push((begun, begun.elapsed()));
        }
        took
    };
    let all = futures_util::future::join_all((0..clients).map(|_| one())).await;
    all.concat()
}

/// Of those that began in this span.
fn p99(took: &[Took], from: Instant, to: Instant) -> Duration {
    let within = took.iter().filter(|(begun, _)| (from..to).contains(begun));
    let mut took: Vec<Duration> = within.map(|(_, took)| *took).collect();
    took.sort_unstable();
    took[(took.len() * 99 / 100).min(took.len() - 1)]
}

/// The good clients' times, while nobody else is there.
async fn alone(rig: &Rig, key: &Key) -> Vec<Took> {
    let over = AtomicBool::new(false);
    let stop = async {
        tokio::time::sleep(Duration::from_secs(if soak() > 1 { 8 } else { 1 })).await;
        over.store(true, Relaxed);
    };
    tokio::join!(good(rig, key, 4, &over), stop).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_are_closed_in_time_and_nobody_else_notices() {
    let time = if soak() > 1 { 20 } else { 6 };
    let rig = rig(&format!("{time}s")).await;
    let key = rig.admin().key(1_000_000_000_000).await;
    let good_key = rig.admin().key(0).await;
    let before = alone(&rig, &good_key).await;
    let memory_before = rig.process().resident();
    rig.process().forget_peak();

    let (over, ended) = (Arc::new(AtomicBool::new(false)), AtomicBool::new(false));
    let mut visits = JoinSet::new();
    let begun = Instant::now();
    for n in 0..count() {
        let kind = match n.checked_sub(readers()) {
            None => Slow::Reader,
            Some(n) => KINDS[n % (KINDS.len() - 1)],
        };
        let visit = visit(rig.edge(), key.secret.clone(), kind, Arc::clone(&over));
        visits.spawn(async move {
            // Five thousand connections in one breath would be a test of `listen`'s queue.
            tokio::time::sleep(Duration::from_millis(n as u64)).await;
            (kind, visit.await)
        });
    }
    let slow = async {
        // Those who read nothing learn nothing: the books tell when they are over.
        eventually(2 * PATIENCE, || async {
            let shown = rig.admin().show(&key).await;
            that(shown, |shown| shown["request_count"] == readers())
        })
        .await;
        let most = rig.process().peak();
        over.store(true, Relaxed);
        let told = tokio::time::timeout(PATIENCE, visits.join_all()).await;
        ended.store(true, Relaxed);
        (told.expect("a slow client is still there"), most)
    };
    let (during, (told, memory)) = tokio::join!(good(&rig, &good_key, 4, &ended), slow);

    for (kind, words) in &told {
        let is_told = words.starts_with("HTTP/1.1 400") && words.contains("too slowly");
        let sends_a_body = matches!(kind, Slow::Body | Slow::Upload);
        assert_eq!(is_told, sends_a_body, "{kind:?} was told {words:?}");
    }
    let served = during.len();
    let before = p99(&before, before[0].0, begun);
    // When all are there and have filled their buffers, and before the first ones are closed.
    let within = |share| begun + Duration::from_secs(time).mul_f64(share);
    let during = p99(&during, within(0.5), within(0.95));
    let grown = memory.saturating_sub(memory_before) >> 20;
    println!(
        "{} slow clients: {served} served meanwhile, p99 {before:?} alone and {during:?} now, {grown} MiB more",
        told.len()
    );
    assert!(served > 20, "{served} served");
    // What Pingora and the kernel buffer of an answer, for each that does not read, and slack.
    assert!(grown < 64 + 2 * told.len() as u64 / 3, "{grown} MiB more");
    if soak() > 1 {
        assert!(during < 2 * before, "p99 {during:?}, and {before:?} alone");
    }
    the_books_say_so(rig, &key).await;
}

/// Only who did not read is charged; nothing stays held; no peer is blamed.
async fn the_books_say_so(rig: Rig, key: &Key) {
    rig.admin().settled().await;
    let pools = rig.admin().get("/admin/pools").await.to_string();
    assert!(!pools.contains("\"failures\":1"), "{pools}");
    let shown = rig.admin().show(key).await;
    assert_eq!(shown["request_count"], readers(), "{shown}");
    let books = rig.end().await;
    // Where so much is to be buffered, some may still be read from when their whole time is over.
    let charged = "SELECT count(*) FROM usage_events WHERE requests > 0
                   AND reason IN ('client_gone', 'upstream_broke')";
    assert_eq!(books.number(charged) as usize, readers());
}

/// Who stops reading has left, as far as the books go, over either version of HTTP.
#[tokio::test]
async fn a_client_that_stops_reading_is_charged_as_one_that_left() {
    let rig = rig("3s").await;
    let key = rig.admin().key(1_000_000_000).await;
    let mut first = TcpStream::connect(rig.edge()).await.unwrap();
    let asked = opening(Slow::Reader, &key.secret);
    first.write_all(asked.as_bytes()).await.unwrap();
    let mut second = H2Wire::connect(rig.edge()).await;
    let bearer = format!("Bearer {}", key.secret);
    let mut chat = head("POST", CHAT);
    chat.push(("authorization", &bearer));
    assert!(second.open(1, &chat, false).await);
    let body = chat_stream("o-flood").to_string();
    assert!(second.send(DATA, END_STREAM, 1, body.as_bytes()).await);
    for event in rig.admin().usage_logs_when(&key, 2).await {
        assert_eq!(event["reason"], "client_gone", "{event}");
        assert_eq!(event["client_disconnected"], true, "{event}");
        assert!(event["completion_tokens"].as_i64() > Some(1_000), "{event}");
    }
    // The stream alone is ended, the connection serves on.
    second.frame_of(RST_STREAM, 1).await.unwrap();
    let window = 60_000_u32.to_be_bytes();
    assert!(second.send(WINDOW_UPDATE, 0, 0, &window).await);
    assert!(second.open(3, &head("GET", "/healthz"), true).await);
    assert_eq!(second.answer(3).await.unwrap().0, 200);
    rig.end().await;
}

/// A body that comes slowly over HTTP/2, where no single connection can be closed for it.
#[tokio::test]
async fn a_slow_stream_is_ended_and_its_neighbours_stay() {
    let rig = Rig::builder()
        .set("edge.request_timeout", json!("3s"))
        .start()
        .await;
    let key = rig.admin().key(100_000).await;
    let h2 = rig.h2();
    for (path, kind, opening) in [
        (CHAT, "application/json", "{"),
        (
            "/v1/audio/transcriptions",
            "multipart/form-data; boundary=X",
            UPLOAD,
        ),
    ] {
        let pieces = futures_util::stream::unfold(0, move |n| async move {
            tokio::time::sleep(drip()).await;
            let piece = if n == 0 { opening } else { "x" };
            Some((Ok::<_, String>(piece), n + 1))
        });
        let request = h2
            .post(format!("{}{path}", rig.url()))
            .bearer_auth(&key.secret);
        let request = request.header("content-type", kind);
        let request = request.body(reqwest::Body::wrap_stream(pieces));
        let slow = tokio::spawn(request.send());
        let neighbour = h2.post(format!("{}{CHAT}", rig.url()));
        let neighbour = neighbour.bearer_auth(&key.secret).json(&chat("gpt-4o"));
        assert_eq!(neighbour.send().await.unwrap().status(), 200);
        let answer = slow.await.unwrap().unwrap();
        assert_eq!(answer.status(), 400, "{path}");
        assert!(answer.text().await.unwrap().contains("too slowly"));
    }
    let pools = rig.admin().get("/admin/pools").await.to_string();
    assert!(!pools.contains("\"failures\":1"), "{pools}");
    rig.end().await;
}

/// A kept connection has its time anew for each request, and none while it waits for one.
#[tokio::test]
async fn a_kept_connection_begins_anew_with_each_request() {
    let rig = Rig::builder()
        .set("edge.request_timeout", json!("2s"))
        .start()
        .await;
    let mut stream = TcpStream::connect(rig.edge()).await.unwrap();
    let ask = b"GET /healthz HTTP/1.1\r\nhost: edge.test\r\n\r\n";
    for _ in 0..3 {
        // Split, so that the second half comes within the head's time but not at once.
        stream.write_all(&ask[..10]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        stream.write_all(&ask[10..]).await.unwrap();
        let mut answer = vec![0; 4_096];
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }
}
