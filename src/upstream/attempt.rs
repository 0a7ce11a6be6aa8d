//! One exchange at one peer, from its choice to its verdict.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failover::Need;
use super::health::{Began, Fitness};
use super::peer::Peer;
use super::room::Room;

/// One exchange at one peer. It counts as running there until it is dropped. What it is the probe of
/// is free for the next one where it is dropped without a verdict: its client left, or it was turned
/// away before it reached the peer.
#[derive(Debug)]
pub struct Attempt {
    peer: Arc<Peer>,
    need: Need,
    began: Began,
    /// How fit the peer was found.
    pub fitness: Fitness,
    heard_of_room: bool,
    /// It asked for a rest.
    rests: bool,
}

impl Attempt {
    /// `None` where the peer wants a probe, and another exchange has become it meanwhile.
    pub(super) fn begin(
        peer: &Arc<Peer>,
        need: Need,
        now: Instant,
        fitness: Fitness,
    ) -> Option<Attempt> {
        let began = peer.health.begin(&need, now, fitness)?;
        Some(Attempt {
            peer: Arc::clone(peer),
            need,
            began,
            fitness,
            heard_of_room: false,
            rests: false,
        })
    }

    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// The peer has failed; after `limit` failures in a row it rests for `cooldown`. One that asked
    /// for a rest has it, and did not fail. True where it leaves the rotation by this.
    pub fn failed(&self, now: Instant, limit: u32, cooldown: Duration) -> bool {
        let health = &self.peer.health;
        !self.rests && health.failed(self.began, now, limit, cooldown)
    }

    /// The peer asked to be left alone until then: for no time at all where that is past. True where it
    /// did not rest for that already.
    pub fn asked_to_rest(&mut self, until: Instant, now: Instant) -> bool {
        self.rests |= until > now;
        self.peer.health.asked_to_rest(until, now)
    }

    /// The peer has served it whole. True where it is back in the rotation by this.
    pub fn succeeded(&self) -> bool {
        self.peer.health.succeeded(self.began)
    }

    /// What the head of its answer says of the provider's own limits.
    pub fn has_room(&mut self, room: &Room, now: Instant) {
        let anew = !std::mem::replace(&mut self.heard_of_room, true);
        self.peer.health.has_room(&self.need, room, anew, now);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let health = &self.peer.health;
        if !self.heard_of_room {
            health.heard_nothing(&self.need);
        }
        health.end(self.began);
    }
}
