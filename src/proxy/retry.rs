//! What a failed attempt means: for another attempt, and for the client.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pingora::protocols::{ALPN, Digest};
use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, RetryType};

use super::body::Body;
use super::verdict::{is_our_account, turned_us_away};
use super::{Ctx, Edge, body, cut, late, withheld};
use crate::config::RetryOn;
use crate::exchange::{Exchange, Refusal};

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
        let mut e = late::attributed(session, e);
        let overdue = ctx.is_overdue();
        let Some(exchange) = ctx.exchange.as_mut() else {
            e.set_retry(false);
            return e;
        };
        // Over HTTP/1 Pingora counts what it has written of the body.
        let written = session.upstream_body_bytes_sent();
        let is_cut_short = ctx
            .body
            .length()
            .zip(written)
            .is_some_and(|(all, sent)| sent < all);
        let crossed = is_cut_short || exchange.since_sent() < ctx.crossing;
        let never_read = was_never_read(&e, peer, connection_was_pooled, crossed);
        e.set_retry(false);
        let is_ours = cut::is_cut(&e) || withheld::is_withheld(&e);
        if *e.esource() == ErrorSource::Downstream || is_ours {
            return e;
        }
        let can_replay = can_replay(session, &ctx.body);
        if exchange.status() != 0 {
            // Its head was taken. What broke since is told at the end; but nobody has seen the head of
            // an answer about our account.
            if is_our_account(&e) {
                self.attempt_failed(exchange, &e);
                exchange.unanswered();
                e.set_retry(can_replay && !overdue && exchange.may_try_another());
            }
            return e;
        }
        if never_read && !overdue && can_replay && !ctx.repeated {
            ctx.repeated = true;
            // HTTP_1_1_REQUIRED (RFC 9113 section 7). Pingora notes it for connections that are shared;
            // this one gets its own.
            ctx.wants_http1 = *e.etype() == ErrorType::H2Downgrade;
            ctx.same_peer_again = true;
            ctx.ways = None;
            self.attempt_unread(exchange, &e);
            exchange.repeats();
            e.set_retry(true);
            return e;
        }
        if never_read {
            // Nothing was processed, as if there had been no connection.
            self.attempt_unread(exchange, &e);
            let another = wants_another(exchange, Some(RetryOn::Connect));
            e.set_retry(can_replay && !overdue && another);
            return e;
        }
        self.attempt_failed(exchange, &e);
        // Who breaks off before a head has failed the request as one who answers 502.
        let broke = *e.esource() == ErrorSource::Upstream;
        let kind = kind(&e).or(broke.then_some(RetryOn::ServerError));
        let another = turned_us_away(&e) || wants_another(exchange, kind);
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

/// What Pingora says of an HTTP/1 answer of which no byte came.
const NOTHING_CAME: &str = "bytes already read: 0";

/// What it says of an HTTP/2 stream that was closed while some of the body was still to be sent. Why,
/// it does not say.
const NOT_SENT_WHOLE: [&str; 2] = ["cannot reserve capacity", "while writing h2 request body"];

/// Whether a failure can mean that the peer never read the request, and so cannot have acted on it.
///
/// Over HTTP/2 the peer says so itself (RFC 9113 section 8.7): by REFUSED_STREAM, or by a GOAWAY
/// that leaves the stream out; or it closed the stream before it had the end of the request, without
/// which nothing can act on it. Else it takes a pooled connection of HTTP/1 that was closed before all
/// of the request was written; or before a byte of an answer came, where the word of it crossed the
/// request on its way: see [`crossing_time`].
fn was_never_read(error: &Error, peer: &HttpPeer, pooled: bool, crossed: bool) -> bool {
    match (error.etype(), error.retry) {
        (ErrorType::HTTPStatus(_) | ErrorType::InvalidH2, _) => false,
        (_, RetryType::Decided(unprocessed)) if unprocessed => true,
        (ErrorType::H2Error | ErrorType::WriteError, _) if was_not_sent_whole(error) => true,
        (ErrorType::WriteError, _) => pooled && peer.options.alpn == ALPN::H1,
        (_, RetryType::ReusedOnly) => pooled && crossed && context(error).contains(NOTHING_CAME),
        _ => false,
    }
}

