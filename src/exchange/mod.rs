//! THE LIFE OF ONE REQUEST, from admission to settlement, over the core and the `Store` trait.
//!
//! ```text
//!   identify ──▶ open ──▶ Exchange ──▶ attempt … ──▶ answer bytes ──▶ close
//!      │          │          │                                          │
//!   Refusal    Refusal     Drop (panic, cut-off) ──▶ settler ◀── store did not answer
//! ```
//!
//! An [`Exchange`] can only be made by a granted reservation, so forwarding without one does not
//! compile. Whatever happens to it, its reservation is settled once: by `close`, by `Drop` through
//! the settler, or, when the whole process dies, by the store's lease.

mod close;
mod draw;
mod identity;
mod open;
mod past;
pub mod plan;
mod refusal;
mod settler;
mod stream;
mod words;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::config::{Config, Prices};
use crate::keys::KeyRecord;
use crate::metering::price::Price;
use crate::metering::{Dialect, Endpoint, Meter, SocketMeter};
use crate::quota::{Grant, ScopeClaim, Subject};
use crate::store::Store;
use crate::upstream::failover::Need;
use crate::upstream::{Attempt, Failover, PassedOver, Peer, Pools, Route};

pub use close::{Closed, End, Ended};
pub use draw::{DrawItem, DrawRequest, Drawn};
pub use identity::{CallerFacts, Identity};
pub use open::{OpenRequest, RefusedFacts};
pub use refusal::Refusal;
pub use settler::{Settler, SettlerQueue};
pub use stream::Verdict;

use stream::Hold;

/// An attempt that brought no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptFailure {
    pub pool: String,
    pub peer: String,
    /// The word that metrics use for it.
    pub reason: &'static str,
}

/// What may change while the process runs, as one consistent whole.
#[derive(Debug)]
pub struct Live {
    pub config: Arc<Config>,
    pub pools: Pools,
}

impl Live {
    pub fn new(config: Arc<Config>) -> Self {
        let pools = Pools::new(&config.pools, None);
        Live { config, pools }
    }

    /// By a new configuration; what is known of peers that stay is kept.
    pub fn changed(&self, config: Arc<Config>) -> Self {
        let pools = Pools::new(&config.pools, Some(&self.pools));
        Live { config, pools }
    }
}

/// Where exchanges are opened: the store, what is configured, and who settles late.
pub struct Desk {
    pub store: Arc<dyn Store>,
    pub settler: Arc<Settler>,
    pub live: ArcSwap<Live>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

/// One admitted request. Made by [`Desk::open`] alone; ended by [`Exchange::ended`] or `Drop`.
#[derive(Debug)]
pub struct Exchange {
    desk: Arc<Desk>,
    pub key: Arc<KeyRecord>,
    pub endpoint: Endpoint,
    pub dialect: Dialect,
    failover: Failover,
    pub grant: Grant,
    pub subject: Arc<Subject>,
    /// The output bound per choice to send upstream instead of the client's, where clamping shrank it.
    pub clamped_bound: Option<i64>,
    scopes: Vec<ScopeClaim>,
    /// Those that it was admitted by: a reload under way must not make it dearer than what it holds.
    prices: Arc<Prices>,
    price: Price,
    price_known: bool,
    hold: Arc<Hold>,
    /// Whether this is a stream whose hold may be outgrown and topped up.
    tops_up: bool,
    started: Instant,
    request_size: i64,
    // What happened since.
    failures: Vec<AttemptFailure>,
    /// How the last attempt ended is in log and metrics.
    is_told: bool,
    /// How often a request that its peer never read was sent to the same one again.
    repeats: usize,
    sent: Option<Instant>,
    /// Since when the last attempt has the whole request and waits for an answer.
    waits_since: Option<Instant>,
    status: u16,
    first_byte_ms: Option<i64>,
    response_size: i64,
    body_begun: bool,
    encoded: bool,
    client_left: bool,
    meter: Option<Meter>,
    /// Of an answer that became a WebSocket.
    socket: Option<SocketMeter>,
    closed: bool,
}

impl Exchange {
    /// The next peer to try; `None` when all is tried. `again` repeats the last one, which had no
    /// chance to act on it. Another pool may come into use by it.
    pub fn attempt(&mut self, now: Instant, again: bool) -> Option<Arc<Peer>> {
        self.waits_since = None;
        if let (true, Some(last)) = (again, self.failover.peer()) {
            return Some(Arc::clone(last));
        }
        let (key_hash, _) = self.key.id.0.as_u64_pair();
        let (subject, held) = (&self.subject, &self.grant);
        let need = |route: &Route| Need {
            model: hashed(route.upstream_model.as_deref().or(subject.model.as_deref())),
            input_tokens: subject.input_tokens,
            output_tokens: held.output_tokens,
            key_hash,
        };
        let peer = Arc::clone(self.failover.next(need, now)?);
        self.is_told = false;
        (self.price, self.price_known) = open::price_of(&self.prices, self.route(), &self.subject);
        Some(peer)
    }

