//! What a reserve and a settle cost: on the embedded store, what group commit saves; through Redis, what
//! the way there takes of both sides.
//!
//! Claims:
//! - Reserve + settle on the embedded store, its writer thread included, takes at most 8 µs of CPU per
//!   request at 64 requests at once. The baseline (one INSERT, one DELETE and a commit for each request)
//!   runs beside it.
//! - Through Redis a request takes two scripts; what they cost the server is printed in INCRBYs of the
//!   same run, as is the rate beside the embedded store, that of two edges beside one, and that of one
//!   hot key with slices beside without.
//!
//! Run `cargo bench --bench store`; `BENCH_SECONDS` (3) is the length of each load. Redis is a
//! redis-server of the bench's own, on loopback; without one on the PATH its part is left out.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench that cannot go on may say so and stop; its figures are its output"
)]

use std::time::Duration;

use criterion::Criterion;
use through_redis::Log;

mod embedded;
mod load;
#[path = "../../tests/support/records.rs"]
mod records;
#[expect(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "the tests' own server, of which this is a part"
)]
#[path = "../../tests/support/redis_server.rs"]
mod redis_server;
mod through_redis;

fn main() {
    let mut criterion = Criterion::default()
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500))
        .configure_from_args();
    embedded::ledger_alone(&mut criterion);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let has_redis = through_redis::is_installed();
    for keys in [64, 10_000] {
        let beside = [1, 64].map(|tasks| {
            let figures = runtime.block_on(embedded::under_load(keys, tasks));
            (tasks, figures)
        });
        if has_redis {
            for log in [Log::Without, Log::EverySecond] {
                runtime.block_on(through_redis::beside(log, keys, &beside));
            }
        }
    }
    embedded::baseline();
    if has_redis {
        runtime.block_on(through_redis::two_edges());
        runtime.block_on(through_redis::hot_key());
    }
    runtime.block_on(embedded::start_with_keys(100_000));
    criterion.final_summary();
}
