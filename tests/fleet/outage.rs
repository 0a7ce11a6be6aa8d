//! RELIABILITY 8, `on_unavailable: deny`: Redis is killed under load and comes back.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::support::fleet::{CHAT, Fleet, healthy};
use super::support::load::Load;
use super::support::redis_server::RedisServer;
use super::support::rig::chat_stream;
use super::support::wait::{PATIENCE, eventually, that};

/// With `everysec`, Redis may answer up to two seconds before it writes: these a kill would lose.
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// Promised is less than 2 s; a busy machine is given more.
const BACK_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_dead_all_is_refused_and_what_runs_is_settled_on_its_return() {
    let redis = RedisServer::start_with(&DURABLE);
    let building = Fleet::on(&redis.url()).set("store.redis.timeout", json!("1s"));
    let fleet = building.start(2).await;
    let key = fleet.admin(0).key(1_000_000).await;
    let mut body = chat_stream("gpt-4o");
    body["max_tokens"] = json!(200);
    let streams: Vec<_> = (0..4)
        .map(|n| {
            let request = fleet.edge(n % 2).request(Method::POST, CHAT, &key.secret);
            let request = request.header("x-fake", "tokens=20,interval=100ms");
            let sent = request.json(&body).send();
            tokio::spawn(async move { sent.await.unwrap().text().await.unwrap() })
        })
        .collect();
    fleet.fake().ledger_when(|l| l.requests == 4).await;
    redis.kill();
    for turn in 0..20 {
        let answer = fleet.chat(turn % 2, &key.secret, "tokens=1").await;
        assert_eq!(answer.status(), 503, "{turn}");
        assert!(answer.headers().contains_key("retry-after"));
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["error"]["code"], "store_unavailable", "{body}");
    }
    for stream in streams {
        let text = stream.await.unwrap();
        assert!(text.trim_end().ends_with("[DONE]"), "{text}");
    }
    for edge in fleet.edges() {
        healthy(edge, "unavailable").await;
    }
    // What the two streams of each edge used waits there.
    for at in [0, 1] {
        shows(&fleet, at, "quota_settlements_waiting 2").await;
        shows(&fleet, at, r#"store_condition{condition="away"} 1"#).await;
    }
    assert_eq!(fleet.ledger().await.requests, 4, "nothing was forwarded");
    redis.restart();
    for at in [0, 1] {
        eventually(BACK_WITHIN, || async {
            that(fleet.status(at, &key.secret).await, |s| *s == 200)
        })
        .await;
        shows(&fleet, at, "quota_settlements_waiting 0").await;
        shows(&fleet, at, r#"store_condition{condition="serving"} 1"#).await;
    }
    fleet.assert_balanced(&[&key]).await;
    fleet.assert_never_said(&[]);
}

/// Waits until an edge's metrics have this line.
async fn shows(fleet: &Fleet, at: usize, line: &str) {
    eventually(PATIENCE, || async {
        let text = fleet.admin(at).metrics().await;
        that(text, |text| text.lines().any(|l| l == line))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_mid_load_costs_no_request_its_books() {
    let redis = RedisServer::start_with(&DURABLE);
    let building = Fleet::on(&redis.url()).set("store.redis.timeout", json!("1s"));
    let fleet = building.start(2).await;
    let key = fleet.admin(0).key(100_000_000).await;
    let load = Load::start(&fleet, &key, 6);
    for _ in 0..2 {
        load.serves(40).await;
        redis.kill();
        load.answers(20).await;
        redis.restart();
        load.serves(40).await;
    }
    let statuses = load.end().await;
    println!("{statuses:?}");
    assert!(statuses.keys().all(|status| [200, 503].contains(status)));
    // A reserve whose answer died with Redis is undone by its edge, or by its lease.
    eventually(PATIENCE, || async {
        let open = fleet.admin(0).metric("quota_reservations_open").await;
        that(open, |open| *open == 0.0)
    })
    .await;
    fleet.assert_balanced(&[&key]).await;
    fleet.assert_never_said(&[]);
}
