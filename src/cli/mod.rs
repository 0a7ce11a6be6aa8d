//! The command line: each command a plain function, called by `main`.

pub mod check;
pub mod prices;
