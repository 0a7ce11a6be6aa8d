//! One exchange's way through the pools that may serve it: which peer next, and which pool when one
//! has no good peer left.

use std::sync::Arc;
use std::time::Instant;

use super::attempt::Attempt;
use super::health::Fitness;
use super::peer::Peer;
use super::pool::{Pool, Route};

/// The routes of one exchange in order, and what was tried of them.
#[derive(Debug)]
pub struct Failover {
    routes: Vec<Leg>,
    at: usize,
    tried: Vec<Arc<Peer>>,
    attempt: Option<Attempt>,
    passed_over: Vec<PassedOver>,
}

/// A peer that would have been asked, were it fitter.
#[derive(Clone, Debug)]
pub struct PassedOver {
    pub pool: Arc<Pool>,
    pub peer: Arc<Peer>,
    pub fitness: Fitness,
}

#[derive(Debug)]
struct Leg {
    route: Route,
    attempts: u32,
}

/// What a choice of peers depends on, besides the peers.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// A hash of the model's name at the provider.
    pub model: u64,
    /// Tokens that the request is expected to use.
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub key_hash: u64,
}

impl Need {
    /// A question that costs no tokens.
    pub const NOTHING: Need = Need {
        model: 0,
        input_tokens: 0,
        output_tokens: 0,
        key_hash: 0,
    };
}

