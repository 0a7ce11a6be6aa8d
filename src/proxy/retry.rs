//! What a failed attempt means: for the peer's health, for another attempt, and for the client.

use pingora::{Error, ErrorSource, ErrorType};

use crate::config::RetryOn;
use crate::exchange::{Exchange, Refusal};
use crate::time::UnixMs;

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

/// Books a failure with the peer that served last.
pub fn book_failure(exchange: &Exchange) {
    let pool = &exchange.route.pool.config;
    if let Some(peer) = exchange.peer() {
        let cooldown_ms = i64::try_from(pool.cooldown.as_millis()).unwrap_or(i64::MAX);
        peer.health.failed(UnixMs::now(), pool.cooldown_failures, cooldown_ms);
    }
}

/// Whether the pool wants another peer tried after such a failure, and there is one.
pub fn wants_another(exchange: &Exchange, kind: Option<RetryOn>) -> bool {
    kind.is_some_and(|kind| exchange.route.pool.config.retry_on.contains(&kind)) && exchange.may_try_another()
}

/// What the client is told of a failure that is final. `None` where the client itself is gone.
pub fn refusal(error: &Error) -> Option<Refusal> {
    if *error.esource() == ErrorSource::Downstream {
        return match error.etype() {
            ErrorType::HTTPStatus(413) => Some(Refusal::BodyTooLarge { limit: 0 }),
            ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed | ErrorType::H2Error => None,
            _ => Some(Refusal::BadRequest { message: "the request could not be read".to_owned(), param: None }),
        };
    }
    Some(match error.etype() {
        ErrorType::ReadTimedout | ErrorType::ConnectTimedout | ErrorType::WriteTimedout => Refusal::UpstreamTimeout,
        _ if *error.esource() == ErrorSource::Upstream => Refusal::UpstreamUnavailable,
        _ => Refusal::Internal,
    })
}
