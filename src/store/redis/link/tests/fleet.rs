//! Several servers: sentinels with a primary and its replica, and a cluster.

use std::time::Duration;

use redis::Value;

use super::{Link, LinkOptions, Topology, count, counter, eventually, options, patient};
use crate::store::contract::redis_cluster::RedisCluster;
use crate::store::contract::redis_sentinel::SentinelSet;
use crate::store::contract::redis_server::{Port, RedisServer, Setup};
use crate::store::redis::inspect::Finding;

#[tokio::test]
async fn sentinels_lead_to_the_primary_and_to_the_next() {
    let set = SentinelSet::start();
    // The password is the primary's, which has none here: nor have the sentinels.
    let away = Port::free();
    let mut urls = vec![format!("redis://{}", away.address)];
    urls.extend(set.sentinel_urls());
    let link = Link::start(&LinkOptions {
        topology: Topology::Sentinel,
        urls,
        primary: set.primary_name().to_owned(),
        ..patient("")
    })
    .unwrap();
    let script = counter();
    let first = count(&link, &script).await.unwrap();
    assert_eq!(first, Value::Int(1));
    set.primary().wait_until_replicated();
    set.failover();
    let next = set.wait_for_failover();
    eventually(
        "the other one serves",
        Duration::from_secs(30),
        async || {
            count(&link, &script).await.is_ok()
                && next.command(&["GET", "{t}n"]) != Value::BulkString(b"1".to_vec())
        },
    )
    .await;
}

#[tokio::test]
async fn an_unknown_primary_is_named() {
    let setup = Setup {
        sentinel: Some(String::new()),
        ..Setup::default()
    };
    let sentinel = RedisServer::launch(Port::free(), setup);
    let link = Link::start(&LinkOptions {
        topology: Topology::Sentinel,
        primary: String::from("books"),
        ..patient(&sentinel.url())
    })
    .unwrap();
    eventually("the reason is known", Duration::from_secs(5), async || {
        let told = link.ping().await.unwrap_err().to_string();
        told.contains("no primary named books")
    })
    .await;
}

fn to_cluster(cluster: &RedisCluster, timeout: Duration) -> Link {
    let options = LinkOptions {
        topology: Topology::Cluster,
        urls: cluster.urls(),
        timeout,
        ..options("")
    };
    Link::start(&options).unwrap()
}

#[tokio::test]
async fn a_cluster_takes_each_step_where_its_key_lies() {
    // Nobody takes over from a node that is silent for less.
    let cluster = RedisCluster::start_with(&["--cluster-node-timeout", "60000"]);
    let link = to_cluster(&cluster, Duration::from_secs(2));
    let script = counter();
    link.ping().await.unwrap();
    let keys: Vec<String> = (0..40).map(|n| format!("{{{n}}}")).collect();
    for (n, key) in keys.iter().enumerate() {
        let by = (n as i64).to_string();
        let answer = link.run(&script, &[key], &[by]).await.unwrap();
        assert_eq!(answer, Value::Int(n as i64));
    }
    let primaries = ["a", "b", "c"].map(|key| cluster.primary_of(cluster.slot_of(key)));
    for server in primaries {
        server.command(&["SCRIPT", "FLUSH"]);
        assert_ne!(server.command(&["DBSIZE"]), Value::Int(0));
    }
    for key in &keys {
        link.run(&script, &[key], &["0"]).await.unwrap();
        link.run_background(&script, &[key], &["0"]).await.unwrap();
    }
    let get = |key: &String| redis::cmd("GET").arg(key).to_owned();
    let answers = link.ask_all(keys.iter().map(get).collect()).await.unwrap();
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer, Value::BulkString(n.to_string().into_bytes()));
    }
    let found = link.inspect().await.unwrap();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found
            .iter()
            .all(|found| matches!(found, Finding::NotPersistent { .. }))
    );

    // One node frozen, then away: the others serve on.
    let served = |key: &'static str| {
        let (link, script) = (&link, &script);
        async move { link.run(script, &[key], &["1"]).await }
    };
    let [frozen, _, _] = primaries;
    frozen.pause();
    let (away, other, another) = tokio::join!(served("a"), served("b"), served("c"));
    assert!(away.is_err() && other.is_ok() && another.is_ok());
    frozen.resume();
    frozen.kill();
    assert!(served("a").await.is_err() && served("b").await.is_ok());
    frozen.restart();
    eventually("all serve", Duration::from_secs(20), async || {
        served("a").await.is_ok() && served("b").await.is_ok() && served("c").await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_cluster_serves_on_when_a_replica_takes_over() {
    let cluster = RedisCluster::start();
    let link = to_cluster(&cluster, super::TIMEOUT);
    let script = counter();
    let step = async |key: &str| link.run(&script, &[key], &["1"]).await;
    eventually("it serves", Duration::from_secs(20), async || {
        step("a").await.is_ok()
    })
    .await;
    cluster.kill_primary_of(cluster.slot_of("a"));
    eventually("the replica serves", Duration::from_secs(60), async || {
        step("a").await.is_ok()
    })
    .await;
    eventually("the others serve", Duration::from_secs(5), async || {
        step("b").await.is_ok()
    })
    .await;
}
