//! Waiting for something to become true.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// Longer than any machine needs; only a hang or a fault waits for all of it.
pub const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);

/// Calls `probe` until it answers `Ok` and returns that; panics with its last `Err` after `patience`.
pub async fn eventually<T, E, F>(patience: Duration, mut probe: impl FnMut() -> F) -> T
where
    E: Debug,
    F: Future<Output = Result<T, E>>,
{
    let start = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(last) if start.elapsed() > patience => {
                panic!("not within {patience:?}; last seen: {last:#?}")
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// `Ok` where the test holds, else what was seen: for [`eventually`].
pub fn that<T: Debug>(value: T, test: impl FnOnce(&T) -> bool) -> Result<T, T> {
    if test(&value) { Ok(value) } else { Err(value) }
}