    /// The exchange at the peer that serves, or served last.
    pub fn at_peer(&mut self) -> Option<&mut Attempt> {
        self.failover.attempt()
    }

    /// The peers that the last choice passed over because they rest or have too little room.
    pub fn passed_over(&self) -> &[PassedOver] {
        self.failover.passed_over()
    }

    /// How the last attempt ended is in log and metrics now.
    pub fn told_attempt(&mut self) {
        self.is_told = true;
    }

    /// The last attempt is made once more, at the same peer.
    pub fn repeats(&mut self) {
        self.is_told = false;
        self.repeats += 1;
    }

    /// Whether it is.
    pub fn is_attempt_told(&self) -> bool {
        self.is_told
    }

    /// Where it goes now.
    pub fn route(&self) -> &Route {
        self.failover.route()
    }

    /// Whether another pool may come into use, for which the body must be made anew.
    pub fn may_change_pool(&self) -> bool {
        self.failover.has_others()
    }

    /// Whether a pool that may serve allows other times to the first byte and between two pieces.
    pub fn waits_differ(&self) -> bool {
        self.failover.routes().any(|route| {
            let timeouts = &route.pool.config.timeouts;
            timeouts.first_byte != timeouts.idle
        })
    }

    /// From now on no other pool comes into use: its body could not be made.
    pub fn stay_in_pool(&mut self) {
        self.failover.stay();
    }

    /// The peer that serves, or served last.
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        self.failover.peer()
    }

    /// Whether another peer could still be tried.
    pub fn may_try_another(&self) -> bool {
        self.failover.may_try_another()
    }

    /// Notes that the last attempt failed; `reason` is the word that metrics use for it.
    pub fn failed(&mut self, reason: &'static str) {
        if let Some(peer) = self.failover.peer() {
            self.failures.push(AttemptFailure {
                pool: self.route().pool.config.name.clone(),
                peer: peer.name.clone(),
                reason,
            });
        }
    }

    /// The attempts that failed, in their order: at most as many as there are peers, and one more.
    pub fn failures(&self) -> &[AttemptFailure] {
        &self.failures
    }

    /// The attempts made: peers tried, and what was sent to one of them again.
    pub fn attempts(&self) -> usize {
        self.failover.attempts() + self.repeats
    }

    /// The request's head has gone to a peer: from here on a provider may bill it. Its body goes with it,
    /// or is `streamed` behind it.
    pub fn sent(&mut self, streamed: bool) {
        let now = Instant::now();
        self.sent = Some(now);
        self.waits_since = (!streamed).then_some(now);
    }

    /// The last of a streamed body has gone there.
    pub fn uploaded(&mut self) {
        self.waits_since = Some(Instant::now());
    }

    /// How long the last attempt has waited for an answer to the whole request; `None` where it has not
    /// come to that.
    pub fn waits(&self) -> Option<Duration> {
        self.waits_since.map(|since| since.elapsed())
    }

    /// How long ago the last attempt's head went out.
    pub fn since_sent(&self) -> Duration {
        self.sent.map_or(Duration::ZERO, |at| at.elapsed())
    }

    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether any of the answer's body has passed.
    pub fn body_has_begun(&self) -> bool {
        self.body_begun
    }

    /// Whether the answer's body is read for usage.
    pub fn is_metered(&self) -> bool {
        self.endpoint.generates()
    }
}

/// A model's name, as what is kept of it is told apart.
fn hashed(model: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    model.hash(&mut hasher);
    hasher.finish()
}
