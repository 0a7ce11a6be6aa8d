//! RELIABILITY 17: the process ends. Within the grace period no stream is cut; what is cut after it is
//! settled first; nobody waits for a grace period that nothing needs.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpStream;

mod support;

use support::admin::Key;
use support::h2_wire::{DATA, END_STREAM, GOAWAY, H2Wire, HEADERS, head};
use support::process::Process;
use support::rig::{CHAT, Rig, chat, chat_stream};
use support::wait::{PATIENCE, eventually};

async fn rig(grace_s: u64) -> (Rig, Key) {
    let rig = Rig::builder()
        .set("server.grace_period_seconds", json!(grace_s))
        .start()
        .await;
    let key = rig.admin().key(1_000_000_000).await;
    (rig, key)
}

/// What a client has of its stream.
#[derive(Debug)]
struct Received {
    client: String,
    text: String,
    /// It was not cut.
    whole: bool,
}

type Streams = tokio::task::JoinSet<Received>;

/// Streams that have begun; each task ends with its stream.
async fn streams(rig: &Rig, key: &Key, count: usize, wish: &str) -> Streams {
    let (begun, mut have_begun) = tokio::sync::mpsc::channel(count);
    let mut streams = Streams::new();
    let h2 = rig.h2();
    for n in 0..count {
        let url = format!("{}{CHAT}", rig.url());
        // Every third one shares an HTTP/2 connection.
        let request = match n % 3 {
            0 => h2.post(url).bearer_auth(&key.secret),
            _ => rig.request(reqwest::Method::POST, CHAT, &key.secret),
        };
        let client = format!("client-{n}");
        let mut body = chat_stream("gpt-4o");
        body["user"] = json!(client);
        let request = request.header("x-fake", wish).json(&body);
        let begun = begun.clone();
        streams.spawn(async move {
            let mut answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 200);
            let mut text = answer.chunk().await.unwrap().unwrap().to_vec();
            begun.send(()).await.unwrap();
            let whole = loop {
                match answer.chunk().await {
                    Ok(Some(chunk)) => text.extend_from_slice(&chunk),
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
            let text = String::from_utf8_lossy(&text).into_owned();
            Received {
                client,
                text,
                whole,
            }
        });
    }
    for _ in 0..count {
        have_begun.recv().await.unwrap();
    }
    streams
}

/// Once the process has heard the signal nobody can connect any more.
async fn refuses_connections(process: &Process) {
    eventually(PATIENCE, || async {
        match TcpStream::connect(process.edge).await {
            Err(_) => Ok(()),
            Ok(_) => Err("still listening"),
        }
    })
    .await;
}

/// The end came well: exit code 0, no panic, and books without a hold in which the events add up.
async fn ended_well(rig: &mut Rig, events: i64) {
    let status = rig.process_mut().exited(PATIENCE).await;
    let said = rig.process().output();
    assert!(
        status.success() && !said.contains("panicked"),
        "{status}\n{said}"
    );
    let books = rig.books();
    books.assert_balanced();
    assert_eq!(
        books.number("SELECT count(*) FROM usage_events WHERE requests > 0"),
        events
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_is_cut_within_the_grace_period() {
    let (mut rig, key) = rig(60).await;
    let streams = streams(&rig, &key, 200, "tokens=80,interval=40ms").await;
    let since = Instant::now();
    rig.process().signal("TERM");
    refuses_connections(rig.process()).await;
    let received = streams.join_all().await;
    assert_eq!(received.len(), 200);
    for one in received {
        assert!(
            one.whole && one.text.ends_with("data: [DONE]\n\n"),
            "{one:?}"
        );
    }
    ended_well(&mut rig, 200).await;
    // It did not sleep its grace period out.
    assert!(
        since.elapsed() < Duration::from_secs(50),
        "{:?}",
        since.elapsed()
    );
    let exact = "SELECT count(*) FROM usage_events WHERE completion_tokens = 80 AND NOT estimated";
    assert_eq!(rig.books().number(exact), 200);
}

#[tokio::test]
async fn while_it_drains_health_says_so() {
    let (mut rig, key) = rig(60).await;
    let mut streams = streams(&rig, &key, 1, "tokens=150,interval=20ms").await;
    let url = format!("http://{}/healthz", rig.process().admin);
    let health = reqwest::Client::builder().no_proxy().build().unwrap();
    let healthy = health.get(&url).send().await.unwrap();
    assert_eq!(healthy.status(), 200);
    healthy.bytes().await.unwrap();
    rig.process().signal("TERM");
    eventually(PATIENCE, || async {
        let answer = health.get(&url).send().await;
        match answer {
            Ok(answer) if answer.status() == 503 => Ok(()),
            other => Err(other.map(|a| a.status())),
        }
    })
    .await;
    let last = streams.join_next().await.unwrap().unwrap();
    assert!(last.text.ends_with("[DONE]\n\n"), "{last:?}");
    ended_well(&mut rig, 1).await;
}

/// Nobody connects any more, but a connection that exists may ask: HTTP/2 lets it until it is told the
/// last stream that is served (RFC 9113 section 6.8).
#[tokio::test]
async fn while_it_drains_the_edge_port_says_so_to_those_who_are_there() {
    let (mut rig, key) = rig(60).await;
    let mut wire = H2Wire::connect(rig.edge()).await;
    assert!(wire.open(1, &head("GET", "/healthz"), true).await);
    assert_eq!(wire.answer(1).await.unwrap().0, 200);
    let bearer = format!("Bearer {}", key.secret);
    let mut chat = head("POST", CHAT);
    chat.push(("authorization", &bearer));
    chat.push(("x-fake", "tokens=100,interval=20ms"));
    assert!(wire.open(3, &chat, false).await);
    let body = chat_stream("gpt-4o").to_string();
    assert!(wire.send(DATA, END_STREAM, 3, body.as_bytes()).await);
    wire.frame_of(HEADERS, 3).await.unwrap();
    rig.process().signal("TERM");
    wire.frame_of(GOAWAY, 0).await.unwrap();
    assert!(wire.open(5, &head("GET", "/healthz"), true).await);
    let (status, said) = wire.answer(5).await.unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(
        status == 503 && said.contains("draining"),
        "{status} {said}"
    );
    let mut last = String::new();
    while !last.contains("[DONE]") {
        let piece = wire.frame_of(DATA, 3).await.unwrap();
        last.push_str(&String::from_utf8_lossy(&piece.payload));
    }
    ended_well(&mut rig, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_short_grace_period_cuts_is_settled_first() {
    let (mut rig, key) = rig(1).await;
    let streams = streams(&rig, &key, 50, "tokens=6000,interval=20ms").await;
    rig.process().signal("TERM");
    let received = streams.join_all().await;
    ended_well(&mut rig, 50).await;
    let books = rig.books();
    for one in received {
        assert!(!one.whole, "a stream of two minutes ended: {one:?}");
        let words = one.text.matches("\"content\":").count() as i64;
        let charged = format!(
            "SELECT completion_tokens FROM usage_events WHERE end_user = '{}' AND estimated
             AND reason IN ('dropped', 'client_gone')",
            one.client
        );
        let charged = books.number(&charged);
        // The first chunk may carry the role alone; the last may be on its way.
        assert!(
            (words - 4..=words + 4).contains(&charged),
            "{charged} for {one:?}"
        );
    }
}

#[tokio::test]
async fn an_interrupt_ends_at_once_and_settles_what_it_cuts() {
    let (mut rig, key) = rig(60).await;
    let streams = streams(&rig, &key, 20, "tokens=6000,interval=20ms").await;
    let since = Instant::now();
    rig.process().signal("INT");
    let received = streams.join_all().await;
    assert!(received.iter().all(|one| !one.whole), "{received:?}");
    ended_well(&mut rig, 20).await;
    assert!(
        since.elapsed() < Duration::from_secs(50),
        "{:?}",
        since.elapsed()
    );
}

#[tokio::test]
async fn an_idle_process_ends_at_once() {
    let (mut rig, key) = rig(60).await;
    // A connection that is kept alive is no reason to stay.
    let answer = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
    assert_eq!(answer.status(), 200);
    answer.bytes().await.unwrap();
    let since = Instant::now();
    rig.process().signal("TERM");
    ended_well(&mut rig, 1).await;
    assert!(
        since.elapsed() < Duration::from_secs(30),
        "{:?}",
        since.elapsed()
    );
}

#[tokio::test]
async fn a_signal_right_after_the_start_is_heard() {
    for signal in ["TERM", "INT", "TERM", "INT"] {
        let mut rig = Rig::start().await;
        rig.process().signal(signal);
        ended_well(&mut rig, 0).await;
    }
}
