//! Several servers: sentinels with a primary and its replica, and a cluster.

use std::time::Duration;

use redis::Value;

use super::server::Server;
use super::{
    Link, LinkOptions, Topology, command, count, counter, eventually, options, patient, tell,
};
use crate::store::redis::inspect::Finding;

#[tokio::test]
async fn sentinels_lead_to_the_primary_and_to_the_next() {
    let primary = Server::start().await;
    let port = primary.port.to_string();
    let replica = Server::with(&["--replicaof", "127.0.0.1", &port]).await;
    let sentinel = Server::sentinel(&format!(
        "sentinel monitor books 127.0.0.1 {port} 1\n\
         sentinel down-after-milliseconds books 500\n\
         sentinel failover-timeout books 3000\n"
    ))
    .await;
    // The password is the primary's, which has none here: nor has the sentinel.
    let away = format!("redis://127.0.0.1:{}", super::server::free_port());
    let link = Link::start(&LinkOptions {
        topology: Topology::Sentinel,
        urls: vec![away, sentinel.url()],
        primary: String::from("books"),
        ..patient("")
    })
    .unwrap();
    let script = counter();
    let first = count(&link, &script).await.unwrap();
    assert_eq!(first, Value::Int(1));
    eventually("the replica follows", Duration::from_secs(20), async || {
        command(&replica, &["GET", "{t}n"]).await == Value::BulkString(b"1".to_vec())
    })
    .await;
    eventually(
        "the sentinel knows the replica",
        Duration::from_secs(30),
        async || {
            let known = command(&sentinel, &["SENTINEL", "REPLICAS", "books"]).await;
            matches!(known, Value::Array(known) if known.len() == 1)
        },
    )
    .await;
    // It says which replica it would promote only after it has looked at it.
    eventually(
        "the sentinel can promote it",
        Duration::from_secs(30),
        async || {
            tell(&sentinel, &["SENTINEL", "FAILOVER", "books"])
                .await
                .is_ok()
        },
    )
    .await;
    eventually(
        "the other one serves",
        Duration::from_secs(30),
        async || {
            count(&link, &script).await.is_ok()
                && command(&replica, &["GET", "{t}n"]).await != Value::BulkString(b"1".to_vec())
        },
    )
    .await;
}

#[tokio::test]
async fn an_unknown_primary_is_named() {
    let sentinel = Server::sentinel("").await;
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

/// Three primaries that share the slots.
async fn cluster(silence: &str) -> Vec<Server> {
    let mut servers = Vec::new();
    for slots in [["0", "5460"], ["5461", "10922"], ["10923", "16383"]] {
        let server = Server::cluster_node(silence).await;
        command(&server, &["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]]).await;
        servers.push(server);
    }
    let first = servers[0].port.to_string();
    for (server, epoch) in servers.iter().zip(["1", "2", "3"]) {
        command(server, &["CLUSTER", "SET-CONFIG-EPOCH", epoch]).await;
    }
    for server in &servers[1..] {
        command(server, &["CLUSTER", "MEET", "127.0.0.1", &first]).await;
    }
    for server in &servers {
        eventually("the cluster is up", Duration::from_secs(30), async || {
            let info = command(server, &["CLUSTER", "INFO"]).await;
            let info: String = redis::from_redis_value(info).unwrap();
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        })
        .await;
    }
    servers
}

#[tokio::test]
async fn a_cluster_takes_each_step_where_its_key_lies() {
    let mut servers = cluster("15000").await;
    let link = Link::start(&LinkOptions {
        topology: Topology::Cluster,
        timeout: Duration::from_secs(2),
        ..options(&servers[0].url())
    })
    .unwrap();
    let script = counter();
    link.ping().await.unwrap();
    let keys: Vec<String> = (0..40).map(|n| format!("{{{n}}}")).collect();
    for (n, key) in keys.iter().enumerate() {
        let by = (n as i64).to_string();
        let answer = link.run(&script, &[key], &[by]).await.unwrap();
        assert_eq!(answer, Value::Int(n as i64));
    }
    for server in &servers {
        command(server, &["SCRIPT", "FLUSH"]).await;
        assert_ne!(command(server, &["DBSIZE"]).await, Value::Int(0));
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
    // Slots of `a`, `b`, `c`: 15495, 3300, 7365.
    servers[2].signal("STOP");
    let (frozen, other, another) = tokio::join!(served("a"), served("b"), served("c"));
    assert!(frozen.is_err() && other.is_ok() && another.is_ok());
    servers[2].signal("CONT");
    servers[2].kill();
    assert!(served("a").await.is_err() && served("b").await.is_ok());
    servers[2].start_again().await;
    eventually("all serve", Duration::from_secs(20), async || {
        served("a").await.is_ok() && served("b").await.is_ok() && served("c").await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_cluster_serves_on_when_a_replica_takes_over() {
    let mut servers = cluster("1000").await;
    let link = Link::start(&LinkOptions {
        topology: Topology::Cluster,
        ..options(&servers[0].url())
    })
    .unwrap();
    let script = counter();
    let step = async |key: &str| link.run(&script, &[key], &["1"]).await;
    // Slots of `a`, `b`: 15495, 3300.
    eventually("it serves", Duration::from_secs(20), async || {
        step("a").await.is_ok()
    })
    .await;
    let id = command(&servers[2], &["CLUSTER", "MYID"]).await;
    let id: String = redis::from_redis_value(id).unwrap();
    let replica = Server::cluster_node("1000").await;
    let first = servers[0].port.to_string();
    command(&replica, &["CLUSTER", "MEET", "127.0.0.1", &first]).await;
    eventually(
        "the replica may follow",
        Duration::from_secs(30),
        async || {
            let followed = tell(&replica, &["CLUSTER", "REPLICATE", &id]).await;
            followed.is_ok()
        },
    )
    .await;
    eventually("the replica follows", Duration::from_secs(30), async || {
        let info = command(&replica, &["INFO", "replication"]).await;
        let nodes = command(&servers[0], &["CLUSTER", "NODES"]).await;
        let (info, nodes): (String, String) = (
            redis::from_redis_value(info).unwrap(),
            redis::from_redis_value(nodes).unwrap(),
        );
        info.contains("master_link_status:up") && nodes.contains("slave")
    })
    .await;
    servers[2].kill();
    eventually("the replica serves", Duration::from_secs(60), async || {
        step("a").await.is_ok()
    })
    .await;
    eventually("the others serve", Duration::from_secs(5), async || {
        step("b").await.is_ok()
    })
    .await;
}
