//! What metrics show of each configured peer.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec};

use super::family::Maker;
use super::label::{
    REST_CAUSES, RestCause, SKIP_REASONS, SkipReason, UPSTREAM_OUTCOMES, UpstreamOutcome,
};

/// One peer as metrics show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    pub pool: String,
    pub peer: String,
    /// In rotation.
    pub healthy: bool,
    /// Its health checks fail.
    pub down: bool,
    /// Exchanges that it serves now.
    pub running: i64,
}

/// The families of peers. Their labels are the peers of the configuration: one that a reload takes
/// away takes its series along.
#[derive(Debug)]
pub struct PeerFamilies {
    healthy: IntGaugeVec,
    down: IntGaugeVec,
    running: IntGaugeVec,
    attempts: IntCounterVec,
    rests: IntCounterVec,
    skips: IntCounterVec,
    /// By pool and peer.
    counters: RwLock<HashMap<String, HashMap<String, Arc<PeerCounters>>>>,
    shown: Mutex<Vec<PeerState>>,
}

/// The counters of one peer, resolved once.
#[derive(Debug)]
pub struct PeerCounters {
    outcomes: [IntCounter; UPSTREAM_OUTCOMES.len()],
    rests: [IntCounter; REST_CAUSES.len()],
    skips: [IntCounter; SKIP_REASONS.len()],
}

impl PeerCounters {
    pub fn attempt(&self, outcome: UpstreamOutcome) {
        self.outcomes[outcome as usize].inc();
    }

    pub fn rests(&self, cause: RestCause) {
        self.rests[cause as usize].inc();
    }

    pub fn skipped(&self, reason: SkipReason) {
        self.skips[reason as usize].inc();
    }
}

impl PeerFamilies {
    pub(super) fn new(make: Maker<'_>) -> Result<Self, prometheus::Error> {
        let labels = &["pool", "peer"];
        Ok(PeerFamilies {
            healthy: make.gauges(
                "upstream_peer_healthy",
                "1 while a peer is in rotation.",
                labels,
            )?,
            down: make.gauges(
                "upstream_peer_down",
                "1 while the health checks of a peer fail.",
                labels,
            )?,
            running: make.gauges(
                "upstream_peer_running",
                "Exchanges that a peer serves now.",
                labels,
            )?,
            attempts: make.counters(
                "upstream_attempts_total",
                "Attempts at peers by how they ended.",
                &["pool", "peer", "outcome"],
            )?,
            rests: make.counters(
                "upstream_rests_total",
                "Rests of peers that began, by cause.",
                &["pool", "peer", "cause"],
            )?,
            skips: make.counters(
                "upstream_skips_total",
                "Choices that passed a peer over, by reason.",
                &["pool", "peer", "reason"],
            )?,
            counters: RwLock::default(),
            shown: Mutex::default(),
        })
    }

    /// The counters of a peer. Takes a lock.
    pub fn of(&self, pool: &str, peer: &str) -> Arc<PeerCounters> {
        let known = self.counters.read();
        if let Some(known) = known.get(pool).and_then(|peers| peers.get(peer)) {
            return Arc::clone(known);
        }
        drop(known);
        let mut counters = self.counters.write();
        let peers = counters.entry(pool.to_owned()).or_default();
        let made = peers.entry(peer.to_owned()).or_insert_with(|| {
            let of = |family: &IntCounterVec, word| family.with_label_values(&[pool, peer, word]);
            Arc::new(PeerCounters {
                outcomes: UPSTREAM_OUTCOMES.map(|word| of(&self.attempts, word)),
                rests: REST_CAUSES.map(|word| of(&self.rests, word)),
                skips: SKIP_REASONS.map(|word| of(&self.skips, word)),
            })
        });
        Arc::clone(made)
    }

    /// Shows these, and none that is not among them: a reload may have taken it away. Gauges are set
    /// nowhere else: an exchange of before may still tell of a peer that is gone.
    pub fn show(&self, states: Vec<PeerState>) {
        let mut shown = self.shown.lock();
        for state in &states {
            let labels = [state.pool.as_str(), state.peer.as_str()];
            let healthy = self.healthy.with_label_values(&labels);
            healthy.set(i64::from(state.healthy));
            let down = self.down.with_label_values(&labels);
            down.set(i64::from(state.down));
            self.running.with_label_values(&labels).set(state.running);
            drop(self.of(&state.pool, &state.peer));
        }
        let is_shown = |pool: &str, peer: &str| {
            let mut states = states.iter();
            states.any(|state| state.pool == pool && state.peer == peer)
        };
        for old in shown.iter().filter(|old| !is_shown(&old.pool, &old.peer)) {
            for family in [&self.healthy, &self.down, &self.running] {
                // One that was never set is not there to be taken away.
                drop(family.remove_label_values(&[&old.pool, &old.peer]));
            }
        }
        self.counters.write().retain(|pool, peers| {
            peers.retain(|peer, _| {
                let stays = is_shown(pool, peer);
                if !stays {
                    self.forget(pool, peer);
                }
                stays
            });
            !peers.is_empty()
        });
        *shown = states;
    }

    fn forget(&self, pool: &str, peer: &str) {
        let families = [
            (&self.attempts, &UPSTREAM_OUTCOMES[..]),
            (&self.rests, &REST_CAUSES[..]),
            (&self.skips, &SKIP_REASONS[..]),
        ];
        for (family, words) in families {
            for word in words {
                drop(family.remove_label_values(&[pool, peer, word]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;
    use crate::telemetry::event::PeerHealth;

    /// An exchange of before a reload fails at a peer that the reload took away.
    #[test]
    fn what_is_told_of_a_peer_that_is_gone_brings_nothing_back() {
        let metrics = Metrics::new().unwrap();
        metrics.peers.show(Vec::new());
        let event = PeerHealth {
            pool: "p",
            peer: "gone:1",
            healthy: false,
            because: "it failed",
            rest: Some((RestCause::Failures, std::time::Duration::ZERO)),
        };
        event.emit(&metrics);
        metrics.peers.show(Vec::new());
        let text = metrics.render().unwrap();
        assert!(!text.contains("gone:1"), "{text}");
    }

    #[test]
    fn a_peer_that_is_gone_is_not_shown() {
        let metrics = Metrics::new().unwrap();
        let state = |peer: &str| PeerState {
            pool: String::from("p"),
            peer: peer.to_owned(),
            healthy: true,
            down: false,
            running: 2,
        };
        metrics.peers.show(vec![state("a:1"), state("b:1")]);
        for peer in ["a:1", "b:1"] {
            let counters = metrics.peers.of("p", peer);
            counters.attempt(UpstreamOutcome::Broken);
            counters.rests(RestCause::Asked);
            counters.skipped(SkipReason::Tight);
        }
        metrics.peers.show(vec![state("b:1")]);
        let text = metrics.render().unwrap();
        assert!(!text.contains("a:1"), "{text}");
        for line in [
            r#"upstream_peer_running{peer="b:1",pool="p"} 2"#,
            r#"upstream_peer_healthy{peer="b:1",pool="p"} 1"#,
            r#"upstream_peer_down{peer="b:1",pool="p"} 0"#,
            r#"upstream_attempts_total{outcome="broken",peer="b:1",pool="p"} 1"#,
            r#"upstream_attempts_total{outcome="ok",peer="b:1",pool="p"} 0"#,
            r#"upstream_rests_total{cause="asked",peer="b:1",pool="p"} 1"#,
            r#"upstream_skips_total{peer="b:1",pool="p",reason="tight"} 1"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
        }
    }
}
