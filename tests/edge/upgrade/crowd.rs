//! Clients that notice whatever they should not.
#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::admin::Key;
use crate::support::chance::Chance;
use crate::support::rig::{CHAT, Rig, chat, chat_stream};
use crate::support::wait::{PATIENCE, eventually};

/// Clients that call until they are told to stop. Each answer must be whole.
pub struct Crowd {
    clients: JoinSet<()>,
    over: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    tokens: Arc<AtomicU64>,
}

/// How a client calls.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// Over connections that are kept alive.
    Kept,
    /// Over a new connection each.
    Fresh,
    /// Over one HTTP/2 connection.
    Http2,
    /// Asks the admin service, over connections that are kept alive.
    Admin,
}

impl Crowd {
    pub fn start(rig: &Rig, key: &Key, chance: &mut Chance) -> Crowd {
        let mut crowd = Crowd {
            clients: JoinSet::new(),
            over: Arc::default(),
            good: Arc::default(),
            tokens: Arc::default(),
        };
        let manners = [Manner::Kept, Manner::Fresh, Manner::Http2, Manner::Admin];
        for at in 0..12 {
            let client = Caller {
                manner: manners[at % 4],
                url: format!("{}{CHAT}", rig.url()),
                admin: format!("http://{}/api/usage/quota", rig.process().admin),
                secret: key.secret.clone(),
                over: Arc::clone(&crowd.over),
                good: Arc::clone(&crowd.good),
                tokens: Arc::clone(&crowd.tokens),
            };
            crowd.clients.spawn(client.call(chance.fork()));
        }
        crowd
    }

    /// Waits until so many more were answered.
    pub async fn answers(&self, more: u64) {
        let enough = self.good.load(Relaxed) + more;
        eventually(PATIENCE, || async {
            let good = self.good.load(Relaxed);
            if good >= enough {
                Ok(())
            } else {
                Err((good, enough))
            }
        })
        .await;
    }

    /// How many were answered, and with how many tokens.
    pub async fn end(mut self) -> (u64, u64) {
        self.over.store(true, Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        (self.good.load(Relaxed), self.tokens.load(Relaxed))
    }
}

struct Caller {
    manner: Manner,
    url: String,
    admin: String,
    secret: String,
    over: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    tokens: Arc<AtomicU64>,
}

impl Caller {
    async fn call(self, mut chance: Chance) {
        let client = Client::builder().no_proxy();
        let client = match self.manner {
            Manner::Kept | Manner::Admin => client,
            Manner::Fresh => client.pool_max_idle_per_host(0),
            Manner::Http2 => client.http2_prior_knowledge(),
        };
        let client = client.build().unwrap();
        while !self.over.load(Relaxed) {
            if let Manner::Admin = self.manner {
                let asked = client
                    .get(&self.admin)
                    .bearer_auth(&self.secret)
                    .send()
                    .await;
                assert_eq!(asked.unwrap().status(), 200);
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            }
            let stream = chance.below(2) == 0;
            let tokens = 1 + chance.below(60);
            let mut body = if stream {
                chat_stream("gpt-4o")
            } else {
                chat("gpt-4o")
            };
            body["max_tokens"] = json!(100);
            let request = client.post(&self.url).bearer_auth(&self.secret).json(&body);
            let request = request.header("x-fake", format!("tokens={tokens},interval=2ms"));
            let answer = request.send().await;
            let answer = answer.unwrap_or_else(|fault| panic!("{:?}: {fault:?}", self.manner));
            assert_eq!(answer.status(), 200, "{:?}", self.manner);
            let text = answer.text().await;
            let text = text.unwrap_or_else(|fault| panic!("{:?}: {fault:?}", self.manner));
            if stream {
                assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
            } else {
                let whole: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(whole["usage"]["completion_tokens"], tokens);
            }
            self.good.fetch_add(1, Relaxed);
            self.tokens.fetch_add(tokens, Relaxed);
        }
    }
}
