//! The admin service on the side port.

pub mod bind;
pub mod body;
pub mod failure;
pub mod listen;
pub mod query;
pub mod usd;
