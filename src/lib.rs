//! quota-proxy: an edge proxy for LLM traffic.
//!
//! A caller's request crosses the house in one direction. The shells on the left know sockets, files
//! and SQL; the core on the right knows none of them and takes time and randomness as arguments.
//!
//! ```text
//! main → server ─┬─ proxy (Pingora)            ┐
//!                ├─ admin (axum)               ├→ exchange ─┬→ keys
//!                ├─ store::{embedded, redis}   │            ├→ quota
//!                ├─ telemetry                  │            ├→ metering
//!                └─ config                     ┘            └→ upstream
//! ```
//!
//! Words, one per thing: a *key* is a caller's credential record; a *token* is a unit of model text;
//! an *exchange* is one request and its answer; a *refusal* is why an exchange is turned away; a
//! *claim* is what is asked of one limit; a *reservation* is the claims granted together, and what it
//! holds is *held*; a *settlement* corrects reserved to used, once; a *dialect* is the wire shape of
//! a provider API; a *pool* is a named set of *peers*, each an endpoint with its credential.

pub mod admin;
pub mod cli;
pub mod config;
pub mod exchange;
pub mod keys;
pub mod language;
pub mod metering;
pub mod proxy;
pub mod quota;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod time;
pub mod upstream;

// Records that tests in here and tests outside make alike name the crate by its name.
#[cfg(test)]
extern crate self as quota_proxy;
