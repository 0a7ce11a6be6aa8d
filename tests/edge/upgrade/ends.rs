//! The end of a process whose predecessor still ends, or that is told twice.
#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::time::{Duration, Instant};

use reqwest::{Method, Response};
use tokio::net::TcpStream;

use super::*;
use crate::support::rig::chat_stream;
use crate::support::wait::that;

/// Longer than all of a test but a grace period of a minute.
const SOON: Duration = Duration::from_secs(50);

fn builder() -> Builder {
    Rig::builder().set("server.grace_period_seconds", json!(60))
}

async fn stream(rig: &Rig, key: &Key, tokens: u32) -> Response {
    let request = rig.request(Method::POST, CHAT, &key.secret);
    let request = request.header("x-fake", format!("tokens={tokens},interval=20ms"));
    let answer = request.json(&chat_stream("gpt-4o")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer
}

/// Where only a queue is left a connection is neither refused nor served.
async fn refuses_connections(rig: &Rig) {
    let edge = rig.edge();
    eventually(PATIENCE, || async {
        let connected = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(edge));
        let refused = matches!(connected.await, Ok(Err(_)));
        that(refused, |refused| *refused)
    })
    .await;
}

/// Both have ended, and what ran is booked.
async fn ended_well(succession: &mut Succession, events: i64) {
    gone(succession.pid()).await;
    let first = succession.rig.process_mut().exited(PATIENCE).await;
    let said = succession.rig.process().output();
    assert!(first.success(), "{first} {said}");
    assert!(
        !said.contains("panicked") && !said.contains(" ERROR "),
        "{said}"
    );
    let books = succession.rig.books();
    books.assert_balanced();
    assert_eq!(books.number("SELECT count(*) FROM usage_events"), events);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_ends_the_new_process_cuts_no_stream_of_the_old_one() {
    let mut succession = Succession::start(builder()).await;
    let key = succession.rig.admin().key(0).await;
    let first = stream(&succession.rig, &key, 200).await;
    succession.upgrade().await;
    let second = stream(&succession.rig, &key, 150).await;
    succession.upgrade().await;
    let since = Instant::now();
    signal(succession.pid(), "TERM");
    refuses_connections(&succession.rig).await;
    for answer in [first, second] {
        let text = answer.text().await.unwrap();
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    }
    ended_well(&mut succession, 2).await;
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    let books = succession.rig.books();
    assert_eq!(
        books.number("SELECT sum(completion_tokens) FROM usage_events WHERE NOT estimated"),
        350
    );
}

/// A service manager sends it to every process of the service, which is no second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_ends_both_processes_cuts_no_stream_either() {
    let mut succession = Succession::start(builder()).await;
    let key = succession.rig.admin().key(0).await;
    let answer = stream(&succession.rig, &key, 150).await;
    succession.upgrade().await;
    for pid in [succession.pid(), succession.rig.process().pid()] {
        signal(pid, "TERM");
    }
    let text = answer.text().await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    ended_well(&mut succession, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_twice_both_processes_end_at_once_and_settle_what_they_cut() {
    for last in ["TERM", "INT"] {
        let mut succession = Succession::start(builder()).await;
        let key = succession.rig.admin().key(0).await;
        let _first = stream(&succession.rig, &key, 6000).await;
        succession.upgrade().await;
        let _second = stream(&succession.rig, &key, 6000).await;
        let since = Instant::now();
        signal(succession.pid(), "TERM");
        refuses_connections(&succession.rig).await;
        signal(succession.pid(), last);
        ended_well(&mut succession, 2).await;
        assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_are_heard_in_the_grace_period() {
    let mut rig = builder()
        .set("log.access", json!("access.jsonl"))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    let answer = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
    answer.bytes().await.unwrap();
    let _running = stream(&rig, &key, 6000).await;
    let ends = stream(&rig, &key, 100).await;
    let log = rig.folder().join("access.jsonl");
    eventually(PATIENCE, || async {
        let text = std::fs::read_to_string(&log).unwrap();
        that(text, |text| !text.is_empty())
    })
    .await;
    let since = Instant::now();
    rig.process().signal("TERM");
    refuses_connections(&rig).await;
    std::fs::rename(&log, rig.folder().join("access.jsonl.1")).unwrap();
    rig.process().signal("USR2");
    eventually(PATIENCE, || async { that(log.exists(), |exists| *exists) }).await;
    ends.text().await.unwrap();
    eventually(PATIENCE, || async {
        let text = std::fs::read_to_string(&log).unwrap();
        that(text, |text| text.lines().count() == 1)
    })
    .await;
    rig.process().signal("HUP");
    eventually(PATIENCE, || async {
        that(rig.process().output(), |said| {
            said.contains("SIGHUP changes nothing any more")
        })
    })
    .await;
    rig.process().signal("TERM");
    let status = rig.process_mut().exited(PATIENCE).await;
    assert!(status.success(), "{status} {}", rig.process().output());
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    let books = rig.books();
    books.assert_balanced();
    assert_eq!(books.number("SELECT count(*) FROM usage_events"), 3);
}

/// It was told while the new one had the books: it does not say Go any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_to_end_gives_its_place_to_nobody() {
    let mut succession = Succession::start(builder()).await;
    let key = succession.rig.admin().key(0).await;
    succession.serves(&key).await;
    let act = format!("term:{}", succession.pid());
    let binary = halves::new(succession.rig.folder(), &succession.socket(), "yours", &act);
    let said = succession.ask(&["--binary", &binary]).await;
    assert!(!said.status.success(), "{said:?}");
    let status = succession.rig.process_mut().exited(PATIENCE).await;
    let said = succession.rig.process().output();
    assert!(status.success(), "{status} {said}");
    assert!(
        said.contains("serves on: this process was told to end"),
        "{said}"
    );
    succession.rig.books().assert_balanced();
}
