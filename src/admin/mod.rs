//! The admin service on the side port.

pub mod bind;
pub mod listen;
