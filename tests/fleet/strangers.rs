//! RELIABILITY 21: a flood of made-up keys, no two the same. To know that a key is nobody's takes one
//! read of Redis, so a flood costs that for each and no more: nothing is written, the edge's memory
//! stays bounded, and a known key is served all the while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::json;

use super::obeyed::calls;
use super::support::chance::Chance;
use super::support::fleet::{CHAT, Fleet};
use super::support::redis_server::RedisServer;
use super::support::soak::soak;

const CLIENTS: u64 = 16;
const STRANGERS: u64 = 20_000;
/// What an edge may remember of strangers: 100 000 hashes, and what stands around them.
const MOST_MEMORY: u64 = 100 << 20;

/// Commands that change something, all kinds of them.
fn writes(redis: &RedisServer) -> u64 {
    let all = ["set", "zadd", "hset", "hincrby", "incr", "del", "setrange"];
    all.iter().map(|name| calls(redis, name)).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_made_up_keys_costs_a_read_each_and_nothing_else() {
    let strangers = STRANGERS * u64::from(soak());
    let redis = RedisServer::start();
    let fleet = Fleet::on(&redis.url()).start(1).await;
    let key = fleet.admin(0).key(0).await;
    fleet.serves(0, &key).await;
    fleet.settled().await;
    let resident = || fleet.edge(0).process().resident();
    let before = (calls(&redis, "get"), writes(&redis), resident());

    let mut chance = Chance::from_env();
    let over = Arc::new(AtomicBool::new(false));
    let url = format!("{}{CHAT}", fleet.edge(0).url());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let flood: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (http, url, mut chance) = (http.clone(), url.clone(), chance.fork());
            tokio::spawn(async move {
                for _ in 0..strangers / CLIENTS {
                    let made_up = format!("sk-proxy_{:032x}{:032x}", chance.next(), chance.next());
                    let request = http.post(&url).bearer_auth(made_up).json(&json!({}));
                    let answer = request.send().await.unwrap();
                    assert_eq!(answer.status(), 401);
                    answer.bytes().await.unwrap();
                }
            })
        })
        .collect();
    let served = async {
        let mut served = 0;
        while !over.load(Relaxed) {
            assert_eq!(fleet.status(0, &key.secret).await, 200);
            served += 1;
        }
        served
    };
    let flooded = async {
        for client in flood {
            client.await.unwrap();
        }
        over.store(true, Relaxed);
    };
    let (served, ()) = tokio::join!(served, flooded);
    fleet.settled().await;

    let read = calls(&redis, "get") - before.0;
    let written = writes(&redis) - before.1;
    let grown = resident().saturating_sub(before.2);
    println!(
        "{strangers} strangers: {read} reads, {written} writes, {grown} bytes; {served} served"
    );
    // A served exchange reads reservations and counters, and the key's record every few seconds.
    let most = strangers + 20 * (served + 10);
    assert!(
        (strangers..=most).contains(&read),
        "{read} reads, not {strangers} to {most}"
    );
    assert!(written <= 20 * (served + 10), "{written} writes");
    assert!(grown < MOST_MEMORY, "{grown} bytes more");
    assert_eq!(fleet.ledger().await.requests, served + 1);
    fleet.assert_never_said(&[]);
}
