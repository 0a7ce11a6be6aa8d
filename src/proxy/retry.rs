//! What a failed attempt means: for the peer's health, for another attempt, and for the client.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType, Result};

use super::body::Body;
use super::{Ctx, Edge, cut};
use crate::config::RetryOn;
use crate::exchange::{End, Exchange, Refusal};
use crate::telemetry::event::{AttemptEnded, PeerHealth};
use crate::telemetry::label::UpstreamOutcome;
use crate::time::UnixMs;
use crate::upstream::{Health, Room};

impl Edge {
    /// Decides after a failed attempt whether there is another one.
    pub(super) fn after_failure(
        &self,
        session: &mut Session,
        mut e: Box<Error>,
        ctx: &mut Ctx,
        connection_was_pooled: bool,
    ) -> Box<Error> {
        let Some(exchange) = ctx.exchange.as_mut() else {
            e.set_retry(false);
            return e;
        };
        if *e.esource() == ErrorSource::Downstream
            || exchange.status() != 0
            || !can_replay(session, &ctx.body)
            || cut::is_cut(&e)
        {
            e.set_retry(false);
            return e;
        }
        e.retry.decide_reuse(connection_was_pooled);
        let kind = kind(&e);
        if connection_was_pooled && was_stale(&e, exchange.since_sent()) {
            // The peer had closed an idle connection: it never saw this request whole.
            ctx.same_peer_again = true;
            ctx.ways = None;
            e.set_retry(true);
            return e;
        }
        self.book_failure(exchange);
        self.attempt_failed(exchange, &e);
        let turned_away = turned_us_away(&e);
        e.set_retry(exchange.may_try_another() && (turned_away || wants_another(exchange, kind)));
        e
    }

    /// No connection to the peer at `address`: its next address is tried, then another peer, whatever
    /// was read of the body by now.
    pub(super) fn connect_failed(&self, ctx: &mut Ctx, address: Option<SocketAddr>, e: &mut Error) {
        let peer = ctx.exchange.as_ref().and_then(|one| one.peer());
        if let (Some(peer), Some(address)) = (peer, address) {
            self.addresses.unreachable(peer, address);
        }
        let now = Instant::now();
        if ctx.ways.as_ref().is_some_and(|ways| ways.is_another(now)) {
            ctx.same_peer_again = true;
            e.set_retry(true);
            return;
        }
        // Whatever kept it from connecting, a socket's own fault too: nothing has been sent.
        if kind(e).is_none() {
            e.etype = ErrorType::ConnectError;
        }
        let again = ctx.exchange.as_mut().is_some_and(|exchange| {
            self.book_failure(exchange);
            self.attempt_failed(exchange, e);
            wants_another(exchange, Some(RetryOn::Connect))
        });
        e.set_retry(again);
    }

    pub(super) fn attempt_failed(&self, exchange: &mut Exchange, e: &Error) {
        let outcome = match kind(e) {
            _ if turned_us_away(e) => UpstreamOutcome::Credential,
            Some(RetryOn::Connect) => UpstreamOutcome::Connect,
            Some(RetryOn::Timeout) => UpstreamOutcome::Timeout,
            Some(RetryOn::TooManyRequests) => UpstreamOutcome::TooManyRequests,
            Some(RetryOn::ServerError) => UpstreamOutcome::ServerError,
            None => UpstreamOutcome::Broken,
        };
        self.attempt_ended(exchange, outcome, e.etype().as_str());
        exchange.failed(outcome.word());
    }

    /// One attempt's line and metric.
    pub(super) fn attempt_ended(
        &self,
        exchange: &Exchange,
        outcome: UpstreamOutcome,
        detail: &str,
    ) {
        let pool = exchange.route().pool.config.name.as_str();
        let event = AttemptEnded {
            pool,
            peer: exchange.peer().map_or("", |peer| peer.name.as_str()),
            request_id: &exchange.subject.request_id,
            outcome,
            detail,
        };
        event.emit(&self.metrics.pool(pool));
    }

    /// Books a failure with the peer that served last.
    pub(super) fn book_failure(&self, exchange: &Exchange) {
        let pool = &exchange.route().pool.config;
        let cooldown_ms = i64::try_from(pool.cooldown.as_millis()).unwrap_or(i64::MAX);
        let failed =
            |health: &Health| health.failed(UnixMs::now(), pool.cooldown_failures, cooldown_ms);
        self.tell(exchange, false, failed, "it failed too often in a row");
    }

    pub(super) fn book_success(&self, exchange: &Exchange) {
        self.tell(exchange, true, Health::succeeded, "it answers again");
    }

    fn tell(
        &self,
        exchange: &Exchange,
        healthy: bool,
        is_news: impl Fn(&Health) -> bool,
        because: &'static str,
    ) {
        let Some(peer) = exchange.peer() else { return };
        if is_news(&peer.health) {
            let event = PeerHealth {
                pool: &exchange.route().pool.config.name,
                peer: &peer.name,
                healthy,
                because,
            };
            event.emit(&self.metrics);
        }
    }
}

