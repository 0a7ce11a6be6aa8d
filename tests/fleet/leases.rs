//! RELIABILITY 5: leases of running streams are renewed; those of a dead edge are ended by another.

use reqwest::Method;
use serde_json::{Value, json};

use super::support::fleet::{CHAT, Fleet};
use super::support::redis_server::RedisServer;
use super::support::rig::{chat, chat_stream};
use super::support::wait::{PATIENCE, eventually, that};

#[tokio::test]
async fn a_stream_longer_than_its_lease_keeps_its_hold() {
    let redis = RedisServer::start();
    let building = Fleet::on(&redis.url()).set("quota.reservation_ttl", json!("3s"));
    let fleet = building.start(2).await;
    let key = fleet.admin(0).key(1_000_000).await;
    let mut body = chat_stream("gpt-4o");
    body["max_tokens"] = json!(100);
    let wish = "tokens=35,interval=200ms";
    let answer = fleet
        .edge(0)
        .post_fake(CHAT, &key.secret, &body, wish)
        .await;
    assert_eq!(answer.status(), 200);
    let text = answer.text().await.unwrap();
    assert!(text.trim_end().ends_with("[DONE]"), "{text}");
    fleet.assert_balanced(&[&key]).await;
    let events = fleet.events(1, &key).await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["reason"], Value::Null, "{events:?}");
    for at in [0, 1] {
        let expired = expired(&fleet, at).await;
        assert_eq!(expired, 0.0, "edge {at}");
    }
}

async fn expired(fleet: &Fleet, at: usize) -> f64 {
    let metrics = fleet.admin(at).metrics().await;
    let name = r#"quota_exchanges_flagged_total{flag="expired"} "#;
    let count = metrics.lines().find_map(|line| line.strip_prefix(name));
    count.map_or(0.0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn what_a_dead_edge_held_is_charged_once_by_another() {
    for (policy, is_charged) in [("charge", true), ("release", false)] {
        let redis = RedisServer::start();
        let building = Fleet::on(&redis.url()).set("quota.reservation_ttl", json!("2s"));
        let building = building.set("quota.lost_reservation", json!(policy));
        let mut fleet = building.start(3).await;
        let key = fleet.admin(0).key(10_000).await;
        let mut body = chat("gpt-4o");
        body["max_tokens"] = json!(500);
        let request = fleet.edge(0).request(Method::POST, CHAT, &key.secret);
        let request = request.header("x-fake", "latency=60s").json(&body);
        let running = tokio::spawn(request.send());
        fleet.fake().ledger_when(|l| l.requests == 1).await;
        let held = fleet.admin(1).metric("quota_held_tokens").await as i64;
        assert!((500..530).contains(&held), "{held}");
        fleet.edge_mut(0).kill9();
        assert!(running.await.unwrap().is_err());
        for at in [1, 2] {
            fleet.admin(at).settled().await;
        }
        let events = eventually(PATIENCE, || async {
            that(fleet.events(1, &key).await, |events| !events.is_empty())
        })
        .await;
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0]["reason"], "lease_expired", "{events:?}");
        let charged = if is_charged { held } else { 0 };
        assert_eq!(events[0]["total_tokens"], charged, "{policy}");
        assert_eq!(fleet.admin(2).show(&key).await["token_used"], charged);
        assert_eq!(expired(&fleet, 1).await + expired(&fleet, 2).await, 1.0);
    }
}
