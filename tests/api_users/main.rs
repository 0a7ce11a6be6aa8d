//! Users, their keys, and what operators ask of the books: through real HTTP, on the embedded store and
//! on Redis (RELIABILITY 23 too).
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where it cannot go on"
)]

/// Makes a test of each function on both stores.
macro_rules! on_both_stores {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::house::House::embedded().await).await;
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::house::House::redis().await).await;
            })*
        }
    };
}

mod books;
mod description;
mod guards;
mod house;
mod keys;
mod people;
#[path = "../support/mod.rs"]
mod support;
