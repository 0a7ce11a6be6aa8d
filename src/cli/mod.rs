//! The command line.

pub mod check;
pub mod demo;
pub mod fake_upstream;
pub mod prices;
pub mod serve;
