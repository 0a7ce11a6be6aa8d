//! The shared engine: every edge keeps its state on one Redis or Valkey, standalone, behind Sentinel
//! or as a cluster.
//!
//! [`link::Link`] is the one way to the server. It owns a runtime on which every connection lives, so
//! that no service's end can take one along, and it knows nothing of keys or quotas.

mod dial;
mod fault;
pub mod inspect;
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "the engine that takes its steps through it comes next"
    )
)]
mod link;
mod pools;
mod sentinel;
mod session;
