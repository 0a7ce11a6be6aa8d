//! TLS at the edge: what a configuration says of it, whom it shows which certificate, and that HTTP/1.1
//! and HTTP/2 over it are metered as without.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod addresses;
mod client;
mod configuration;
mod handshakes;
mod reload;
mod sdk;
mod slow;
mod streams;
mod under_load;
