//! RELIABILITY 1: kill -9 at random instants under load. After each restart the books agree, nothing is
//! held, no request is booked twice, and whatever a client received is counted.
#![expect(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::admin::Key;
use crate::support::books::Books;
use crate::support::chance::Chance;
use crate::support::rig::{CHAT, Rig, chat};
use crate::support::wait::{PATIENCE, eventually};

const CLIENTS: u64 = 12;
/// Requests that the narrow key bears, over all cycles.
const NARROW: u64 = 150;

/// What clients saw: by their name the tokens they received.
#[derive(Debug, Default)]
struct Seen {
    tokens: Mutex<BTreeMap<String, u64>>,
    passed_narrow: Mutex<u64>,
}

/// Where a client calls, and until when.
#[derive(Clone)]
struct Target {
    url: String,
    http: reqwest::Client,
    wide: Key,
    narrow: Key,
    seen: Arc<Seen>,
    over: Arc<AtomicBool>,
}

impl Target {
    /// Calls until the proxy dies. Every request has a name of its own, which its event will carry.
    async fn call(self, cycle: u64, client: u64, mut chance: Chance) {
        for turn in 0.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let name = format!("{cycle}-{client}-{turn}");
            let is_narrow = client == 0;
            let stream = chance.below(2) == 0;
            let tokens = 1 + chance.below(80);
            let mut body = chat("gpt-4o");
            body["user"] = json!(name);
            body["stream"] = json!(stream);
            body["max_tokens"] = json!(100);
            let key = if is_narrow { &self.narrow } else { &self.wide };
            let request = self.http.post(&self.url).bearer_auth(&key.secret);
            let request = request.header("x-fake", format!("tokens={tokens},interval=1ms"));
            let Ok(answer) = request.json(&body).send().await else {
                continue;
            };
            if answer.status() != 200 {
                assert!(is_narrow && answer.status() == 429, "{:?}", answer.status());
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            *self.seen.passed_narrow.lock().unwrap() += u64::from(is_narrow);
            self.receive(answer, name, stream).await;
        }
    }

