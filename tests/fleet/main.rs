//! A fleet over the wire: real edges, real Redis servers, and faults between them (RELIABILITY 2, 4, 5,
//! 8, 9, 10, 11, 21).
#![expect(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test ends where it cannot go on"
)]

mod crowd;
mod demo;
mod failover;
mod leases;
mod lost_replies;
mod obeyed;
mod one_set_of_books;
mod outage;
mod outage_allowed;
mod silence;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
