//! Seeing it run: events, metrics, access log, log lines. Nothing here is static, and nothing here
//! may hold a key, a prompt, an answer or a query string.

pub mod access_log;
pub mod event;
mod family;
pub mod label;
pub mod log;
pub mod metrics;
pub mod peers;
mod store_metrics;

pub use access_log::{AccessLine, AccessLog};
pub use label::{Flag, StoreOp, TokenKind, UpstreamOutcome};
pub use metrics::{Metrics, PoolMetrics};
