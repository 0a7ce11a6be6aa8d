//! WHERE a request goes: pools, their peers, and which peer is next.
//!
//! `pool` finds the pools that may serve, `failover` walks them for one exchange, `pick` chooses a
//! `peer` by what `health` and `room` know of it, and an `attempt` there tells them what came of it.
//! They decide and know no network; connecting is the shell's work.

pub mod attempt;
pub mod failover;
pub mod health;
pub mod peer;
pub mod pick;
pub mod pool;
pub mod rest;
pub mod room;
mod streak;
pub mod ways;

pub use attempt::Attempt;
pub use failover::{Failover, PassedOver};
pub use health::{Fitness, Health};
pub use peer::Peer;
pub use pool::{Pool, Pools, Route, RouteFault};
pub use room::Room;
pub use ways::Ways;
