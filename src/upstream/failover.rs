//! One exchange's way through the pools that may serve it: which peer next, and which pool when one
//! has no good peer left.

use std::sync::Arc;

use super::health::{Fitness, Probe};
use super::pool::{Peer, Route};
use crate::time::UnixMs;

/// The routes of one exchange in order, and what was tried of them.
#[derive(Debug)]
pub struct Failover {
    routes: Vec<Leg>,
    at: usize,
    tried: Vec<Arc<Peer>>,
    /// Of the peer tried last.
    probe: Option<Probe>,
}

#[derive(Debug)]
struct Leg {
    route: Route,
    attempts: u32,
}

/// What a choice of peers depends on, besides the peers.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Tokens that the request is expected to use.
    pub tokens: i64,
    pub key_hash: u64,
}

impl Failover {
    pub fn new(first: Route, others: Vec<Route>) -> Failover {
        let legs = std::iter::once(first).chain(others);
        let legs = legs.map(|route| Leg { route, attempts: 0 });
        Failover {
            routes: legs.collect(),
            at: 0,
            tried: Vec::new(),
            probe: None,
        }
    }

    /// The route in use.
    pub fn route(&self) -> &Route {
        &self.routes[self.at].route
    }

    /// All of them, the one in use among them.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().map(|leg| &leg.route)
    }

    /// Whether another route could come into use.
    pub fn has_others(&self) -> bool {
        self.routes.len() > 1
    }

    /// Stays on the route in use, whatever happens to it.
    pub fn stay(&mut self) {
        self.routes.swap(0, self.at);
        self.routes.truncate(1);
        self.at = 0;
    }

    /// The peer tried last.
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        self.tried.last()
    }

    pub fn attempts(&self) -> usize {
        self.tried.len()
    }

    /// Goes on to the next peer: a good one of the first pool that has one and has attempts left, else
    /// one that rests. `None` when all is tried.
    pub fn next(&mut self, need: Need, now: UnixMs) -> Option<Arc<Peer>> {
        let (at, (peer, probe)) = Fitness::GROUPS.into_iter().find_map(|worst| {
            let mut open = self
                .routes
                .iter()
                .enumerate()
                .filter(|(_, leg)| leg.may_try());
            open.find_map(|(at, leg)| {
                let tried = |peer: &Arc<Peer>| self.was_tried(peer);
                let found = leg.route.pool.next_peer(tried, need, now, worst)?;
                Some((at, found))
            })
        })?;
        self.leave();
        self.probe = probe;
        self.at = at;
        self.routes[at].attempts += 1;
        self.tried.push(Arc::clone(&peer));
        Some(peer)
    }

    /// The peer tried last is left: a probe that it gave no verdict on is another's.
    pub fn leave(&mut self) {
        if let (Some(peer), Some(probe)) = (self.tried.last(), self.probe.take()) {
            peer.health.end_probe(probe);
        }
    }

    /// Whether another peer could still be tried.
    pub fn may_try_another(&self) -> bool {
        let mut open = self.routes.iter().filter(|leg| leg.may_try());
        open.any(|leg| {
            leg.route
                .pool
                .peers
                .iter()
                .any(|peer| !self.was_tried(peer))
        })
    }

    fn was_tried(&self, peer: &Arc<Peer>) -> bool {
        self.tried.iter().any(|tried| Arc::ptr_eq(tried, peer))
    }
}

impl Leg {
    fn may_try(&self) -> bool {
        self.attempts < self.route.pool.config.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::metering::Dialect;
    use crate::upstream::Pools;

    const NEED: Need = Need {
        tokens: 10,
        key_hash: 7,
    };
    const NOW: UnixMs = UnixMs(1_000);

    fn failover(yaml: &str) -> Failover {
        let here = std::path::Path::new(".");
        let parsed = config::parse(yaml, "test", here, &|_| None).unwrap();
        let pools = Pools::new(&parsed.config.pools, None);
        let mut routes = pools.by_model("m", Dialect::OpenAi, |_| true).unwrap();
        let first = routes.remove(0);
        Failover::new(first, routes)
    }

    fn names(failover: &mut Failover) -> Vec<String> {
        std::iter::from_fn(|| failover.next(NEED, NOW))
            .map(|peer| peer.name.clone())
            .collect()
    }

    const TWO: &str = "
pools:
  - {name: a, dialect: openai, models: ['m'], balance: fallback, peers: [{url: 'http://a1:1'}, {url: 'http://a2:1'}, {url: 'http://a3:1'}]}
  - {name: b, dialect: openai, models: ['*'], peers: [{url: 'http://b1:1'}]}
  - {name: c, dialect: anthropic, models: ['*'], peers: [{url: 'http://c1:1'}]}
";

    #[test]
    fn a_pools_attempts_come_first_then_the_next_pools() {
        assert_eq!(names(&mut failover(TWO)), ["a1:1", "a2:1", "b1:1"]);
    }

    #[test]
    fn a_pool_whose_peers_rest_is_passed_over_and_comes_last() {
        let mut failover = failover(TWO);
        for peer in &failover.route().pool.peers {
            peer.health.rest(UnixMs(5_000));
        }
        assert_eq!(names(&mut failover), ["b1:1", "a1:1", "a2:1"]);
        assert!(!failover.may_try_another());
    }

    #[test]
    fn one_that_stays_has_one_pool() {
        let mut failover = failover(TWO);
        failover.stay();
        assert!(!failover.has_others());
        assert_eq!(names(&mut failover), ["a1:1", "a2:1"]);
    }

    #[test]
    fn an_explicit_list_rules_and_an_empty_one_ends_it() {
        let listed = TWO.replace("name: a,", "name: a, fallback: [],");
        assert_eq!(names(&mut failover(&listed)), ["a1:1", "a2:1"]);
    }
}