fn was_not_sent_whole(error: &Error) -> bool {
    NOT_SENT_WHOLE
        .iter()
        .any(|said| context(error).contains(said))
}

fn context(error: &Error) -> &str {
    let context = error.context.as_ref();
    context.map_or("", |context| context.as_str())
}

/// How soon after the first byte of a request its connection's end must show, to have been sent before
/// the peer had that byte: in less than the shortest time in which an answer to anything has come here,
/// as the kernel measured it (tcp(7), `TCP_INFO`). Half of it is taken: the kernel forgets what it
/// measured more than five minutes ago, and what it measured since may be longer than the way is now.
/// Zero where nobody knows.
pub fn crossing_time(digest: Option<&Digest>) -> Duration {
    let socket = digest.and_then(|digest| digest.socket_digest.as_ref());
    let measured = socket.and_then(|socket| socket.tcp_info());
    measured.map_or(Duration::ZERO, |measured| {
        let shortest = measured.tcpi_min_rtt.min(measured.tcpi_rtt);
        Duration::from_micros(u64::from(shortest)) / 2
    })
}

/// Whether the pool wants another peer tried after such a failure, and there is one.
pub fn wants_another(exchange: &Exchange, kind: Option<RetryOn>) -> bool {
    kind.is_some_and(|kind| exchange.route().pool.config.retry_on.contains(&kind))
        && exchange.may_try_another()
}

/// Whether another attempt could send the same body: a streamed one is gone once it outgrew the
/// replay buffer. A head goes before a piece: behind one that was all of the body none would come.
pub fn can_replay(session: &mut Session, body: &Body) -> bool {
    let is_kept = !session.as_ref().retry_buffer_truncated();
    match body {
        Body::Held(_) => true,
        Body::Passing => is_kept,
        Body::Headed { .. } => {
            let comes = session.as_ref().get_retry_buffer().is_some();
            is_kept && (comes || !session.as_mut().is_body_done())
        }
    }
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::sync::Arc;

    use pingora::http::RequestHeader;
    use pingora::protocols::SocketDigest;
    use pingora::protocols::http::v1::client::HttpSession;
    use pingora::protocols::l4::stream::Stream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// What Pingora says where a peer takes a request, says this much and closes.
    async fn closed_after(said: &'static [u8]) -> Box<Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let peer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 16]).await.unwrap();
            stream.write_all(said).await.unwrap();
            // A close with bytes unread would be a reset.
            stream.shutdown().await.unwrap();
            stream
        };
        let ask = async {
            let stream = Stream::from(TcpStream::connect(address).await.unwrap());
            let mut session = HttpSession::new(Box::new(stream));
            let head = RequestHeader::build("POST", b"/v1/x", None).unwrap();
            session.write_request_header(Box::new(head)).await.unwrap();
            session.read_response().await.unwrap_err()
        };
        tokio::join!(peer, ask).1
    }

    #[tokio::test]
    async fn what_ends_a_request_that_was_never_read() {
        let http = HttpPeer::new("127.0.0.1:1", false, String::new());
        let silent = closed_after(b"").await;
        assert!(was_never_read(&silent, &http, true, true));
        // A new connection was nobody's idle one; an end that did not cross the request may answer it.
        assert!(!was_never_read(&silent, &http, false, true));
        assert!(!was_never_read(&silent, &http, true, false));
        let begun = closed_after(b"HTTP/1.1 200 OK\r\nConte").await;
        assert!(!was_never_read(&begun, &http, true, true));
    }

    #[tokio::test]
    async fn the_kernel_knows_a_connections_round_trip() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let digest = Digest {
            socket_digest: Some(Arc::new(SocketDigest::from_raw_fd(stream.as_raw_fd()))),
            ..Digest::default()
        };
        let shortest = crossing_time(Some(&digest));
        assert!(shortest > Duration::ZERO && shortest < Duration::from_secs(1));
        assert_eq!(crossing_time(None), Duration::ZERO);
    }
}
