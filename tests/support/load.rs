//! Clients that call all edges of a fleet in turn, until they are told to stop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use serde_json::json;
use tokio::task::JoinSet;

use super::admin::Key;
use super::fleet::{CHAT, Fleet};
use super::rig::chat;
use super::wait::{PATIENCE, eventually, that};

/// Running clients. They end with it.
#[derive(Debug)]
pub struct Load {
    clients: JoinSet<BTreeMap<u16, u64>>,
    over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    good: Arc<AtomicU64>,
}

impl Load {
    /// So many clients with this key; each goes on when its answer is read. The edges must live.
    pub fn start(fleet: &Fleet, key: &Key, clients: usize) -> Load {
        let mut load = Load {
            clients: JoinSet::new(),
            over: Arc::default(),
            answered: Arc::default(),
            good: Arc::default(),
        };
        let urls: Vec<String> = fleet.edges().iter().map(|e| e.url()).collect();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        for client in 0..clients {
            let (urls, http, secret) = (urls.clone(), http.clone(), key.secret.clone());
            let (over, answered) = (Arc::clone(&load.over), Arc::clone(&load.answered));
            let good = Arc::clone(&load.good);
            load.clients.spawn(async move {
                let mut statuses = BTreeMap::new();
                let mut body = chat("gpt-4o");
                body["max_tokens"] = json!(50);
                for turn in client.. {
                    if over.load(Relaxed) {
                        break;
                    }
                    let url = format!("{}{CHAT}", urls[turn % urls.len()]);
                    let request = http.post(url).bearer_auth(&secret).json(&body);
                    let request = request.header("x-fake", "tokens=20,latency=5ms");
                    let answer = request.send().await.unwrap();
                    let status = answer.status().as_u16();
                    answer.bytes().await.unwrap();
                    *statuses.entry(status).or_default() += 1;
                    answered.fetch_add(1, Relaxed);
                    good.fetch_add(u64::from(status == 200), Relaxed);
                }
                statuses
            });
        }
        load
    }

    /// Waits until so many more were served well.
    pub async fn serves(&self, more: u64) {
        let enough = self.good.load(Relaxed) + more;
        eventually(PATIENCE, || async {
            that(self.good.load(Relaxed), |good| *good >= enough)
        })
        .await;
    }

    /// Waits until so many more were answered, well or not.
    pub async fn answers(&self, more: u64) {
        let enough = self.answered.load(Relaxed) + more;
        eventually(PATIENCE, || async {
            that(self.answered.load(Relaxed), |answered| *answered >= enough)
        })
        .await;
    }

    /// Lets the clients finish; how often each status was seen.
    pub async fn end(mut self) -> BTreeMap<u16, u64> {
        self.over.store(true, Relaxed);
        let mut all = BTreeMap::new();
        while let Some(statuses) = self.clients.join_next().await {
            for (status, count) in statuses.unwrap() {
                *all.entry(status).or_default() += count;
            }
        }
        all
    }
}
