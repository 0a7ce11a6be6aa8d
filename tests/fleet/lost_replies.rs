//! RELIABILITY 3 and 4: a step is carried out and its reply is lost. It counts once all the same.

use serde_json::{Value, json};

use super::support::admin::Key;
use super::support::fault_proxy::FaultProxy;
use super::support::fleet::Fleet;
use super::support::redis_cluster::RedisCluster;
use super::support::redis_server::RedisServer;
use super::support::wait::{PATIENCE, eventually, that};

/// Only a reserve names its subject's path so, and only a settlement of a good answer this status.
const RESERVE: &str = r#""path":"/v1/chat"#;
const SETTLE: &str = r#""response_status":200"#;
const ROUNDS: usize = 3;

/// Loses replies; the client sees a good answer or one clean refusal, and the books stay right.
async fn lose_replies(fleet: &Fleet, key: &Key, proxies: &[&FaultProxy]) {
    let lost = || proxies.iter().map(|p| p.replies_lost()).sum::<u64>();
    let mut good = 0;
    for round in 0..ROUNDS {
        for step in [RESERVE, SETTLE] {
            fleet.serves(0, key).await;
            good += 1;
            fleet.settled().await;
            let before = lost();
            proxies
                .iter()
                .for_each(|proxy| proxy.swallow_reply_to(step));
            let answer = fleet.chat(0, &key.secret, "tokens=20").await;
            let status = answer.status().as_u16();
            let body: Value = answer.json().await.unwrap();
            if status != 200 {
                assert_eq!((step, status), (RESERVE, 503), "{round}: {body}");
                assert_eq!(body["error"]["code"], "store_unavailable", "{body}");
            }
            good += u64::from(status == 200);
            eventually(PATIENCE, || async { that(lost(), |n| *n > before) }).await;
            // A cluster's client may ask another node next, and lose that reply too.
            println!("round {round}, {step}: {status}, {} lost", lost() - before);
        }
    }
    fleet.assert_balanced(&[key]).await;
    let events = fleet.events(0, key).await;
    let charged = events.iter().filter(|e| e["total_tokens"] != 0).count();
    assert_eq!(charged as u64, good);
    assert_eq!(fleet.ledger().await.requests, good);
    fleet.assert_never_said(&["CROSSSLOT"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_replies_of_a_server_count_once() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.address());
    let building = Fleet::on(&redis.url_at(proxy.addr()));
    let building = building.set("quota.reservation_ttl", json!("3s"));
    let building = building.set("store.redis.timeout", json!("2s"));
    let fleet = building.start(1).await;
    let key = fleet.admin(0).key(1_000_000).await;
    lose_replies(&fleet, &key, &[&proxy]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_replies_of_a_cluster_count_once() {
    let cluster = RedisCluster::start_behind_proxies();
    let building = Fleet::on_cluster(&cluster);
    let building = building.set("quota.reservation_ttl", json!("3s"));
    let building = building.set("store.redis.timeout", json!("2s"));
    let fleet = building.start(1).await;
    let key = fleet.admin(0).key(1_000_000).await;
    let proxies: Vec<&FaultProxy> = cluster.nodes().map(|n| cluster.proxy_of(n)).collect();
    lose_replies(&fleet, &key, &proxies).await;
}
