//! What callers ask about their own key, and the trial-key API, as clients of both ports meet them, on
//! both stores.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it cannot go on"
)]

/// Each test on the embedded store and on Redis.
macro_rules! on_both_stores {
    ($($(#[$attribute:meta])* $name:ident),* $(,)?) => {
        mod embedded {
            $($(#[$attribute])* #[tokio::test] async fn $name() {
                super::$name(crate::house::House::embedded().await).await;
            })*
        }
        mod redis {
            $($(#[$attribute])* #[tokio::test] async fn $name() {
                super::$name(crate::house::House::redis().await).await;
            })*
        }
    };
}

mod clients;
mod crowds;
mod draws;
mod house;
mod refusals;
mod relay;
mod trial;
mod trial_usage;

#[path = "../support/mod.rs"]
mod support;
