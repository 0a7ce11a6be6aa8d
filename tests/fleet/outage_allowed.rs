//! RELIABILITY 8, `on_unavailable: allow`: what is served without Redis is journalled, and in the books
//! once it is back.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use super::support::admin::Key;
use super::support::fleet::{CHAT, Fleet, healthy, sent, sum};
use super::support::redis_server::RedisServer;
use super::support::rig::chat;
use super::support::wait::{PATIENCE, eventually, that};

/// With `everysec`, Redis may answer up to two seconds before it writes: these a kill would lose.
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// Records are fresh for 5 s; the outage must outlast them.
const OUTAGE: Duration = Duration::from_secs(6);

async fn fleet(redis: &RedisServer) -> Fleet {
    let building = Fleet::on(&redis.url()).set("store.redis.timeout", json!("1s"));
    let building = building.set("store.redis.on_unavailable", json!("allow"));
    building.start(2).await
}

async fn reconciled(fleet: &Fleet) -> f64 {
    let mut count = 0.0;
    for edge in fleet.edges() {
        let name = "store_reconciled_exchanges_total";
        count += edge.admin().metric(name).await;
    }
    count
}

/// Waits until nothing waits in the journals, and the books are what the upstream sent.
async fn booked(fleet: &Fleet, keys: &[&Key]) {
    eventually(PATIENCE, || async {
        let mut booked = 0;
        for key in keys {
            booked += sum(&fleet.events(0, key).await, "total_tokens");
        }
        let sent = sent(&fleet.ledger().await);
        if booked == sent {
            Ok(())
        } else {
            Err((booked, sent))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_keys_are_served_without_redis_and_reconciled_on_its_return() {
    let redis = RedisServer::start_with(&DURABLE);
    let fleet = fleet(&redis).await;
    let wide = fleet.admin(0).key(1_000_000).await;
    let narrow = fleet.admin(0).key(200).await;
    let unseen = fleet.admin(0).key(0).await;
    for at in [0, 1] {
        assert_eq!(fleet.status(at, &wide.secret).await, 200);
        assert_eq!(fleet.status(at, &narrow.secret).await, 200);
    }
    fleet.settled().await;
    let before = fleet.ledger().await.requests;
    redis.kill();
    let killed = Instant::now();
    let mut alone = 0;
    while killed.elapsed() < OUTAGE || alone < 40 {
        let (at, key) = (alone % 2, [&wide, &narrow][alone / 2 % 2]);
        assert_eq!(fleet.status(at, &key.secret).await, 200, "{alone}");
        alone += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for edge in fleet.edges() {
        healthy(edge, "degraded").await;
    }
    // Never seen by this edge, or by any.
    for stranger in [unseen.secret.as_str(), "sk-proxy_nobody"] {
        assert_eq!(fleet.status(1, stranger).await, 503, "{stranger}");
    }
    let ledger = fleet.ledger().await;
    assert_eq!(ledger.requests, before + alone as u64);
    redis.restart();
    for edge in fleet.edges() {
        healthy(edge, "ok").await;
    }
    booked(&fleet, &[&wide, &narrow]).await;
    fleet.assert_balanced(&[&wide, &narrow]).await;
    assert_eq!(reconciled(&fleet).await, alone as f64);
    let used = fleet.admin(1).show(&narrow).await["token_used"].as_i64();
    let mut overrun = 0.0_f64;
    for edge in fleet.edges() {
        overrun = overrun.max(edge.admin().metric("quota_overrun_tokens").await);
    }
    let real = used.unwrap() - 200;
    assert!(
        overrun > 0.0 && overrun <= real as f64,
        "{overrun} of {real}"
    );
    let events = fleet.events(1, &narrow).await;
    assert!(events.iter().any(|e| e["reason"] == "reconciled"));
    for at in [0, 1] {
        healthy(fleet.edge(at), "ok").await;
        assert_eq!(
            fleet.status(at, &narrow.secret).await,
            429,
            "over its limit"
        );
        assert_eq!(fleet.status(at, &unseen.secret).await, 200);
    }
    fleet.assert_never_said(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_dies_in_the_outage_reconciles_once() {
    let redis = RedisServer::start_with(&DURABLE);
    let mut fleet = fleet(&redis).await;
    let key = fleet.admin(0).key(1_000_000).await;
    for at in [0, 1] {
        assert_eq!(fleet.status(at, &key.secret).await, 200);
    }
    fleet.settled().await;
    redis.kill();
    for turn in 0..10 {
        assert_eq!(fleet.status(turn % 2, &key.secret).await, 200);
    }
    // One is under way when its edge dies.
    let mut body = chat("gpt-4o");
    body["max_tokens"] = json!(300);
    let request = fleet.edge(0).request(Method::POST, CHAT, &key.secret);
    let request = request.header("x-fake", "latency=60s").json(&body);
    let cut = tokio::spawn(request.send());
    fleet.fake().ledger_when(|l| l.requests == 13).await;
    fleet.edge_mut(0).kill9();
    assert!(cut.await.unwrap().is_err());
    fleet.edge_mut(0).restart().await;
    healthy(fleet.edge(0), "degraded").await;
    assert_eq!(fleet.status(1, &key.secret).await, 200);
    redis.restart();
    for edge in fleet.edges() {
        healthy(edge, "ok").await;
    }
    let events = eventually(PATIENCE, || async {
        let events = fleet.events(1, &key).await;
        that(events, |events| events.len() == 14)
    })
    .await;
    let (lost, ended): (Vec<_>, Vec<_>) =
        events.into_iter().partition(|e| e["reason"] == "edge_died");
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(lost[0]["total_tokens"].as_i64().unwrap() >= 300, "{lost:?}");
    assert_eq!(sum(&ended, "total_tokens"), sent(&fleet.ledger().await));
    assert_eq!(reconciled(&fleet).await, 12.0);
    // Started once more, it finds nothing left to do.
    fleet.edge_mut(0).restart().await;
    healthy(fleet.edge(0), "ok").await;
    assert_eq!(fleet.status(0, &key.secret).await, 200);
    fleet.settled().await;
    assert_eq!(fleet.events(0, &key).await.len(), 15);
    let all = sum(&fleet.events(0, &key).await, "total_tokens");
    assert_eq!(fleet.admin(0).show(&key).await["token_used"], all);
    fleet.assert_never_said(&[]);
}
