//! RELIABILITY 11: a primary dies under load, and slots move. Writes resume, and no quota is oversold.

use serde_json::json;

use super::support::admin::Key;
use super::support::fleet::{Builder, Fleet};
use super::support::load::Load;
use super::support::redis_cluster::RedisCluster;
use super::support::redis_sentinel::SentinelSet;

const LIMIT: i64 = 10_000_000;
/// Where a key's record and counters lie: part of the layout.
const SHARDS: u8 = 64;

async fn fleet(building: Builder) -> (Fleet, Key) {
    let building = building.set("quota.reservation_ttl", json!("3s"));
    let building = building.set("store.redis.timeout", json!("1s"));
    let fleet = building.start(2).await;
    let key = fleet.admin(0).key(LIMIT as u64).await;
    for at in [0, 1] {
        fleet.serves(at, &key).await;
    }
    (fleet, key)
}

/// What must hold whatever the replica never got.
async fn end(fleet: &Fleet, key: &Key, load: Load) {
    let statuses = load.end().await;
    println!("{statuses:?}");
    assert!(statuses.keys().all(|status| [200, 503].contains(status)));
    for at in [0, 1] {
        fleet.serves(at, key).await;
    }
    fleet.settled().await;
    fleet.assert_within(key, LIMIT).await;
    fleet.assert_never_said(&["CROSSSLOT"]);
}

fn slot_of(cluster: &RedisCluster, key: &Key) -> u16 {
    let last = u8::from_str_radix(&key.id[key.id.len() - 2..], 16).unwrap();
    cluster.slot_of(&format!("{{{:02x}}}", last % SHARDS))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_promote_a_replica_under_load() {
    let set = SentinelSet::start();
    let (fleet, key) = fleet(Fleet::on_sentinels(&set)).await;
    let load = Load::start(&fleet, &key, 4);
    load.serves(40).await;
    set.primary().wait_until_replicated();
    tokio::task::block_in_place(|| {
        set.kill_primary();
        set.wait_for_failover();
    });
    load.serves(40).await;
    end(&fleet, &key, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_loses_a_primary_under_load() {
    let cluster = RedisCluster::start();
    let (fleet, key) = fleet(Fleet::on_cluster(&cluster)).await;
    let slot = slot_of(&cluster, &key);
    let load = Load::start(&fleet, &key, 4);
    load.serves(40).await;
    tokio::task::block_in_place(|| {
        cluster.primary_of(slot).wait_until_replicated();
        cluster.kill_primary_of(slot);
        cluster.wait_for_primary_of(slot);
    });
    load.serves(40).await;
    end(&fleet, &key, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_moves_under_load_and_nothing_is_lost() {
    let cluster = RedisCluster::start();
    let (fleet, key) = fleet(Fleet::on_cluster(&cluster)).await;
    let slot = slot_of(&cluster, &key);
    let load = Load::start(&fleet, &key, 4);
    for _ in 0..2 {
        load.serves(40).await;
        tokio::task::block_in_place(|| {
            cluster.move_slot(slot, cluster.other_primary(slot));
        });
    }
    load.serves(40).await;
    end(&fleet, &key, load).await;
    fleet.assert_balanced(&[&key]).await;
}
