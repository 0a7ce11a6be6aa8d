//! What operators are given beside the binary: the unit, the package, the manual, alert rules and dashboard.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it cannot go on"
)]

mod command;
mod deb;
mod machine;
mod manual;
mod monitoring;
mod root;
#[path = "../support/mod.rs"]
mod support;
mod unit;
