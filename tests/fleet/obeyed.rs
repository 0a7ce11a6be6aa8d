//! RELIABILITY 21: a change made on one edge is obeyed by the other at its next request, and unknown
//! keys cost Redis next to nothing.

use std::time::Instant;

use reqwest::Method;
use serde_json::json;

use super::support::admin::Key;
use super::support::fleet::Fleet;
use super::support::load::Load;
use super::support::redis_server::RedisServer;

#[tokio::test]
async fn a_change_on_one_edge_rules_the_next_request_on_the_other() {
    let redis = RedisServer::start();
    let fleet = Fleet::on(&redis.url()).start(2).await;
    let here = fleet.admin(0);
    let key = here.key(0).await;
    let there = async |expected: u16, what: &str| {
        assert_eq!(fleet.status(1, &key.secret).await, expected, "{what}");
    };
    for round in 0..3 {
        there(200, &format!("round {round}")).await;
        here.act(&key, "disable").await;
        there(403, "disabled").await;
        here.act(&key, "enable").await;
        there(200, "enabled").await;
        here.patch(&key, json!({"token_limit": 1})).await;
        there(429, "its limit lowered").await;
        here.patch(&key, json!({"token_limit": 0})).await;
        there(200, "its limit lifted").await;
        here.patch(&key, json!({"allowed_models": ["other"]})).await;
        there(403, "its models named").await;
        here.patch(&key, json!({"allowed_models": []})).await;
        there(200, "its models freed").await;
    }
    here.delete(&key, false).await;
    there(401, "deleted").await;
}

#[tokio::test]
async fn a_rotation_on_one_edge_opens_and_shuts_doors_on_the_other() {
    let redis = RedisServer::start();
    let fleet = Fleet::on(&redis.url()).start(2).await;
    let (here, there) = (fleet.admin(0), fleet.admin(1));
    let key = here.key(0).await;
    assert_eq!(fleet.status(1, &key.secret).await, 200);
    let rotated = here.act(&key, "rotate").await;
    let second = rotated["api_key"].as_str().unwrap();
    assert_eq!(fleet.status(1, second).await, 200, "the new secret");
    assert_eq!(fleet.status(1, &key.secret).await, 200, "in its grace");
    let rotated = there.act(&key, "rotate").await;
    let third = rotated["api_key"].as_str().unwrap();
    for at in [0, 1] {
        assert_eq!(fleet.status(at, third).await, 200);
        assert_eq!(fleet.status(at, second).await, 200, "in its grace");
        assert_eq!(fleet.status(at, &key.secret).await, 401, "two ago");
    }
    there.delete(&key, true).await;
    for at in [0, 1] {
        assert_eq!(fleet.status(at, third).await, 401, "removed");
    }
}

/// How often Redis was given a command, by scripts too. Of `get`: reads of records; the sweeps need
/// none of these.
pub(crate) fn calls(redis: &RedisServer, command: &str) -> u64 {
    let stats = redis.info(&format!("cmdstat_{command}"));
    let stats = stats.unwrap_or_default();
    let calls = stats.split(',').find_map(|s| s.strip_prefix("calls="));
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test]
async fn a_hammering_stranger_is_seldom_asked_of_redis() {
    let redis = RedisServer::start();
    let fleet = Fleet::on(&redis.url()).start(2).await;
    let key = fleet.admin(0).key(0).await;
    let mut near = key.secret.clone();
    near.push('x');
    assert_eq!(fleet.status(0, &near).await, 401);
    let (before, start) = (calls(&redis, "get"), Instant::now());
    for turn in 0..1_000 {
        let path = "/v1/chat/completions";
        let edge = fleet.edge(turn % 2);
        let request = edge.request(Method::POST, path, &near).json(&json!({}));
        assert_eq!(request.send().await.unwrap().status(), 401);
    }
    // It is remembered for a second on each edge.
    let most = 2 * (start.elapsed().as_secs() + 2);
    let cost = calls(&redis, "get") - before;
    println!("1000 refusals: {cost} reads in {:?}", start.elapsed());
    assert!((1..=most).contains(&cost), "{cost} reads, more than {most}");
    assert_eq!(fleet.ledger().await.requests, 0);
    assert_eq!(fleet.status(1, &key.secret).await, 200);
}

#[tokio::test]
async fn a_group_is_one_quota_on_all_edges() {
    let redis = RedisServer::start();
    let fleet = Fleet::on(&redis.url()).start(2).await;
    let group = json!({"name": "team", "quotas": {"requests": {"limit": 7}}});
    let here = fleet.admin(0);
    let group = here.ok(Method::POST, "/admin/groups", Some(&group)).await;
    let member = json!({"name": "m", "token_limit": 1_000_000, "group": group["id"],
                        "rate_limit_tier": "unlimited"});
    let keys = [
        here.create(member.clone()).await,
        fleet.admin(1).create(member).await,
    ];
    let calls = (0..40).map(|n| fleet.status(n % 2, &keys[n / 2 % 2].secret));
    let statuses = futures_util::future::join_all(calls).await;
    assert_eq!(statuses.iter().filter(|s| **s == 200).count(), 7);
    assert_eq!(statuses.iter().filter(|s| **s == 429).count(), 33);
    assert_eq!(fleet.ledger().await.requests, 7);
    // Raised on one edge: the other grants the rest, and no more.
    let path = format!("/admin/groups/{}", group["id"].as_str().unwrap());
    let raised = json!({"quotas": {"requests": {"limit": 9}}});
    here.ok(Method::PATCH, &path, Some(&raised)).await;
    for expected in [200, 200, 429] {
        assert_eq!(fleet.status(1, &keys[0].secret).await, expected);
    }
    fleet.assert_balanced(&[&keys[0], &keys[1]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_moves_between_groups_on_one_edge_while_all_serve() {
    let redis = RedisServer::start();
    let fleet = Fleet::on(&redis.url()).start(2).await;
    let here = fleet.admin(0);
    let mut groups = vec![json!(null)];
    for name in ["a", "b"] {
        let group = json!({"name": name, "quotas": {"tokens": {"limit": 1_000_000}}});
        let made = here.ok(Method::POST, "/admin/groups", Some(&group)).await;
        groups.push(made["id"].clone());
    }
    let key: Key = here.key(10_000_000).await;
    let load = Load::start(&fleet, &key, 4);
    for turn in 0..8 {
        load.serves(10).await;
        let group = &groups[(turn + 1) % 3];
        here.patch(&key, json!({"group": group})).await;
    }
    load.serves(10).await;
    let statuses = load.end().await;
    println!("{statuses:?}");
    assert_eq!(statuses.keys().collect::<Vec<_>>(), [&200]);
    fleet.assert_balanced(&[&key]).await;
    fleet.assert_never_said(&[]);
}
