//! The rig of the integration tests: a fake provider in process, the real binary, and what looks at both.
//!
//! ```ignore
//! mod support;
//! use support::rig::Rig;
//!
//! #[tokio::test]
//! async fn a_key_is_served() {
//!     let rig = Rig::builder().set("quota.admission", json!("strict")).start().await;
//!     let key = rig.admin().create(json!({"name": "a", "token_limit": 1000})).await;
//!     let answer = rig.post("/v1/chat/completions", &key.secret, &chat("gpt-4o")).await;
//!     assert_eq!(answer.status(), 200);
//!     assert_eq!(rig.fake().ledger().await.requests, 1);
//! }
//! ```
//!
//! Every rig has its own ports, folder and processes, so tests run side by side. Nothing sleeps for
//! luck: what takes time is awaited by [`wait::eventually`].

#![expect(dead_code, reason = "each test binary uses only a part of the rig")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests"
)]

pub mod admin;
pub mod books;
pub mod chance;
pub mod fake;
pub mod fault_proxy;
pub mod fleet;
pub mod h2_wire;
pub mod load;
pub mod nginx;
pub mod process;
pub mod reader;
pub mod redis_cluster;
pub mod redis_sentinel;
pub mod redis_server;
pub mod rig;
pub mod sdk;
pub mod soak;
pub mod tls;
pub mod upstream;
pub mod wait;
pub mod wire;
