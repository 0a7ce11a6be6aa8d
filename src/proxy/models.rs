//! `GET /v1/models`: what the pools serve and the key may use. Named models come from the
//! configuration; for globs the upstream is asked, seldom.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::ask::{Asker, Question};
use crate::exchange::{Identity, Live};
use crate::keys::allow::model_allowed;
use crate::metering::Dialect;
use crate::upstream::failover::Need;
use crate::upstream::{Fitness, Pool};

/// How long an upstream's list is believed.
const FRESH: Duration = Duration::from_secs(300);
/// A failed question is not repeated sooner.
const STALE: Duration = Duration::from_secs(15);
/// Longest wait for an upstream's list, and the most of it that is read.
const PATIENCE: Duration = Duration::from_secs(5);
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// Upstreams' own lists, by pool.
#[derive(Debug, Default)]
pub struct ModelLists {
    known: Mutex<HashMap<String, Arc<Shelf>>>,
    asker: Asker,
}

/// The list of one pool. Who asks for a new one holds the lock: the others wait for that.
#[derive(Debug)]
struct Shelf {
    /// Of its peers, as they are reached: other ones, or other credentials, have other lists.
    peers: Vec<u64>,
    list: tokio::sync::Mutex<Option<Known>>,
}

/// A list, and until when it is believed.
#[derive(Clone, Debug)]
struct Known {
    until: Instant,
    list: Arc<BTreeSet<String>>,
}

/// The list, or one model of it (`/v1/models/ID`); `None` where that is not served.
pub async fn answer(
    lists: &ModelLists,
    live: &Arc<Live>,
    identity: &Identity,
    path: &str,
    anthropic: bool,
) -> Option<Value> {
    let dialect = if anthropic {
        Dialect::Anthropic
    } else {
        Dialect::OpenAi
    };
    let one = path.split_once("/models/").map(|(_, id)| id);
    let names = served(lists, live, identity, dialect).await;
    let show = |(id, owner): &(String, String)| {
        if anthropic {
            json!({"type": "model", "id": id, "display_name": id, "created_at": "1970-01-01T00:00:00Z"})
        } else {
            json!({"id": id, "object": "model", "created": 0, "owned_by": owner})
        }
    };
    if let Some(one) = one {
        return names.iter().find(|(id, _)| id == one).map(show);
    }
    let data: Vec<Value> = names.iter().map(show).collect();
    let (first, last) = (
        names.first().map(|(id, _)| id),
        names.last().map(|(id, _)| id),
    );
    Some(if anthropic {
        json!({"data": data, "has_more": false, "first_id": first, "last_id": last})
    } else {
        json!({"object": "list", "data": data})
    })
}

/// Model and pool, sorted by name, each once.
async fn served(
    lists: &ModelLists,
    live: &Arc<Live>,
    identity: &Identity,
    dialect: Dialect,
) -> Vec<(String, String)> {
    let group = identity.group.as_ref();
    let allowed_pools = group.map_or(&[][..], |group| &group.allowed_pools);
    let allowed_models = group.map_or(&[][..], |group| &group.allowed_models);
    let mut found: Vec<(String, String)> = Vec::new();
    for pool in live
        .pools
        .all()
        .iter()
        .filter(|pool| pool.config.dialect == dialect)
    {
        let name = &pool.config.name;
        if !allowed_pools.is_empty() && !allowed_pools.contains(name) {
            continue;
        }
        let mut models: BTreeSet<String> = pool
            .config
            .models
            .iter()
            .filter(|model| !is_glob(model))
            .cloned()
            .collect();
        models.extend(pool.config.aliases.keys().cloned());
        if pool.config.models.iter().any(|model| is_glob(model)) {
            models.extend(
                lists
                    .of(pool)
                    .await
                    .iter()
                    .filter(|model| pool.serves(model))
                    .cloned(),
            );
        }
        let may = |model: &str| {
            model_allowed(&identity.key.allowed_models, Some(model))
                && model_allowed(allowed_models, Some(model))
        };
        found.extend(
            models
                .into_iter()
                .filter(|model| may(model))
                .map(|model| (model, name.clone())),
        );
    }
    found.sort();
    found.dedup_by(|a, b| a.0 == b.0);
    found
}

fn is_glob(model: &str) -> bool {
    model.contains(['*', '?', '[', '{'])
}

impl ModelLists {
    /// Waits for one question at the most, whoever asks it.
    async fn of(&self, pool: &Pool) -> Arc<BTreeSet<String>> {
        let shelf = self.shelf(pool);
        let mut known = shelf.list.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.until > Instant::now()) {
            return Arc::clone(&known.list);
        }
        let asked = self.ask(pool).await;
        let (list, fresh) = match asked {
            Some(list) => (Arc::new(list), FRESH),
            None => (
                known.take().map(|known| known.list).unwrap_or_default(),
                STALE,
            ),
        };
        *known = Some(Known {
            until: Instant::now() + fresh,
            list: Arc::clone(&list),
        });
        list
    }

    fn shelf(&self, pool: &Pool) -> Arc<Shelf> {
        let peers: Vec<u64> = pool.peers.iter().map(|peer| peer.identity).collect();
        let mut known = self.known.lock();
        if let Some(shelf) = known
            .get(&pool.config.name)
            .filter(|one| one.peers == peers)
        {
            return Arc::clone(shelf);
        }
        let shelf = Arc::new(Shelf {
            peers,
            list: tokio::sync::Mutex::default(),
        });
        known.insert(pool.config.name.clone(), Arc::clone(&shelf));
        shelf
    }

    async fn ask(&self, pool: &Pool) -> Option<BTreeSet<String>> {
        let (now, worst) = (Instant::now(), Fitness::Resting);
        let attempt = pool.next_peer(|_| false, Need::NOTHING, now, worst)?;
        let upstream = attempt.peer();
        let question = Question {
            path: "/v1/models",
            patience: PATIENCE,
            most: MOST_BYTES,
        };
        let answer = self.asker.ask(&pool.config, upstream, question).await;
        let answer = answer.inspect_err(|fault| {
            log::warn!(
                "peer {} of pool {} did not list its models: {}",
                upstream.name,
                pool.config.name,
                fault.etype().as_str()
            );
        });
        let body = answer.ok().filter(|answer| answer.is_whole)?.body;
        let list: Value = serde_json::from_slice(&body).ok()?;
        let ids = list
            .get("data")?
            .as_array()?
            .iter()
            .filter_map(|model| model.get("id")?.as_str());
        Some(ids.map(str::to_owned).collect())
    }
}
