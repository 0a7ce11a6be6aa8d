//! What metrics show of each configured peer.

use parking_lot::Mutex;
use prometheus::IntGaugeVec;

use super::family::Maker;

/// One peer as metrics show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    pub pool: String,
    pub peer: String,
    /// In rotation.
    pub healthy: bool,
    /// Exchanges that it serves now.
    pub running: i64,
}

/// The families of peers.
#[derive(Debug)]
pub struct PeerFamilies {
    healthy: IntGaugeVec,
    running: IntGaugeVec,
    shown: Mutex<Vec<PeerState>>,
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
            running: make.gauges(
                "upstream_peer_running",
                "Exchanges that a peer serves now.",
                labels,
            )?,
            shown: Mutex::default(),
        })
    }

    /// A peer has left the rotation, or is back.
    pub fn healthy(&self, pool: &str, peer: &str, healthy: bool) {
        let gauge = self.healthy.with_label_values(&[pool, peer]);
        gauge.set(i64::from(healthy));
    }

    /// Shows these, and none that is not among them: a reload may have taken it away.
    pub fn show(&self, states: Vec<PeerState>) {
        let mut shown = self.shown.lock();
        for state in &states {
            self.healthy(&state.pool, &state.peer, state.healthy);
            let gauge = self.running.with_label_values(&[&state.pool, &state.peer]);
            gauge.set(state.running);
        }
        for old in shown.iter() {
            let is_old = |state: &PeerState| state.pool == old.pool && state.peer == old.peer;
            if !states.iter().any(is_old) {
                let labels = [old.pool.as_str(), old.peer.as_str()];
                // One that was never set is not there to be taken away.
                drop(self.healthy.remove_label_values(&labels));
                drop(self.running.remove_label_values(&labels));
            }
        }
        *shown = states;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn a_peer_that_is_gone_is_not_shown() {
        let metrics = Metrics::new().unwrap();
        let state = |peer: &str| PeerState {
            pool: String::from("p"),
            peer: peer.to_owned(),
            healthy: true,
            running: 2,
        };
        metrics.peers.show(vec![state("a:1"), state("b:1")]);
        metrics.peers.show(vec![state("b:1")]);
        let text = metrics.render().unwrap();
        assert!(!text.contains("a:1"), "{text}");
        assert!(text.contains(r#"upstream_peer_running{peer="b:1",pool="p"} 2"#));
        assert!(text.contains(r#"upstream_peer_healthy{peer="b:1",pool="p"} 1"#));
    }
}
