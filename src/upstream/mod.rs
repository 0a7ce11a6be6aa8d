//! WHERE a request goes: pools, their peers, and which peer is next.
//!
//! `pool` and `pick` decide and know no network; connecting is the shell's work.

pub mod health;
pub mod pick;
pub mod pool;

pub use health::Health;
pub use pool::{Peer, Pool, Pools, Route, RouteFault};
