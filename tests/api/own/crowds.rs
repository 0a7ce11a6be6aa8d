//! Many at once, and a server that is killed under them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use super::house::House;
use crate::support::wait::{PATIENCE, eventually, that};

on_both_stores!(
    exactly_what_is_left_is_drawn,
    parallel_batches_are_all_or_nothing,
    uses_that_were_acknowledged_outlive_a_kill,
);

async fn exactly_what_is_left_is_drawn(house: House) {
    let (_, secret) = house.key(50).await;
    let use_one = async |_| {
        let answer = house.post("/api/v1/use", &secret, &json!({})).await;
        match answer.status {
            200 => answer.json()["remaining"].as_i64(),
            _ => {
                answer.coded(429, "QUOTA_EXCEEDED");
                None
            }
        }
    };
    let mut left: Vec<i64> = join_all((0..200).map(use_one))
        .await
        .into_iter()
        .flatten()
        .collect();
    left.sort_unstable();
    // What was held by others at that moment counts as taken, so two may be told the same.
    assert_eq!(left.len(), 50, "{left:?}");
    assert!(left.iter().all(|left| (0..50).contains(left)), "{left:?}");
    let quota = house.get("/api/v1/quota", &secret).await.ok();
    assert_eq!([&quota["used"], &quota["remaining"]], [50, 0]);
    let history = house
        .get("/api/v1/usage/history?limit=1", &secret)
        .await
        .ok();
    assert_eq!(history["total"], 50);
}

async fn parallel_batches_are_all_or_nothing(house: House) {
    let (_, secret) = house.key(50).await;
    let batch = json!([{"amount": 1}, {"amount": 2}, {"amount": 4}]);
    let draw = async |_| {
        let answer = house.post("/api/v1/use/batch", &secret, &batch).await;
        if answer.status != 200 {
            answer.coded(429, "QUOTA_EXCEEDED");
            return 0;
        }
        let told = answer.json();
        let items = told["items"].as_array().unwrap();
        assert_eq!((items.len(), &told["amountUsed"]), (3, &json!(7)));
        1
    };
    let granted: i64 = join_all((0..40).map(draw)).await.into_iter().sum();
    assert_eq!(granted, 7);
    let quota = house.get("/api/v1/quota", &secret).await.ok();
    assert_eq!([&quota["used"], &quota["remaining"]], [49, 1]);
    let history = house.get("/api/v1/usage/history", &secret).await.ok();
    let amounts = history["history"].as_array().unwrap().iter();
    let sum: i64 = amounts.map(|entry| entry["amount"].as_i64().unwrap()).sum();
    assert_eq!((sum, &history["total"]), (49, &json!(21)));
}

/// Clients that use a key until their connection breaks.
async fn uses_that_were_acknowledged_outlive_a_kill(mut house: House) {
    const CLIENTS: i64 = 8;
    let (_, secret) = house.key(1_000_000).await;
    let acknowledged = Arc::new(AtomicI64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let request = house.edge(Method::POST, "/api/v1/use").bearer_auth(&secret);
            let acknowledged = Arc::clone(&acknowledged);
            tokio::spawn(async move {
                while let Ok(answer) = request.try_clone().unwrap().send().await {
                    assert_eq!(answer.status(), 200);
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    eventually(PATIENCE, || async {
        that(acknowledged.load(Ordering::SeqCst), |count| *count >= 50)
    })
    .await;
    house.rig.kill9();
    for client in clients {
        client.await.unwrap();
    }
    house.restart().await;
    let acknowledged = acknowledged.load(Ordering::SeqCst);
    // What was begun and not told of may be drawn, be held still, or never have been.
    let quota = house.get("/api/v1/quota", &secret).await.ok();
    let taken = 1_000_000 - quota["remaining"].as_i64().unwrap();
    assert!(
        (acknowledged..=acknowledged + CLIENTS).contains(&taken),
        "{taken} of {acknowledged}"
    );
    let used = quota["used"].as_i64().unwrap();
    let history = house
        .get("/api/v1/usage/history?limit=1", &secret)
        .await
        .ok();
    assert_eq!(history["total"], used);
    house.post("/api/v1/use", &secret, &json!({})).await.ok();
}
