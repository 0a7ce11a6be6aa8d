//! Metering from outside: golden traffic, nonsense, request facts, fuzz corpora.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says on which input"
)]

#[path = "../fuzz/checks.rs"]
mod checks;
mod corpus;
mod golden;
mod nonsense;
mod requests;
mod support;
