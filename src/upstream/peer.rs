//! One endpoint of a pool, and who it is.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::health::Health;
use crate::config::{PeerConfig, SecretText};

/// One endpoint with its credential, and what traffic has shown of it.
#[derive(Debug)]
pub struct Peer {
    pub config: PeerConfig,
    /// `host:port`, and `#2` after it where the pool has another of that name before (a second
    /// credential for one host). One of a kind in its pool.
    pub name: String,
    /// Of its URL, its credential and its headers: who it is, whatever its place in the pool. A hash,
    /// the same on every edge.
    pub identity: u64,
    /// Of its URL alone: what keys are drawn to, whichever credential it has today. A hash, the same on
    /// every edge.
    pub seat: u64,
    pub health: Arc<Health>,
}

impl Peer {
    /// Whether it takes exchanges: a weight of 0 drains it.
    pub fn takes(&self) -> bool {
        self.config.weight > 0
    }
}

/// `nth`: how many before it in the pool are the same to the letter.
pub(super) fn identity(peer: &PeerConfig, nth: usize) -> u64 {
    let secrets = [&peer.query, &peer.credential];
    let secrets = secrets.map(|one| one.as_ref().map(SecretText::reveal).unwrap_or_default());
    let headers = peer.headers.iter();
    let headers = headers.flat_map(|(name, value)| [name.as_str(), value.reveal()]);
    hashed(peer, secrets.into_iter().chain(headers), nth)
}

/// `nth`: how many before it in the pool have the same URL.
pub(super) fn seat(peer: &PeerConfig, nth: usize) -> u64 {
    hashed(peer, std::iter::empty(), nth)
}

fn hashed<'a>(peer: &'a PeerConfig, more: impl Iterator<Item = &'a str>, nth: usize) -> u64 {
    let mut hash = Sha256::new();
    let mut add = |part: &str| {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    };
    add(if peer.tls { "https" } else { "http" });
    add(&peer.name());
    add(&peer.base_path);
    more.for_each(&mut add);
    hash.update(nth.to_le_bytes());
    let digest = hash.finalize();
    let first = digest.first_chunk().copied();
    u64::from_le_bytes(first.unwrap_or_default())
}
