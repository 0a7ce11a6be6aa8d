//! Health checks (`pools[].health_check`): each peer of such a pool is asked at its interval, one
//! question at a time. No answer, or one of 500 and above, takes it out of the rotation; any other
//! brings it back: who answers 401 or 404 is there. A rest after failures goes on meanwhile: it takes an
//! exchange to show that the peer serves again.

use std::collections::HashMap;
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
/// Bounds of the wait for an answer, which is the interval between them.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
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
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => self.start_due(&mut plan, &asker, &mut running),
                Some(ended) = running.join_next() => match ended {
                    Ok((name, interval)) => {
                        let next = Instant::now() + jittered(interval);
                        if let Some(due) = plan.get_mut(&name) {
                            *due = Some(next);
                        }
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

    fn start_due(
        &self,
        plan: &mut Plan,
        asker: &Arc<Asker>,
        running: &mut JoinSet<(Name, Duration)>,
    ) {
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
                    let told = (name.clone(), check.interval);
                    running.spawn(async move {
                        one.run(&asker).await;
                        told
                    });
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
    async fn run(&self, asker: &Asker) {
        let question = Question {
            path: &self.check.path,
            patience: self.check.interval.clamp(SHORTEST_WAIT, LONGEST_WAIT),
            most: MOST_BYTES,
        };
        let answer = asker.ask(&self.pool.config, &self.peer, question).await;
        let passed = match &answer {
            Ok(answer) => (100..500).contains(&answer.status),
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
