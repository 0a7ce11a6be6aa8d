//! From a chosen peer to a connection: addresses, TLS, time-outs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use pingora::upstreams::peer::HttpPeer;

use crate::config::PoolConfig;
use crate::upstream::Peer;

/// How long an address is used before its name is looked up again.
const FRESH: Duration = Duration::from_secs(30);

/// Longest wait for a name server.
const LOOKUP: Duration = Duration::from_secs(5);

/// Addresses of peers that are named, not numbered. One for the whole edge.
#[derive(Debug, Default)]
pub struct Addresses {
    known: RwLock<Vec<(String, Known)>>,
}

#[derive(Clone, Debug)]
struct Known {
    addresses: Arc<[SocketAddr]>,
    since: Instant,
}

/// A name that led nowhere.
#[derive(Clone, Debug)]
pub struct Unresolved(pub String);

impl Addresses {
    /// An address of `host:port`. A literal address is taken as it is; a name is looked up at most
    /// every 30 seconds, and an old answer serves where the name server does not.
    pub async fn of(&self, peer: &Peer, turn: usize) -> Result<SocketAddr, Unresolved> {
        let config = &peer.config;
        let literal = config.host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = literal.parse() {
            return Ok(SocketAddr::new(ip, config.port));
        }
        let known = self
            .known
            .read()
            .iter()
            .find(|(name, _)| *name == peer.name)
            .map(|(_, known)| known.clone());
        if let Some(known) = known.as_ref().filter(|known| known.since.elapsed() < FRESH) {
            return Ok(known.addresses[turn % known.addresses.len()]);
        }
        match self.look_up(peer).await {
            Ok(known) => Ok(known.addresses[turn % known.addresses.len()]),
            Err(fault) => known
                .map(|old| old.addresses[turn % old.addresses.len()])
                .ok_or(fault),
        }
    }

    async fn look_up(&self, peer: &Peer) -> Result<Known, Unresolved> {
        let target = (peer.config.host.clone(), peer.config.port);
        let found = tokio::time::timeout(LOOKUP, tokio::net::lookup_host(target)).await;
        let addresses: Arc<[SocketAddr]> = match found {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(fault)) => return Err(Unresolved(format!("{}: {fault}", peer.name))),
            Err(_) => {
                return Err(Unresolved(format!(
                    "{}: no answer of the name server",
                    peer.name
                )));
            }
        };
        if addresses.is_empty() {
            return Err(Unresolved(format!("{}: no address", peer.name)));
        }
        let known = Known {
            addresses,
            since: Instant::now(),
        };
        let mut all = self.known.write();
        all.retain(|(name, _)| *name != peer.name);
        all.push((peer.name.clone(), known.clone()));
        Ok(known)
    }
}

/// The connection's settings. Certificates are verified against the host's name.
pub fn http_peer(
    peer: &Peer,
    pool: &PoolConfig,
    address: SocketAddr,
    longest: Duration,
) -> HttpPeer {
    let config = &peer.config;
    let sni = if config.tls {
        config.host.clone()
    } else {
        String::new()
    };
    let mut http = HttpPeer::new(address, config.tls, sni);
    let timeouts = &pool.timeouts;
    http.options.connection_timeout = Some(timeouts.connect);
    http.options.total_connection_timeout = Some(timeouts.connect.saturating_mul(2));
    // Pingora knows one read time-out for head and body: the longer of the two.
    http.options.read_timeout = Some(timeouts.first_byte.max(timeouts.idle).min(longest));
    http.options.write_timeout = Some(timeouts.idle.min(longest));
    http.options.idle_timeout = Some(Duration::from_secs(60));
    http
}
