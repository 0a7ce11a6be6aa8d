//! The engines under test: what a store of each leaves behind, and the next one begins with.

use std::sync::Arc;
use std::time::Duration;

use quota_proxy::quota::LostReservation;
use quota_proxy::store::Store;
use quota_proxy::store::embedded::{EmbeddedOptions, EmbeddedStore};
use quota_proxy::store::redis::{LinkOptions, RedisOptions, RedisStore};
use quota_proxy::time::Clock;

use super::redis_server::RedisServer;

/// What README.md says that Redis must allow, and no more: the suite runs as such a user.
fn acl_rules() -> Vec<String> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let begin = "ACL SETUSER quota-proxy on >PASSWORD ";
    let readme = readme.unwrap();
    let line = readme.lines().find_map(|line| line.strip_prefix(begin));
    let rules = line.expect("README.md tells what an ACL user needs");
    rules.split_whitespace().map(String::from).collect()
}

/// Where the books are.
pub enum Engine {
    Embedded(tempfile::TempDir),
    Redis(Box<RedisServer>),
}

impl Engine {
    pub fn embedded() -> Engine {
        Engine::Embedded(tempfile::tempdir().unwrap())
    }

    /// A server whose users may do what README.md says, and no more.
    pub async fn redis() -> Engine {
        let start = || {
            let rules = acl_rules();
            let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
            RedisServer::start_acl("quota-proxy", "of-the-contract", &rules)
        };
        let server = tokio::task::spawn_blocking(start).await;
        Engine::Redis(Box::new(server.unwrap()))
    }

    /// A store on it that answers.
    pub async fn open(&self, clock: Clock, lost_reservation: LostReservation) -> Arc<dyn Store> {
        match self {
            Engine::Embedded(folder) => {
                let options = EmbeddedOptions {
                    lost_reservation,
                    clock,
                    // A process that another test starts just now holds the lock until it is one of
                    // its own.
                    patience: Duration::from_secs(10),
                    ..EmbeddedOptions::default()
                };
                EmbeddedStore::open(&folder.path().join("quota.db"), options).unwrap()
            }
            Engine::Redis(server) => {
                let link = LinkOptions {
                    timeout: Duration::from_secs(10),
                    ..LinkOptions::standalone(server.url())
                };
                let options = RedisOptions {
                    lost_reservation,
                    clock: Some(clock),
                    ..RedisOptions::new(link)
                };
                let store = RedisStore::start(options).unwrap();
                while store.ping().await.is_err() {}
                store
            }
        }
    }

    pub fn is_embedded(&self) -> bool {
        matches!(self, Engine::Embedded(_))
    }

    /// What a kill -9 leaves is the file as it is at this instant: the next store opens a copy of
    /// it, while the old one never gets to know. Of an edge on Redis nothing is left.
    pub fn die(&mut self) {
        let Engine::Embedded(present) = self else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        // The log last: it has all that the file may lack.
        for suffix in ["", "-wal"] {
            let name = format!("quota.db{suffix}");
            let from = present.path().join(&name);
            if from.exists() {
                std::fs::copy(from, folder.path().join(name)).unwrap();
            }
        }
        *self = Engine::Embedded(folder);
    }
}
