//! RELIABILITY 9 and 10: a Redis that says nothing, and one that forgets its scripts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::support::admin::Key;
use super::support::fault_proxy::FaultProxy;
use super::support::fleet::{CHAT, Fleet};
use super::support::load::Load;
use super::support::redis_server::RedisServer;
use super::support::rig::chat_stream;

/// The deadline of a step is a second; the rest is for a busy machine.
const ENDED_WITHIN: Duration = Duration::from_secs(10);

/// While Redis is silent, a stream ends and others ask to be admitted.
async fn through_silence(fleet: &Fleet, key: &Key, hush: impl Fn(), wake: impl Fn()) {
    for at in [0, 1] {
        fleet.serves(at, key).await;
    }
    let before = fleet.ledger().await.requests;
    let mut body = chat_stream("gpt-4o");
    body["max_tokens"] = json!(100);
    let request = fleet.edge(0).request(Method::POST, CHAT, &key.secret);
    let request = request.header("x-fake", "tokens=10,interval=100ms");
    let sent = request.json(&body).send();
    let stream = tokio::spawn(async move { sent.await.unwrap().text().await.unwrap() });
    let begun = |l: &super::support::fake::Ledger| l.requests == before + 1;
    fleet.fake().ledger_when(begun).await;
    hush();
    let calls = (0..20).map(|n| async move {
        let start = Instant::now();
        let answer = fleet.chat(n % 2, &key.secret, "tokens=1").await;
        let status = answer.status();
        let body: Value = answer.json().await.unwrap();
        assert_eq!(status, 503, "{n}: {body}");
        assert_eq!(body["error"]["code"], "store_unavailable", "{body}");
        start.elapsed()
    });
    let slowest = join_all(calls).await.into_iter().max().unwrap();
    println!("refused within {slowest:?}");
    assert!(slowest < ENDED_WITHIN, "{slowest:?}");
    let text = stream.await.unwrap();
    assert!(text.trim_end().ends_with("[DONE]"), "{text}");
    assert_eq!(fleet.ledger().await.requests, before + 1);
    wake();
    for at in [0, 1] {
        fleet.serves(at, key).await;
    }
    fleet.assert_balanced(&[key]).await;
    // Each answer has one event; the refused have none that charges.
    let events = fleet.events(1, key).await;
    let charged = events.iter().filter(|e| e["total_tokens"] != 0).count();
    assert_eq!(charged as u64, fleet.ledger().await.requests);
    fleet.assert_never_said(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_hangs_holds_nobody_up_and_charges_nobody_twice() {
    let redis = RedisServer::start();
    let building = Fleet::on(&redis.url()).set("store.redis.timeout", json!("1s"));
    let fleet = building.start(2).await;
    let key = fleet.admin(0).key(1_000_000).await;
    through_silence(&fleet, &key, || redis.pause(), || redis.resume()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_hold_nobody_up_and_charge_nobody_twice() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.address());
    let building = Fleet::on(&redis.url_at(proxy.addr()));
    let building = building.set("store.redis.timeout", json!("1s"));
    let fleet = building.start(2).await;
    let key = fleet.admin(0).key(1_000_000).await;
    through_silence(&fleet, &key, || proxy.black_hole(), || proxy.pass()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_scripts_are_no_clients_business() {
    let redis = Arc::new(RedisServer::start());
    let fleet = Fleet::on(&redis.url()).start(2).await;
    let key = fleet.admin(0).key(100_000_000).await;
    let over = Arc::new(AtomicBool::new(false));
    let flushing = std::thread::spawn({
        let (redis, over) = (Arc::clone(&redis), Arc::clone(&over));
        move || {
            let mut flushes = 0;
            while !over.load(Relaxed) {
                redis.command(&["SCRIPT", "FLUSH"]);
                flushes += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            flushes
        }
    });
    let load = Load::start(&fleet, &key, 8);
    load.serves(300).await;
    let statuses = load.end().await;
    over.store(true, Relaxed);
    let flushes = flushing.join().unwrap();
    println!("{statuses:?} through {flushes} flushes");
    assert_eq!(statuses.keys().collect::<Vec<_>>(), [&200]);
    fleet.assert_balanced(&[&key]).await;
    // Scripts were sent anew, so they had been forgotten.
    assert!(redis.info("cmdstat_eval").is_some());
}
