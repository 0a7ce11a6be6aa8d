//! Several edges on one Redis, one fake provider behind them, and what looks at all of them.
//!
//! ```ignore
//! let redis = RedisServer::start();
//! let fleet = Fleet::on(&redis.url()).start(2).await;
//! let key = fleet.admin(0).key(1_000).await;
//! assert_eq!(fleet.status(1, &key.secret).await, 200);
//! fleet.assert_balanced(&[&key]).await;
//! ```

use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::admin::{Admin, Key};
use super::fake::{Fake, Ledger};
use super::redis_cluster::RedisCluster;
use super::redis_sentinel::SentinelSet;
use super::rig::{Rig, chat, strict_fake};
use super::wait::{PATIENCE, eventually, that};

pub const CHAT: &str = "/v1/chat/completions";

/// Long enough that a busy machine does not pass for a Redis that is away.
const TIMEOUT: &str = "5s";

/// The edges, and what they share but for their Redis.
#[derive(Debug)]
pub struct Fleet {
    edges: Vec<Rig>,
    fake: Fake,
}

/// What its edges are to be configured with.
#[derive(Clone, Debug)]
pub struct Builder {
    changes: Vec<(String, Value)>,
}

impl Fleet {
    /// On one server.
    pub fn on(url: &str) -> Builder {
        Builder::over(json!({"mode": "standalone", "urls": [url]}))
    }

    pub fn on_sentinels(set: &SentinelSet) -> Builder {
        let (urls, name) = (set.sentinel_urls(), set.primary_name());
        Builder::over(json!({"mode": "sentinel", "urls": urls, "primary": name}))
    }

    pub fn on_cluster(cluster: &RedisCluster) -> Builder {
        Builder::over(json!({"mode": "cluster", "urls": cluster.urls()}))
    }

    pub fn edges(&self) -> &[Rig] {
        &self.edges
    }

    pub fn edge(&self, at: usize) -> &Rig {
        &self.edges[at]
    }

    pub fn edge_mut(&mut self, at: usize) -> &mut Rig {
        &mut self.edges[at]
    }

    pub fn admin(&self, at: usize) -> Admin {
        self.edges[at].admin()
    }

    pub fn fake(&self) -> &Fake {
        &self.fake
    }

    pub async fn ledger(&self) -> Ledger {
        self.fake.ledger().await
    }

    /// The smallest chat at one edge, its body left unread.
    pub async fn chat(&self, at: usize, secret: &str, wish: &str) -> Response {
        let mut body = chat("gpt-4o");
        body["max_tokens"] = json!(50);
        self.edges[at].post_fake(CHAT, secret, &body, wish).await
    }

    /// The status of the smallest chat at one edge, read to its end.
    pub async fn status(&self, at: usize, secret: &str) -> u16 {
        let answer = self.chat(at, secret, "tokens=20").await;
        let status = answer.status().as_u16();
        answer.bytes().await.unwrap();
        status
    }

    /// Waits until that edge serves this key.
    pub async fn serves(&self, at: usize, key: &Key) {
        eventually(PATIENCE, || async {
            that(self.status(at, &key.secret).await, |status| *status == 200)
        })
        .await;
    }

    /// Every usage event of a key, as one edge's admin port tells its holder.
    pub async fn events(&self, at: usize, key: &Key) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let skip = events.len();
            let path = format!("/api/usage/logs?limit=1000&skip={skip}");
            let page = self.own(at, key, &path).await;
            let page = page.as_array().unwrap();
            events.extend(page.iter().cloned());
            if page.len() < 1_000 {
                return events;
            }
        }
    }

    /// A key's own figures from the edge port.
    pub async fn own(&self, at: usize, key: &Key, path: &str) -> Value {
        let request = self.edges[at].request(Method::GET, path, &key.secret);
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// I4: nothing is held any more, as every edge sees it.
    pub async fn settled(&self) {
        for edge in &self.edges {
            edge.admin().settled().await;
        }
    }

    /// I4 and I5 once all is quiet: nothing is held; on every edge the counters of the keys are the
    /// sums of their events; and all together they are what the upstream sent to these keys.
    ///
    /// # Panics
    /// With what does not agree.
    pub async fn assert_balanced(&self, keys: &[&Key]) {
        self.settled().await;
        for at in 0..self.edges.len() {
            let mut booked = 0;
            for key in keys {
                // What a key that moved owes is paid by the next sweep at the latest.
                let balanced = eventually(PATIENCE, || async {
                    let sum = sum(&self.events(at, key).await, "total_tokens");
                    let used = self.admin(at).show(key).await["token_used"].clone();
                    that((key.id.clone(), at, used, sum), |(_, _, used, sum)| {
                        *used == *sum
                    })
                });
                booked += balanced.await.3;
            }
            let sent = sent(&self.ledger().await);
            assert_eq!(booked, sent, "booked at edge {at}, against the upstream");
        }
    }

    /// The key's books with one held figure, whatever was lost on the way: never above its limit.
    pub async fn assert_within(&self, key: &Key, limit: i64) {
        for edge in &self.edges {
            let shown = edge.admin().show(key).await;
            let used = shown["token_used"].as_i64().unwrap();
            assert!(used <= limit, "{used} of {limit}: {shown}");
        }
    }

    /// No edge has panicked, nor said any of these words.
    pub fn assert_never_said(&self, words: &[&str]) {
        for edge in &self.edges {
            let said = edge.process().output();
            for word in words.iter().chain(&["panicked"]) {
                let lines = said.lines().filter(|line| line.contains(word));
                assert_eq!(lines.collect::<Vec<_>>(), Vec::<&str>::new());
            }
        }
    }
}

impl Builder {
    fn over(redis: Value) -> Self {
        let builder = Builder {
            changes: Vec::new(),
        };
        let store = json!({"kind": "redis", "path": "quota.db", "redis": redis});
        let builder = builder.set("store", store);
        builder.set("store.redis.timeout", json!(TIMEOUT))
    }

    /// Sets one value in the configuration of every edge, by its path.
    pub fn set(mut self, path: &str, value: Value) -> Self {
        self.changes.push((path.to_owned(), value));
        self
    }

    /// Starts so many edges, and waits until each has found its Redis.
    pub async fn start(self, edges: usize) -> Fleet {
        let fake = Fake::start(strict_fake());
        let mut fleet = Fleet {
            edges: Vec::new(),
            fake,
        };
        for _ in 0..edges {
            let mut rig = Rig::builder().behind(&fleet.fake);
            for (path, value) in &self.changes {
                rig = rig.set(path, value.clone());
            }
            fleet.edges.push(rig.start().await);
        }
        for edge in &fleet.edges {
            healthy(edge, "ok").await;
        }
        fleet
    }
}

/// Waits until the edge says this of itself.
pub async fn healthy(edge: &Rig, word: &str) {
    eventually(PATIENCE, || async {
        let answer = edge.request(Method::GET, "/healthz", "").send().await;
        let health: Value = answer.unwrap().json().await.unwrap();
        that(health, |health| health["status"] == word)
    })
    .await;
}

/// The sum of one figure over events.
pub fn sum(events: &[Value], figure: &str) -> i64 {
    events.iter().filter_map(|e| e[figure].as_i64()).sum()
}

/// Tokens of all answers that the upstream gave.
pub fn sent(ledger: &Ledger) -> i64 {
    let answered = ledger.records.iter().filter(|r| r.status == Some(200));
    let tokens = answered.map(|r| r.input_tokens + r.output_tokens);
    tokens.sum::<u64>() as i64
}
