//! The command line.

pub mod check;
pub mod demo;
pub mod fake_upstream;
pub mod prices;
mod scratch;
pub mod serve;