    async fn receive(&self, mut answer: reqwest::Response, name: String, stream: bool) {
        let mut text = String::new();
        while let Ok(Some(chunk)) = answer.chunk().await {
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
        let tokens = if stream {
            text.matches(r#""delta":{"content":""#).count() as u64 - u64::from(!text.is_empty())
        } else {
            let whole: Result<Value, _> = serde_json::from_str(&text);
            whole.map_or(0, |whole| whole["usage"]["total_tokens"].as_u64().unwrap())
        };
        self.seen.tokens.lock().unwrap().insert(name, tokens);
    }
}

/// Loads the proxy and kills it at a random instant.
async fn cycle(rig: &mut Rig, cycle: u64, chance: &mut Chance, keys: &[Key; 2], seen: &Arc<Seen>) {
    let target = Target {
        url: format!("{}{CHAT}", rig.url()),
        http: reqwest::Client::builder().no_proxy().build().unwrap(),
        wide: keys[0].clone(),
        narrow: keys[1].clone(),
        seen: Arc::clone(seen),
        over: Arc::new(AtomicBool::new(false)),
    };
    let mut load = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        load.spawn(target.clone().call(cycle, client, chance.fork()));
    }
    tokio::time::sleep(Duration::from_millis(20 + chance.below(250))).await;
    rig.kill9();
    target.over.store(true, Ordering::Relaxed);
    while let Some(ended) = load.join_next().await {
        ended.unwrap();
    }
}

/// The first good answer after a restart.
async fn serves(rig: &Rig, key: &Key, since: Instant) {
    let mut body = chat("gpt-4o");
    body["user"] = json!("after");
    eventually(PATIENCE, || async {
        let answer = rig.post_fake(CHAT, &key.secret, &body, "tokens=1").await;
        let status = answer.status();
        answer.bytes().await.unwrap();
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    println!("served {:?} after the restart began", since.elapsed());
    if std::env::var_os("QUOTA_PROXY_SOAK").is_some() {
        assert!(since.elapsed() < Duration::from_secs(1));
    }
}

/// Every answer that a client has seen is booked once, with at least what it received.
fn assert_counted(books: &Books, seen: &Seen) {
    books.assert_balanced();
    let twice = "SELECT end_user FROM usage_events WHERE end_user != 'after' AND requests > 0
                 GROUP BY end_user HAVING count(*) > 1";
    assert_eq!(books.rows(twice), Vec::<Value>::new());
    let events = books.rows("SELECT end_user, total_tokens, reason, estimated FROM usage_events");
    let booked: BTreeMap<&str, &Value> = events
        .iter()
        .filter_map(|event| Some((event["end_user"].as_str()?, event)))
        .collect();
    for (name, tokens) in seen.tokens.lock().unwrap().iter() {
        let event = booked.get(name.as_str());
        let event = event.unwrap_or_else(|| panic!("{name} received {tokens}: not in the books"));
        let charged = event["total_tokens"].as_u64().unwrap();
        assert!(charged >= *tokens, "{name} received {tokens}: {event}");
    }
    let lost = events
        .iter()
        .filter(|event| event["reason"] == "edge_died")
        .count();
    println!(
        "{} events, {lost} of them of exchanges that a kill cut",
        events.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_instant_the_books_hold_what_clients_received() {
    let cycles = if std::env::var_os("QUOTA_PROXY_SOAK").is_some() {
        100
    } else {
        12
    };
    let mut chance = Chance::from_env();
    let mut rig = Rig::start().await;
    let wide = rig.admin().key(1_000_000_000).await;
    let narrow = json!({"name": "narrow", "token_limit": 0, "request_limit": NARROW,
                        "rate_limit_tier": "unlimited"});
    let keys = [wide, rig.admin().create(narrow).await];
    let seen = Arc::new(Seen::default());
    for at in 0..cycles {
        cycle(&mut rig, at, &mut chance, &keys, &seen).await;
        assert!(rig.books().are_whole());
        let since = Instant::now();
        rig.restart().await;
        serves(&rig, &keys[0], since).await;
        rig.admin().settled().await;
        let used = rig.admin().show(&keys[1]).await["request_used"]
            .as_u64()
            .unwrap();
        assert!(
            used <= NARROW && used >= *seen.passed_narrow.lock().unwrap(),
            "{used}"
        );
    }
    assert!(!rig.process().output().contains("panicked"));
    assert!(rig.term().await.success());
    assert_counted(&rig.books(), &seen);
}

#[tokio::test]
async fn what_a_dead_edge_held_is_released_where_the_operator_chose_so() {
    for (policy, is_charged) in [("charge", true), ("release", false)] {
        let mut rig = Rig::builder()
            .set("quota.lost_reservation", json!(policy))
            .start()
            .await;
        let key = rig.admin().key(10_000).await;
        let mut body = chat("gpt-4o");
        body["max_tokens"] = json!(500);
        let request = rig.request(reqwest::Method::POST, CHAT, &key.secret);
        let running = tokio::spawn(request.header("x-fake", "latency=60s").json(&body).send());
        rig.fake().ledger_when(|ledger| ledger.requests == 1).await;
        rig.kill9();
        assert!(running.await.unwrap().is_err());
        let held = rig.books().number("SELECT sum(tokens) FROM reservations");
        assert!((500..530).contains(&held), "{held}");
        rig.restart().await;
        rig.admin().settled().await;
        let shown = rig.admin().show(&key).await;
        let used = shown["token_used"].as_i64().unwrap();
        assert_eq!(used > 0, is_charged, "{policy}: {used}");
        assert!(used == 0 || used == held, "{policy}: {used}");
        assert_eq!(shown["token_remaining"].as_i64(), Some(10_000 - used));
        assert!(rig.term().await.success());
        rig.books().assert_balanced();
    }
}