/// How the attempt that answered ended; `None` where that is told already, or nobody saw its end.
pub fn last_outcome(end: End, status: u16) -> Option<UpstreamOutcome> {
    match (end, status) {
        (End::UpstreamBroke, _) => Some(UpstreamOutcome::Broken),
        (End::Answered, 429) => Some(UpstreamOutcome::TooManyRequests),
        (End::Answered, 400..=499) => Some(UpstreamOutcome::Refused),
        (End::Answered, 500..) => Some(UpstreamOutcome::ServerError),
        (End::Answered | End::Cut, _) => Some(UpstreamOutcome::Ok),
        (End::ClientGone | End::Failed | End::Dropped, _) => None,
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

/// Whether a peer turned *our* credential away, or says that our account is empty: 402 is what
/// DeepSeek and OpenRouter answer then. It has failed as a peer (SPEC section 3, step 4).
pub fn turned_us_away(error: &Error) -> bool {
    matches!(error.etype(), ErrorType::HTTPStatus(401..=403))
}

/// Whether an error carries a status: somebody's judgement, and not a broken connection.
pub fn is_status(error: &Error) -> bool {
    matches!(error.etype(), ErrorType::HTTPStatus(_))
}

/// A connection that its peer had closed shows it within a round trip; who closes later may have
/// worked on the request, and may bill it.
const STALE_SHOWS: Duration = Duration::from_secs(1);

/// Whether a failure over a pooled connection means that the peer had closed it before the request
/// was there whole: then it cannot have acted on it, and may be asked again. An answer is none of these.
pub fn was_stale(error: &Error, since_sent: Duration) -> bool {
    if since_sent > STALE_SHOWS {
        return false;
    }
    match error.etype() {
        ErrorType::HTTPStatus(_) => false,
        ErrorType::WriteError => true,
        _ => kind(error).is_none() && error.retry(),
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

/// The answer goes on beyond `edge.request_timeout`.
pub fn too_long() -> Box<Error> {
    Error::explain(
        ErrorType::ReadTimedout,
        "the answer takes longer than edge.request_timeout",
    )
    .into_up()
}

/// What the client is told of a failure that is final. `None` where the client itself is gone.
pub fn refusal(error: &Error, max_upload: usize) -> Option<Refusal> {
    if *error.esource() == ErrorSource::Downstream {
        return match error.etype() {
            ErrorType::HTTPStatus(413) => Some(Refusal::BodyTooLarge { limit: max_upload }),
            ErrorType::ReadError
            | ErrorType::WriteError
            | ErrorType::ConnectionClosed
            | ErrorType::H2Error => None,
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

/// Judges an upstream's head while the answer can still be given by another peer. A rejected
/// credential is ours to answer for: its text never reaches a client (SPEC section 3, step 4).
pub fn judge(exchange: &Exchange, head: &ResponseHeader, can_replay: bool) -> Result<()> {
    let status = head.status.as_u16();
    note_room(exchange, head);
    let wants = |kind| can_replay && wants_another(exchange, Some(kind));
    let another = match status {
        401..=403 => true,
        429 => {
            rest_as_told(exchange, head);
            wants(RetryOn::TooManyRequests)
        }
        500..=599 => wants(RetryOn::ServerError),
        _ => false,
    };
    if !another {
        return Ok(());
    }
    let mut error =
        Error::explain(ErrorType::HTTPStatus(status), "the peer cannot serve").into_up();
    error.set_retry(exchange.may_try_another());
    Err(error)
}

/// Whether an answer says that *our* account is empty, which OpenAI tells apart from a rate limit
/// only in the body. It is seen in time where the body came along with its head, as such small
/// answers do; later, nothing but breaking the connection could keep it from the client.
pub fn tells_empty_account(exchange: &Exchange, chunk: &[u8]) -> bool {
    exchange.status() == 429 && memchr::memmem::find(chunk, b"insufficient_quota").is_some()
}

/// The error that such an answer is turned into: to the client the upstream is unavailable.
pub fn empty_account() -> Box<Error> {
    Error::explain(ErrorType::HTTPStatus(402), "the peer's account is empty").into_up()
}

/// What the provider says of its own rate limits steers the next exchanges.
fn note_room(exchange: &Exchange, head: &ResponseHeader) {
    let text = |name: &str| head.headers.get(name)?.to_str().ok();
    let room = Room::read(text, UnixMs::now());
    if let Some(peer) = exchange.peer().filter(|_| !room.says_nothing()) {
        peer.health.has_room(&room);
    }
}

/// `Retry-After` in seconds (RFC 9110 section 10.2.3), at most a minute: the peer rests that long.
fn rest_as_told(exchange: &Exchange, head: &ResponseHeader) {
    let seconds = head
        .headers
        .get("retry-after")
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<i64>().ok());
    if let (Some(seconds), Some(peer)) = (seconds, exchange.peer()) {
        peer.health
            .rest(UnixMs::now().plus_ms(seconds.clamp(0, 60) * 1_000));
    }
}
