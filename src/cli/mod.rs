//! The command line.

pub mod check;
pub mod demo;
pub mod fake_upstream;
#[cfg(test)]
mod panics;
pub mod prices;
mod scratch;
pub mod serve;
