//! The edge, over the wire: the real binary before fakes, and clients of every kind. One file, one promise.

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod broken;
mod crash;
mod crowds;
mod failures;
mod framing;
mod h2_abuse;
mod http2_peers;
mod keys;
mod leaving;
mod peers;
mod quota;
mod quota_headers;
mod rates;
mod refusals;
mod reload;
mod retries;
mod rig;
mod routing;
mod secrets;
mod sending;
mod slow_clients;
mod sockets;
mod stalls;
mod stop;
mod streams;
mod timeouts;
mod tls;
mod top_up;
mod upgrade;
mod uploads;
