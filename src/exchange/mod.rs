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
pub mod plan;
mod refusal;
mod settler;
mod stream;
mod words;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::config::Config;
use crate::keys::KeyRecord;
use crate::metering::price::Price;
use crate::metering::{Dialect, Endpoint, Meter};
use crate::quota::{Grant, ScopeClaim, Subject};
use crate::store::Store;
use crate::upstream::{Peer, Pools, Route};

pub use close::{Closed, End, Ended};
pub use draw::{DrawItem, DrawRequest, Drawn};
pub use identity::{CallerFacts, Identity};
pub use open::{OpenRequest, RefusedFacts};
pub use refusal::Refusal;
pub use settler::{Settler, SettlerQueue};
pub use stream::Verdict;

use stream::Hold;

/// What may change while the process runs, as one consistent whole.
#[derive(Debug)]
pub struct Live {
    pub config: Arc<Config>,
    pub pools: Pools,
}

impl Live {
    pub fn new(config: Arc<Config>) -> Self {
        let pools = Pools::new(&config.pools);
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
    pub route: Route,
    pub grant: Grant,
    pub subject: Arc<Subject>,
    /// The output bound per choice to send upstream instead of the client's, where clamping shrank it.
    pub clamped_bound: Option<i64>,
    scopes: Vec<ScopeClaim>,
    price: Price,
    price_known: bool,
    hold: Arc<Hold>,
    /// Whether this is a stream whose hold may be outgrown and topped up.
    tops_up: bool,
    started: Instant,
    request_size: i64,
    // What happened since.
    tried: Vec<Arc<Peer>>,
    sent: Option<Instant>,
    status: u16,
    first_byte_ms: Option<i64>,
    response_size: i64,
    body_begun: bool,
    encoded: bool,
    client_left: bool,
    meter: Option<Meter>,
    closed: bool,
}

impl Exchange {
    /// The next peer to try; `None` when every peer was tried or the pool's attempts are used up.
    /// `again` repeats the last one: its pooled connection turned out to be stale.
    pub fn attempt(&mut self, now: crate::time::UnixMs, again: bool) -> Option<Arc<Peer>> {
        if let (true, Some(last)) = (again, self.tried.last()) {
            return Some(Arc::clone(last));
        }
        if self.tried.len()
            >= usize::try_from(self.route.pool.config.attempts).unwrap_or(usize::MAX)
        {
            return None;
        }
        let (key_hash, _) = self.key.id.0.as_u64_pair();
        let tried = |peer: &Peer| {
            self.tried
                .iter()
                .any(|t| t.name == peer.name && std::ptr::eq(&**t, peer))
        };
        let peer = self.route.pool.next_peer(tried, key_hash, now)?;
        if let Some(last) = self.tried.last() {
            last.health.end();
        }
        peer.health.begin();
        self.tried.push(Arc::clone(&peer));
        Some(peer)
    }

    /// The peer that serves, or served last.
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        self.tried.last()
    }

    /// Whether another peer could still be tried.
    pub fn may_try_another(&self) -> bool {
        let attempts = usize::try_from(self.route.pool.config.attempts).unwrap_or(usize::MAX);
        self.tried.len() < attempts.min(self.route.pool.peers.len())
    }

    pub fn attempts(&self) -> usize {
        self.tried.len()
    }

    /// The request's head has gone to a peer: from here on a provider may bill it.
    pub fn sent(&mut self) {
        self.sent = Some(Instant::now());
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
