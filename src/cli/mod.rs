//! The command line.

pub mod check;
mod companion;
pub mod demo;
pub mod fake_upstream;
mod fleet;
pub mod manual;
pub mod prices;
mod scratch;
pub mod serve;
mod story;
