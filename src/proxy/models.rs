//! `GET /v1/models`: what the pools serve and the key may use. Named models come from the
//! configuration; for globs the upstream is asked, seldom.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::ask::{Asker, Question};
use crate::exchange::{Identity, Live};
use crate::keys::allow::model_allowed;
use crate::metering::Dialect;
use crate::time::UnixMs;
use crate::upstream::failover::Need;
use crate::upstream::{Fitness, Pool};

/// How long an upstream's list is believed.
const FRESH: Duration = Duration::from_secs(300);
/// A failed question is not repeated sooner.
const STALE: Duration = Duration::from_secs(15);
/// Longest wait for an upstream's list, and the most of it that is read.
const PATIENCE: Duration = Duration::from_secs(5);
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// A pool's name, until when its list is believed, and the list.
type Known = (String, Instant, Arc<BTreeSet<String>>);

/// Upstreams' own lists, by pool.
#[derive(Debug, Default)]
pub struct ModelLists {
    known: Mutex<Vec<Known>>,
    asker: Asker,
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
    async fn of(&self, pool: &Pool) -> Arc<BTreeSet<String>> {
        let name = &pool.config.name;
        let known = self
            .known
            .lock()
            .iter()
            .find(|(known, _, _)| known == name)
            .map(|(_, at, list)| (*at, list.clone()));
        if let Some((_, list)) = known.as_ref().filter(|(until, _)| *until > Instant::now()) {
            return Arc::clone(list);
        }
        let asked = self.ask(pool).await;
        let (list, fresh) = match asked {
            Some(list) => (Arc::new(list), FRESH),
            None => (known.map(|(_, list)| list).unwrap_or_default(), STALE),
        };
        let mut all = self.known.lock();
        all.retain(|(known, _, _)| known != name);
        all.push((name.clone(), Instant::now() + fresh, Arc::clone(&list)));
        list
    }

    async fn ask(&self, pool: &Pool) -> Option<BTreeSet<String>> {
        let (now, worst) = (UnixMs::now(), Fitness::Resting);
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
