//! RELIABILITY 2: a crowd at a nearly empty key, over two edges.

use futures_util::future::join_all;
use serde_json::json;

use super::support::fleet::{Fleet, sum};
use super::support::redis_server::RedisServer;

#[tokio::test]
async fn of_a_crowd_on_two_edges_exactly_as_many_pass_as_the_key_bears() {
    let redis = RedisServer::start();
    let fleet = Fleet::on(&redis.url()).start(2).await;
    let quota = json!({"name": "crowd", "token_limit": 1_000_000, "request_limit": 37,
                       "rate_limit_tier": "unlimited"});
    let key = fleet.admin(0).create(quota).await;
    let statuses = join_all((0..500).map(|n| fleet.status(n % 2, &key.secret))).await;
    let passed = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(passed, 37);
    assert!(statuses.iter().all(|status| [200, 429].contains(status)));
    assert_eq!(fleet.ledger().await.requests, 37);
    fleet.assert_balanced(&[&key]).await;
    let events = fleet.events(1, &key).await;
    let charged = events.iter().filter(|e| e["total_tokens"] != 0).count();
    assert_eq!(charged, 37);
}

#[tokio::test]
async fn tokens_are_never_oversold_by_two_edges() {
    let redis = RedisServer::start();
    let building = Fleet::on(&redis.url()).set("quota.admission", json!("strict"));
    let fleet = building.start(2).await;
    const LIMIT: i64 = 3_000;
    let key = fleet.admin(1).key(LIMIT as u64).await;
    let calls = (0..500).map(|n| fleet.chat(n % 2, &key.secret, "tokens=50"));
    let answers = join_all(calls).await;
    let statuses: Vec<u16> = answers.iter().map(|a| a.status().as_u16()).collect();
    let passed = statuses.iter().filter(|status| **status == 200).count();
    assert!(statuses.iter().all(|status| [200, 429].contains(status)));
    let bodies = answers.into_iter().map(reqwest::Response::bytes);
    assert!(join_all(bodies).await.iter().all(Result::is_ok));
    assert_eq!(fleet.ledger().await.requests, passed as u64);
    fleet.assert_balanced(&[&key]).await;
    fleet.assert_within(&key, LIMIT).await;
    // What is left is too little for one more, or the crowd was turned away by what was held: then
    // the rest is served one by one.
    while fleet.status(0, &key.secret).await == 200 {}
    fleet.assert_balanced(&[&key]).await;
    fleet.assert_within(&key, LIMIT).await;
    let used = sum(&fleet.events(0, &key).await, "total_tokens");
    assert!(used > LIMIT - 100, "{used}");
}