impl Failover {
    pub fn new(first: Route, others: Vec<Route>) -> Failover {
        let legs = std::iter::once(first).chain(others);
        let legs = legs.map(|route| Leg { route, attempts: 0 });
        Failover {
            routes: legs.collect(),
            at: 0,
            tried: Vec::new(),
            attempt: None,
            passed_over: Vec::new(),
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

    /// The exchange at that peer.
    pub fn attempt(&mut self) -> Option<&mut Attempt> {
        self.attempt.as_mut()
    }

    /// The peers that the last choice passed over because they rest or have too little room.
    pub fn passed_over(&self) -> &[PassedOver] {
        &self.passed_over
    }

    pub fn attempts(&self) -> usize {
        self.tried.len()
    }

    /// Goes on to the next peer: a good one of the first pool that has one and has attempts left, else
    /// one that has little room, else one that rests: a pool all of whose peers rest is tried all the
    /// same. `need` is what the exchange needs of a route. `None` when all is tried.
    pub fn next(&mut self, need: impl Fn(&Route) -> Need, now: Instant) -> Option<&Arc<Peer>> {
        self.attempt = None;
        let (at, attempt) = Fitness::GROUPS.into_iter().find_map(|worst| {
            let mut open = self
                .routes
                .iter()
                .enumerate()
                .filter(|(_, leg)| leg.may_try());
            open.find_map(|(at, leg)| {
                let (pool, need) = (&leg.route.pool, need(&leg.route));
                let attempt = pool.next_peer(|peer| self.was_tried(peer), need, now, worst)?;
                Some((at, attempt))
            })
        })?;
        self.note_passed_over(at, attempt.fitness, need, now);
        self.at = at;
        self.routes[at].attempts += 1;
        self.tried.push(Arc::clone(attempt.peer()));
        self.attempt = Some(attempt);
        self.tried.last()
    }

    fn note_passed_over(
        &mut self,
        at: usize,
        chosen: Fitness,
        need: impl Fn(&Route) -> Need,
        now: Instant,
    ) {
        let mut passed_over = std::mem::take(&mut self.passed_over);
        passed_over.clear();
        let open = self.routes.iter().take(at + 1).filter(|leg| leg.may_try());
        for route in open.map(|leg| &leg.route) {
            let untried = route.pool.takers().filter(|peer| !self.was_tried(peer));
            for peer in untried {
                let fitness = peer.health.fitness(&need(route), now);
                if fitness > chosen.max(Fitness::Doubtful) {
                    passed_over.push(PassedOver {
                        pool: Arc::clone(&route.pool),
                        peer: Arc::clone(peer),
                        fitness,
                    });
                }
            }
        }
        self.passed_over = passed_over;
    }

    /// Whether another peer could still be tried.
    pub fn may_try_another(&self) -> bool {
        let mut open = self.routes.iter().filter(|leg| leg.may_try());
        open.any(|leg| {
            let mut takers = leg.route.pool.takers();
            takers.any(|peer| !self.was_tried(peer))
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
    use std::sync::LazyLock;
    use std::time::Duration;

    use crate::config;
    use crate::metering::Dialect;
    use crate::upstream::Pools;

    fn ms(at: u64) -> Instant {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        *START + Duration::from_millis(at)
    }

    fn failover(yaml: &str) -> Failover {
        let here = std::path::Path::new(".");
        let parsed = config::parse(yaml, "test", here, &|_| None).unwrap();
        let pools = Pools::new(&parsed.config.pools, None);
        let mut routes = pools.by_model("m", Dialect::OpenAi, |_| true).unwrap();
        let first = routes.remove(0);
        Failover::new(first, routes)
    }

    fn names(failover: &mut Failover) -> Vec<String> {
        let next = || {
            let peer = failover.next(|_| Need::NOTHING, ms(1_000))?;
            Some(peer.name.clone())
        };
        std::iter::from_fn(next).collect()
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
            peer.health.asked_to_rest(ms(5_000), ms(1_000));
        }
        assert_eq!(names(&mut failover), ["b1:1", "a1:1", "a2:1"]);
        assert!(!failover.may_try_another());
    }

    #[test]
    fn who_is_passed_over_is_told_of_each_choice() {
        let mut failover = failover(TWO);
        let told = |failover: &Failover| {
            let passed = failover.passed_over().iter();
            passed
                .map(|one| (one.peer.name.clone(), one.fitness))
                .collect::<Vec<_>>()
        };
        let first = Arc::clone(&failover.route().pool.peers[0]);
        first.health.asked_to_rest(ms(5_000), ms(1_000));
        failover.next(|_| Need::NOTHING, ms(1_000));
        let resting = vec![(String::from("a1:1"), Fitness::Resting)];
        assert_eq!(told(&failover), resting);
        failover.next(|_| Need::NOTHING, ms(1_000));
        assert_eq!(told(&failover), resting);
        failover.next(|_| Need::NOTHING, ms(5_000));
        assert_eq!(told(&failover), []);
    }

    #[test]
    fn an_exchange_runs_at_one_peer_at_a_time() {
        let mut failover = failover(TWO);
        let peers = failover.route().pool.peers.clone();
        let running = || [0, 1].map(|at: usize| peers[at].health.running());
        failover.next(|_| Need::NOTHING, ms(1_000));
        assert_eq!(running(), [1, 0]);
        failover.next(|_| Need::NOTHING, ms(1_000));
        assert_eq!(running(), [0, 1]);
        drop(failover);
        assert_eq!(running(), [0, 0]);
    }

    #[test]
    fn one_that_stays_has_one_pool() {
        let mut failover = failover(TWO);
        failover.stay();
        assert!(!failover.has_others());
        assert_eq!(names(&mut failover), ["a1:1", "a2:1"]);
    }

    #[test]
    fn a_drained_peer_takes_none() {
        let drained = TWO.replace("{url: 'http://a1:1'}", "{url: 'http://a1:1', weight: 0}");
        let mut failover = failover(&drained);
        assert_eq!(names(&mut failover), ["a2:1", "a3:1", "b1:1"]);
        assert!(!failover.may_try_another());
        assert!(failover.passed_over().is_empty());
        let alone = TWO.replace("{url: 'http://b1:1'}", "{url: 'http://b1:1', weight: 0}");
        assert_eq!(names(&mut self::failover(&alone)), ["a1:1", "a2:1"]);
    }

    #[test]
    fn an_explicit_list_rules_and_an_empty_one_ends_it() {
        let listed = TWO.replace("name: a,", "name: a, fallback: [],");
        assert_eq!(names(&mut failover(&listed)), ["a1:1", "a2:1"]);
    }
}
