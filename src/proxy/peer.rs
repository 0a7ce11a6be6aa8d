//! From an exchange to a peer, and from a peer to a connection: address, TLS, time-outs.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pingora::protocols::tls::CaType;
use pingora::protocols::{ALPN, TcpKeepalive};
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{WrappedX509, parse_x509};
use pingora::{Error, ErrorType, Result};

use super::body::Body;
use super::ctx::Upload;
use super::{Ctx, Edge};
use crate::config::{Authorities, PoolConfig};
use crate::upstream::{Peer, Ways};

/// Exchanges that share one HTTP/2 connection at most: a lost packet holds all of them up.
const MAX_STREAMS: usize = 64;

/// A connection that has died without a word is found out: over HTTP/2 by a ping that nobody answers
/// within Pingora's five seconds, else by TCP's own probes, within half a minute.
const PING: Duration = Duration::from_secs(10);
/// No user time-out is set: it would also end an upload whose peer is slow to take it, which is the
/// business of the pool's `idle`.
const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(15),
    interval: Duration::from_secs(5),
    count: 3,
    user_timeout: Duration::ZERO,
};

impl Edge {
    /// The next peer of the exchange, or another address of the last one; and the body that its pool
    /// is to get.
    pub(super) async fn choose_peer(&self, ctx: &mut Ctx) -> Result<HttpPeer> {
        let again = std::mem::take(&mut ctx.same_peer_again);
        let exchange = ctx.exchange.as_mut().ok_or_else(Self::no_peer)?;
        let peer = exchange
            .attempt(Instant::now(), again)
            .ok_or_else(Self::no_peer)?;
        if !again {
            ctx.wants_http1 = false;
            ctx.repeated = false;
            self.tell_passed_over(exchange, &mut ctx.passed_over);
        }
        let anew = ctx.original.as_mut().and_then(|body| body.anew(exchange));
        if let Some(bytes) = anew {
            ctx.body = Body::Held(bytes);
        }
        if let Some(form) = &mut ctx.form {
            let alias = exchange.route().upstream_model.as_deref();
            form.name(&mut ctx.body, alias);
        }
        let pool = Arc::clone(&exchange.route().pool);
        let connect = pool.config.timeouts.connect;
        let begun = Instant::now();
        let ways = match ctx.ways.take().filter(|_| again) {
            Some(ways) => Ok(ways),
            None => {
                let addresses = self.addresses.of(&peer, connect).await;
                addresses.map(|addresses| Ways::new(addresses, begun + connect))
            }
        };
        let way = ways.map(|ways| ctx.ways.insert(ways).next(Instant::now()));
        let (address, connect) = match way {
            Ok(way) => way.ok_or_else(Self::no_peer)?,
            Err(fault) => {
                log::warn!("a peer's name leads nowhere: {}", fault.0);
                let why = "the peer's name leads nowhere";
                let mut error = Error::explain(ErrorType::ConnectNoRoute, why).into_up();
                self.connect_failed(ctx, None, &mut error);
                return Err(error);
            }
        };
        let left = ctx.deadline.saturating_duration_since(Instant::now());
        let longest = left.max(Duration::from_millis(1));
        let mut http = self
            .trust
            .http_peer(&peer, &pool.config, address, connect, longest);
        if ctx.upload == Upload::Comes {
            // No answer is due before the upload has ended; then `late` waits for it.
            http.options.read_timeout = Some(longest);
        }
        if ctx
            .facts
            .as_ref()
            .is_some_and(|facts| facts.socket.is_some())
        {
            // A WebSocket is asked for in HTTP/1.1 (RFC 6455 section 4.1).
            http.options.alpn = ALPN::H1;
        }
        if ctx.wants_http1 {
            http.options.alpn = ALPN::H1;
        }
        if ctx.repeated {
            // Where one pooled connection was dead, others may be: it takes one of its own.
            http.group_key = !http.group_key;
            http.options.idle_timeout = Some(Duration::from_millis(1));
        }
        Ok(http)
    }

    /// An error of ours in Pingora's terms; the cause is told by `fail_to_proxy`.
    pub(super) fn no_peer() -> Box<Error> {
        Error::explain(ErrorType::ConnectNoRoute, "no peer is left to try").into_up()
    }
}

/// Authorities of peers in the form that a connection takes. What a reload has left behind is
/// forgotten with the next new one.
#[derive(Debug, Default)]
pub struct Trust {
    known: Mutex<Vec<(Arc<Authorities>, Arc<CaType>)>>,
}

impl Trust {
    fn of(&self, authorities: &Arc<Authorities>) -> Arc<CaType> {
        let mut known = self.known.lock();
        let found = known.iter().find(|(one, _)| Arc::ptr_eq(one, authorities));
        if let Some((_, certificates)) = found {
            return Arc::clone(certificates);
        }
        known.retain(|(one, _)| Arc::strong_count(one) > 1);
        // They were read before, with the configuration: one that cannot be read is not among them.
        let parsed = authorities.certificates.iter().cloned();
        let made: Arc<CaType> = parsed
            .map(|der| WrappedX509::new(der, parse_x509))
            .collect();
        known.push((Arc::clone(authorities), Arc::clone(&made)));
        made
    }

    /// The connection's settings; no wait is longer than `longest`, and `connect` is for TCP and TLS
    /// together. Certificates are verified, against the host's name or `sni`.
    pub fn http_peer(
        &self,
        peer: &Peer,
        pool: &PoolConfig,
        address: SocketAddr,
        connect: Duration,
        longest: Duration,
    ) -> HttpPeer {
        let config = &peer.config;
        let name = config.sni.as_deref().unwrap_or(&config.host);
        let sni = if config.tls { name } else { "" };
        let sni = sni.trim_start_matches('[').trim_end_matches(']').to_owned();
        let mut http = HttpPeer::new(address, config.tls, sni);
        // Connections with other settings are not shared.
        let mut hasher = DefaultHasher::new();
        (config.http2, &config.ca).hash(&mut hasher);
        http.group_key = hasher.finish();
        http.options.ca = config.ca.as_ref().map(|ca| self.of(ca));
        http.options.alpn = match (config.http2, config.tls) {
            (false, _) => ALPN::H1,
            (true, true) => ALPN::H2H1,
            // Nothing is negotiated over plain TCP.
            (true, false) => ALPN::H2,
        };
        http.options.max_h2_streams = MAX_STREAMS;
        http.options.h2_ping_interval = Some(PING);
        http.options.tcp_keepalive = Some(KEEPALIVE);
        let timeouts = &pool.timeouts;
        let connect = connect.min(longest);
        http.options.connection_timeout = Some(connect);
        http.options.total_connection_timeout = Some(connect);
        // Pingora knows one read time-out for head and body: the longer of the two. Where they differ, a
        // relay keeps both.
        http.options.read_timeout = Some(timeouts.first_byte.max(timeouts.idle).min(longest));
        http.options.write_timeout = Some(timeouts.idle.min(longest));
        http.options.idle_timeout = Some(Duration::from_secs(60));
        http
    }
}
