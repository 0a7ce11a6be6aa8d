//! A wire to trip over: tests make any phase panic by naming it in a header.

use pingora::proxy::Session;

/// Panics where the request's `x-panic-in` names this phase. Compiled for tests alone.
pub fn trip(session: &Session, phase: &str) {
    let named = session.req_header().headers.get("x-panic-in");
    if named.is_some_and(|named| named.as_bytes() == phase.as_bytes()) {
        panic!("tripped in {phase}");
    }
}

/// Every phase that has a wire.
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
