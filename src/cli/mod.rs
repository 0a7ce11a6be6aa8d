//! The command line.

pub mod check;
pub mod fake_upstream;
pub mod prices;
