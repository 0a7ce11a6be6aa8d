//! Health checks (`pools[].health_check`): each peer of such a pool is asked at its interval, one
//! question at a time, each over a connection of its own. `fall` that fail in a row take it out of the
//! rotation, `rise` that pass bring it back. A rest after failures goes on meanwhile: it takes an
//! exchange to show that the peer serves again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::{BackgroundService, GenBackgroundService, background_service};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::HealthCheck;
use crate::exchange::Desk;
use crate::proxy::ask::{Asker, Question};
use crate::telemetry::event::PeerHealth;
use crate::telemetry::metrics::Metrics;
use crate::upstream::{Peer, Pool};

/// How often it is looked whether a check is due: a reload is followed within this time.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes of an answer that are read.
const MOST_BYTES: usize = 64 * 1024;
/// The first checks come spread over this time at the most.
const START: Duration = Duration::from_secs(1);

/// Asks the peers of all pools that want it.
pub struct Checks {
    desk: Arc<Desk>,
    metrics: Arc<Metrics>,
}

/// A pool's name and a peer's.
type Name = (String, String);

/// When each peer is asked next; `None` while it is being asked.
type Plan = HashMap<Name, Option<Instant>>;

/// A check that is over.
struct Ended {
    name: Name,
    interval: Duration,
    /// What it was answered.
    status: Option<u16>,
    path: String,
}

impl Checks {
    pub fn new(desk: Arc<Desk>, metrics: Arc<Metrics>) -> Self {
        Checks { desk, metrics }
    }

    pub fn service(self) -> GenBackgroundService<Checks> {
        background_service("health checks", self)
    }

    async fn run(&self) {
        let asker = Arc::new(Asker::default());
        let mut plan = Plan::new();
        let mut running = JoinSet::new();
        let mut heard = Heard::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => self.start_due(&mut plan, &asker, &mut running),
                Some(ended) = running.join_next() => match ended {
                    Ok(ended) => {
                        let next = Instant::now() + jittered(ended.interval);
                        if let Some(due) = plan.get_mut(&ended.name) {
                            *due = Some(next);
                            heard.note(&ended);
                        }
                        heard.forget_others(&plan);
                    }
                    // The peer is asked anew with the next look.
                    Err(fault) => {
                        log::error!("a health check failed: {fault}");
                        plan.clear();
                    }
                },
            }
        }
    }

    fn start_due(&self, plan: &mut Plan, asker: &Arc<Asker>, running: &mut JoinSet<Ended>) {
        let live = self.desk.live.load_full();
        let now = Instant::now();
        let mut wanted = Plan::new();
        for pool in live.pools.all() {
            let Some(check) = &pool.config.health_check else {
                continue;
            };
            for peer in &pool.peers {
                let name = (pool.config.name.clone(), peer.name.clone());
                let first = || Some(now + share_of(check.interval.min(START)));
                let mut due = plan.remove(&name).unwrap_or_else(first);
                if due.is_some_and(|due| due <= now) {
                    due = None;
                    let one = Check {
                        pool: Arc::clone(pool),
                        peer: Arc::clone(peer),
                        check: check.clone(),
                        metrics: Arc::clone(&self.metrics),
                    };
                    let asker = Arc::clone(asker);
                    let name = name.clone();
                    running.spawn(async move { one.run(name, &asker).await });
                }
                wanted.insert(name, due);
            }
        }
        *plan = wanted;
    }
}

/// One question to one peer.
struct Check {
    pool: Arc<Pool>,
    peer: Arc<Peer>,
    check: HealthCheck,
    metrics: Arc<Metrics>,
}

impl Check {
    async fn run(self, name: Name, asker: &Asker) -> Ended {
        let question = Question {
            path: &self.check.path,
            patience: self.check.timeout,
            most: MOST_BYTES,
        };
        let answer = asker.ask(&self.pool.config, &self.peer, question).await;
        let passed = match &answer {
            Ok(answer) => self.check.accepts(answer.status),
            Err(fault) => {
                log::debug!("a health check: {}", fault.etype().as_str());
                false
            }
        };
        if self.peer.health.checked(passed) {
            let event = PeerHealth {
                pool: &self.pool.config.name,
                peer: &self.peer.name,
                healthy: passed,
                because: if passed {
                    "its health check passes"
                } else {
                    "its health check fails"
                },
                rest: None,
            };
            event.emit(&self.metrics);
        }
        Ended {
            name,
            interval: self.check.interval,
            status: answer.ok().map(|answer| answer.status),
            path: self.check.path,
        }
    }
}

/// Whose path was found to be none.
#[derive(Default)]
struct Heard(HashSet<Name>);

impl Heard {
    /// A path that is misspelt passes, where 404 does: it is told once, until it is answered otherwise.
    fn note(&mut self, ended: &Ended) {
        if ended.status != Some(404) {
            self.0.remove(&ended.name);
        } else if self.0.insert(ended.name.clone()) {
            let (pool, peer) = &ended.name;
            log::warn!(
                "the health check of peer {peer} of pool {pool} is answered 404: is {} its path?",
                ended.path
            );
        }
    }

    fn forget_others(&mut self, plan: &Plan) {
        self.0.retain(|name| plan.contains_key(name));
    }
}

/// An interval, a tenth longer or shorter: the checks of many edges must not fall together.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9) + share_of(interval.mul_f64(0.2))
}

/// A random part of this time.
fn share_of(time: Duration) -> Duration {
    // Without randomness the checks come evenly, which does no harm.
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    time.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[async_trait]
impl BackgroundService for Checks {
    /// Ends when the process begins to stop: new exchanges are not taken then.
    async fn start(&self, mut shutdown: ShutdownWatch) {
        tokio::select! {
            () = self.run() => {}
            _ = shutdown.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_tenth() {
        let interval = Duration::from_secs(10);
        for _ in 0..100 {
            let next = jittered(interval);
            assert!((9_000..=11_000).contains(&next.as_millis()), "{next:?}");
        }
    }
}
