//! A wire to trip over: tests make any phase panic by naming it in a header.

use pingora::proxy::Session;

/// Nothing, but in this crate's own tests.
#[cfg(not(test))]
#[inline(always)]
pub fn wire(_session: &Session, _phase: &str) {}

/// Panics where the request's `x-panic-in` names this phase.
#[cfg(test)]
pub fn wire(session: &Session, phase: &str) {
    let named = session.req_header().headers.get("x-panic-in");
    if named.is_some_and(|named| named.as_bytes() == phase.as_bytes()) {
        panic!("tripped in {phase}");
    }
}

/// Every phase that has a wire.
#[cfg(test)]
pub const PHASES: [&str; 9] = [
    "request_filter",
    "admitted",
    "upstream_peer",
    "upstream_request_filter",
    "request_body_filter",
    "upstream_response_filter",
    "response_filter",
    "response_body_filter",
    "logging",
];
