//! How a pool shares its exchanges out.

use quota_proxy::cli::fake_upstream::Options;
use serde_json::{Value, json};

use super::{ask, one_pool};
use crate::support::admin::Key;
use crate::support::rig::{CHAT, Rig, chat_stream};
use crate::support::wait::{PATIENCE, eventually, that};

async fn requests(rig: &Rig) -> Vec<u64> {
    let mut counts = Vec::new();
    for fake in rig.fakes() {
        counts.push(fake.ledger().await.requests);
    }
    counts
}

#[tokio::test]
async fn weights_are_kept() {
    let mut rig = one_pool(json!({"balance": "weighted"}), &["{fake0}", "{fake1}"])
        .set("pools.0.peers.0.weight", json!(3));
    for _ in 0..2 {
        rig = rig.fake(Options::default());
    }
    let rig = rig.start().await;
    let key = rig.admin().key(0).await;
    for _ in 0..60 {
        assert_eq!(ask(&rig, &key).await, 200);
    }
    let counts = requests(&rig).await;
    // Which turn is whose is fixed.
    assert!((38..=52).contains(&counts[0]), "{counts:?}");
    assert_eq!(counts.iter().sum::<u64>(), 60);
}

#[tokio::test]
async fn a_busy_peer_is_left_to_its_work() {
    let rig = one_pool(
        json!({"balance": "least_connections"}),
        &["{fake0}", "{fake1}"],
    )
    .fake(Options::default())
    .fake(Options::default())
    .start()
    .await;
    let key = rig.admin().key(0).await;
    let long = "tokens=100000,interval=10ms";
    let running = rig
        .post_fake(CHAT, &key.secret, &chat_stream("gpt-4o"), long)
        .await;
    assert_eq!(running.status(), 200);
    let busy = requests(&rig)
        .await
        .iter()
        .position(|&count| count == 1)
        .unwrap();
    for _ in 0..5 {
        assert_eq!(ask(&rig, &key).await, 200);
        // An answer is read to its end a little before its exchange is over.
        let idle = |shown: &f64| *shown == 1.0;
        let running = || async { that(rig.admin().metric("upstream_peer_running").await, idle) };
        eventually(PATIENCE, running).await;
    }
    let counts = requests(&rig).await;
    assert_eq!((counts[busy], counts[1 - busy]), (1, 5));
    drop(running);
}

/// The fake that this key's exchange goes to.
async fn home(rig: &Rig, key: &Key) -> usize {
    let before = requests(rig).await;
    assert_eq!(ask(rig, key).await, 200);
    let after = requests(rig).await;
    let mut moved = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after - before);
    moved.position(|count| count == 1).unwrap()
}

/// A reload takes a peer out: its keys go elsewhere, and no other does.
#[tokio::test]
async fn a_peer_that_is_removed_takes_only_its_own_keys_along() {
    let rig = one_pool(
        json!({"balance": "consistent_hash"}),
        &["{fake0}", "{fake1}", "{fake2}"],
    )
    .fake(Options::default())
    .fake(Options::default())
    .fake(Options::default())
    .start()
    .await;
    let mut homes = Vec::new();
    for _ in 0..12 {
        let key = rig.admin().key(0).await;
        let first = home(&rig, &key).await;
        assert_eq!(home(&rig, &key).await, first, "it stays");
        homes.push((key, first));
    }
    let removed = homes[0].1;
    let mut config = rig.config();
    config["pools"][0]["peers"]
        .as_array_mut()
        .unwrap()
        .remove(removed);
    rig.write_config(&config);
    rig.process().signal("HUP");
    let is_reloaded = |shown: &Value| shown["pools"][0]["peers"].as_array().unwrap().len() == 2;
    let shown = || async { that(rig.admin().get("/admin/pools").await, is_reloaded) };
    eventually(PATIENCE, shown).await;
    for (key, before) in &homes {
        let now = home(&rig, key).await;
        assert_ne!(now, removed);
        if *before != removed {
            assert_eq!(now, *before);
        }
    }
    let metrics = rig.admin().metrics().await;
    let gone = format!(r#"peer="{}""#, rig.fakes()[removed].address);
    assert!(!metrics.contains(&gone), "{metrics}");
}
