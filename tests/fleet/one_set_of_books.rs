//! Two edges show one set of books, and say at start what is wrong with their Redis.

use reqwest::Method;
use serde_json::{Value, json};

use super::support::fleet::Fleet;
use super::support::redis_server::RedisServer;
use super::support::wait::{PATIENCE, eventually, that};

#[tokio::test]
async fn both_edges_tell_the_same() {
    let redis = RedisServer::start();
    let fleet = Fleet::on(&redis.url()).start(2).await;
    let group = json!({"name": "team", "quotas": {"tokens": {"limit": 5_000}}});
    let there = fleet.admin(1);
    let group = there.ok(Method::POST, "/admin/groups", Some(&group)).await;
    let mut keys = Vec::new();
    for at in [0, 1, 0] {
        keys.push(fleet.admin(at).key(1_000 + at as u64).await);
    }
    let change = json!({"group": group["id"], "name": "renamed"});
    fleet.admin(0).patch(&keys[0], change).await;
    for turn in 0..6 {
        let secret = &keys[turn % 3].secret;
        assert_eq!(fleet.status(turn % 2, secret).await, 200, "{turn}");
    }
    fleet.assert_balanced(&[&keys[0], &keys[1], &keys[2]]).await;
    for path in [
        "/admin/api-keys",
        "/admin/groups",
        "/admin/audit",
        &format!("/admin/api-keys/{}", keys[0].id),
    ] {
        let (here, there) = (
            fleet.admin(0).get(path).await,
            fleet.admin(1).get(path).await,
        );
        assert_eq!(here, there, "{path}");
        assert_ne!(here, json!([]), "{path}");
    }
    for path in ["/api/usage/quota", "/api/usage/logs"] {
        for key in &keys {
            let here = fleet.own(0, key, path).await;
            assert_eq!(here, fleet.own(1, key, path).await, "{path}");
            assert_ne!(here, json!([]), "{path}");
        }
    }
}

/// What an edge says of its Redis, once it has said `word`.
async fn said(arguments: &[&str], word: &str) -> String {
    let redis = RedisServer::start_with(arguments);
    let fleet = Fleet::on(&redis.url()).start(1).await;
    eventually(PATIENCE, || async {
        that(fleet.edge(0).process().output(), |s| s.contains(word))
    })
    .await
}

#[tokio::test]
async fn what_is_wrong_with_redis_is_said_at_start() {
    let text = said(&["--maxmemory-policy", "allkeys-lru"], "allkeys-lru").await;
    assert!(text.contains("noeviction"), "{text}");
    let text = said(&[], "appendonly yes").await;
    assert!(text.contains("keeps nothing on disk"), "{text}");
}

#[tokio::test]
async fn a_reset_on_one_edge_is_a_fresh_quota_on_the_other() {
    let redis = RedisServer::start();
    let fleet = Fleet::on(&redis.url()).start(2).await;
    let quota = json!({"name": "r", "token_limit": 0, "request_limit": 1,
                       "rate_limit_tier": "unlimited"});
    let key = fleet.admin(0).create(quota).await;
    assert_eq!(fleet.status(0, &key.secret).await, 200);
    assert_eq!(fleet.status(1, &key.secret).await, 429);
    fleet.admin(0).act(&key, "reset").await;
    assert_eq!(fleet.status(1, &key.secret).await, 200);
    assert_eq!(fleet.status(0, &key.secret).await, 429);
    let audit: Value = fleet.admin(1).get("/admin/audit").await;
    assert!(audit.to_string().contains("reset"), "{audit}");
}
