//! The admin service and what callers ask about their own keys, as clients meet them over HTTP.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it cannot go on"
)]

/// Each test on the embedded store and on Redis, in the house of the folder.
macro_rules! on_both_stores {
    ($($(#[$attribute:meta])* $name:ident),* $(,)?) => {
        mod embedded {
            $($(#[$attribute])* #[tokio::test] async fn $name() {
                super::$name(super::super::house::House::embedded().await).await;
            })*
        }
        mod redis {
            $($(#[$attribute])* #[tokio::test] async fn $name() {
                super::$name(super::super::house::House::redis().await).await;
            })*
        }
    };
}

mod admin;
mod listening;
mod own;
mod reply;
mod users;

#[path = "../support/mod.rs"]
mod support;
