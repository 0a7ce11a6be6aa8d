//! The admin service as its clients meet it, over the embedded store.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where it cannot go on"
)]

mod access;
mod api;
mod rig;
mod trial;
