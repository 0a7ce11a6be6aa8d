//! What a failed attempt means: for another attempt, and for the client.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pingora::protocols::ALPN;
use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, RetryType};

use super::body::Body;
use super::verdict::turned_us_away;
use super::{Ctx, Edge, body, cut, late};
use crate::config::RetryOn;
use crate::exchange::{Exchange, Refusal};
use crate::telemetry::label::UpstreamOutcome;

impl Edge {
    /// Decides after a failed attempt whether there is another one.
    pub(super) fn after_failure(
        &self,
        session: &mut Session,
        peer: &HttpPeer,
        e: Box<Error>,
        ctx: &mut Ctx,
        connection_was_pooled: bool,
    ) -> Box<Error> {
        let mut e = late::attributed(session, e, ctx);
        let never_read = was_never_read(&e, peer, connection_was_pooled);
        e.retry.decide_reuse(false);
        let wished = e.retry();
        e.set_retry(false);
        let overdue = ctx.is_overdue();
        let Some(exchange) = ctx.exchange.as_mut() else {
            return e;
        };
        if *e.esource() == ErrorSource::Downstream || cut::is_cut(&e) {
            return e;
        }
        if exchange.status() != 0 {
            // Its head was taken. What broke since is told at the end.
            if turned_us_away(&e) {
                self.attempt_failed(exchange, &e);
            }
            return e;
        }
        let can_replay = can_replay(session, &ctx.body);
        let at_once = wished || exchange.since_sent() <= STALE_SHOWS;
        if never_read && at_once && !overdue && can_replay && !ctx.repeated {
            ctx.repeated = true;
            ctx.same_peer_again = true;
            ctx.ways = None;
            self.attempt_ended(exchange, UpstreamOutcome::Stale, e.etype().as_str());
            exchange.failed(UpstreamOutcome::Stale.word());
            e.set_retry(true);
            return e;
        }
        self.attempt_failed(exchange, &e);
        let another = turned_us_away(&e) || wants_another(exchange, kind(&e));
        e.set_retry(can_replay && !overdue && another && exchange.may_try_another());
        e
    }

    /// No connection to the peer at `address`: its next address is tried, then another peer, whatever
    /// was read of the body by now.
    pub(super) fn connect_failed(&self, ctx: &mut Ctx, address: Option<SocketAddr>, e: &mut Error) {
        let in_time = !ctx.is_overdue();
        let peer = ctx.exchange.as_ref().and_then(|one| one.peer());
        if let (Some(peer), Some(address)) = (peer, address) {
            self.addresses.unreachable(peer, address);
        }
        let now = Instant::now();
        if in_time && ctx.ways.as_ref().is_some_and(|ways| ways.is_another(now)) {
            ctx.same_peer_again = true;
            e.set_retry(true);
            return;
        }
        // Whatever kept it from connecting, a socket's own fault too: nothing has been sent.
        if kind(e).is_none() {
            e.etype = ErrorType::ConnectError;
        }
        let again = ctx.exchange.as_mut().is_some_and(|exchange| {
            self.attempt_failed(exchange, e);
            in_time && wants_another(exchange, Some(RetryOn::Connect))
        });
        e.set_retry(again);
    }
}

/// The kind of a failed attempt, as the pool's `retry.on` names them.
pub fn kind(error: &Error) -> Option<RetryOn> {
    match error.etype() {
        ErrorType::ConnectTimedout
        | ErrorType::ConnectRefused
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectError
        | ErrorType::ConnectProxyFailure
        | ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::InvalidCert
        | ErrorType::BindError
        | ErrorType::SocketError => Some(RetryOn::Connect),
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Some(RetryOn::Timeout),
        ErrorType::HTTPStatus(429) => Some(RetryOn::TooManyRequests),
        ErrorType::HTTPStatus(500..=599) => Some(RetryOn::ServerError),
        _ => None,
    }
}

/// Whether an error carries a status: somebody's judgement, and not a broken connection.
pub fn is_status(error: &Error) -> bool {
    matches!(error.etype(), ErrorType::HTTPStatus(_))
}

/// Whether a client was too slow with its body.
pub fn is_of_slow_client(error: &Error) -> bool {
    *error.esource() == ErrorSource::Downstream && *error.etype() == ErrorType::ReadTimedout
}

/// A connection that its peer had closed before the request came shows it at once; who closes later
/// may have worked on the request, and may bill it.
const STALE_SHOWS: Duration = Duration::from_millis(100);

/// What Pingora says of an HTTP/1 answer of which no byte came.
const NOTHING_CAME: &str = "bytes already read: 0";

/// Whether a failure can mean that the peer never read the request, and so cannot have acted on it.
///
/// Over HTTP/2 the peer says so itself (RFC 9113 section 8.7): by REFUSED_STREAM, or by a GOAWAY
/// that leaves the stream out. Else it takes a pooled connection of HTTP/1 that was closed before all
/// of the request was written, or before a byte of an answer came; the latter must show at once.
fn was_never_read(error: &Error, peer: &HttpPeer, pooled: bool) -> bool {
    match (error.etype(), error.retry) {
        (ErrorType::HTTPStatus(_) | ErrorType::InvalidH2, _) => false,
        (_, RetryType::Decided(unprocessed)) if unprocessed => true,
        (ErrorType::WriteError, _) => pooled && peer.options.alpn == ALPN::H1,
        (_, RetryType::ReusedOnly) => {
            let context = error
                .context
                .as_ref()
                .map_or("", |context| context.as_str());
            pooled && context.contains(NOTHING_CAME)
        }
        _ => false,
    }
}

/// Whether the pool wants another peer tried after such a failure, and there is one.
pub fn wants_another(exchange: &Exchange, kind: Option<RetryOn>) -> bool {
    kind.is_some_and(|kind| exchange.route().pool.config.retry_on.contains(&kind))
        && exchange.may_try_another()
}

/// Whether another attempt could send the same body: a streamed one is gone once it outgrew the
/// replay buffer.
pub fn can_replay(session: &Session, body: &Body) -> bool {
    matches!(body, Body::Held(_)) || !session.as_ref().retry_buffer_truncated()
}

/// What the client is told of a failure that is final. `None` where the client itself is gone.
pub fn refusal(error: &Error, max_upload: usize) -> Option<Refusal> {
    if *error.esource() == ErrorSource::Downstream {
        return match error.etype() {
            ErrorType::HTTPStatus(413) => Some(Refusal::BodyTooLarge { limit: max_upload }),
            ErrorType::ReadError
            | ErrorType::WriteError
            | ErrorType::WriteTimedout
            | ErrorType::ConnectionClosed
            | ErrorType::H2Error => None,
            ErrorType::ReadTimedout => Some(body::too_slow()),
            _ => Some(Refusal::bad("the request could not be read")),
        };
    }
    Some(match error.etype() {
        ErrorType::ReadTimedout | ErrorType::ConnectTimedout | ErrorType::WriteTimedout => {
            Refusal::UpstreamTimeout
        }
        _ if *error.esource() == ErrorSource::Upstream => Refusal::UpstreamUnavailable,
        _ => Refusal::Internal,
    })
}
