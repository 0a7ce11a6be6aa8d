//! What the usage pages of a caller take when the books are full.
//!
//! Claim: with 10 million events of 30 days and 100,000 keys in the embedded store, the answers behind
//! `/api/usage`, `/api/usage/daily` and the first page of `/api/usage/logs` take less than 50 ms at
//! p99, for keys taken at random and for one key that has a hundredth of all events. Likewise in Redis,
//! with a tenth of the events.
//!
//! Run `cargo bench --bench usage`. `USAGE_EVENTS` (10,000,000) and `USAGE_KEYS` (100,000) make it
//! smaller for a try; the file takes some 600 bytes an event, in the folder that `TMPDIR` names. Redis
//! is a redis-server of the bench's own, on loopback; without one on the PATH its part is left out.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench that cannot go on may say so and stop; its figures are its output"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use fill::Books;
use quota_proxy::store::Store;
use quota_proxy::store::embedded::{EmbeddedOptions, EmbeddedStore};
use quota_proxy::store::redis::{LinkOptions, RedisOptions, RedisStore};

mod fill;
mod measure;
#[path = "../../tests/support/records.rs"]
#[expect(dead_code, reason = "the tests' own records, of which this is a part")]
mod records;
#[expect(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "the tests' own server, of which this is a part"
)]
#[path = "../../tests/support/redis_server.rs"]
mod redis_server;

/// How many times fewer events Redis is given: its memory is dearer than a disk.
const REDIS_SHARE: u64 = 10;

/// Opening a store of Redis waits so long for its server.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() {
    // `cargo test` starts benches too.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let books = Books {
        events: number("USAGE_EVENTS", 10_000_000),
        keys: number("USAGE_KEYS", 100_000),
    };
    runtime.block_on(embedded(&books));
    let fewer = Books {
        events: books.events / REDIS_SHARE,
        ..books
    };
    runtime.block_on(redis(&fewer));
}

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn embedded(books: &Books) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("quota.db");
    let open = || EmbeddedStore::open(&path, EmbeddedOptions::default()).expect("a store");
    open().close().await;
    // Made anew after the fill: kept through it, they would be most of its work.
    let indexes = drop_indexes(&path);
    let store = open();
    let begin = Instant::now();
    books.fill(&*store).await.expect("filled");
    store.close().await;
    create_indexes(&path, &indexes);
    let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
    println!(
        "embedded: {} events of {} keys in {} MB, filled in {:.0?}",
        books.events,
        books.keys,
        bytes / 1_000_000,
        begin.elapsed()
    );
    let begin = Instant::now();
    let store = open();
    println!("embedded: opened in {:.0?}", begin.elapsed());
    measure::usage_pages("embedded", &*store, books).await;
    measure::whole_books("embedded", &*store).await;
    store.close().await;
}

fn drop_indexes(path: &Path) -> Vec<String> {
    let file = rusqlite::Connection::open(path).expect("a file");
    let mut indexes = file
        .prepare(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL
             AND tbl_name IN ('usage_events', 'event_counts', 'daily_rollups', 'daily_errors')",
        )
        .expect("sql");
    let rows = indexes.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let rows: Vec<(String, String)> = rows.expect("sql").map(|row| row.expect("a row")).collect();
    for (name, _) in &rows {
        file.execute_batch(&format!("DROP INDEX {name}"))
            .expect("dropped");
    }
    rows.into_iter().map(|(_, sql)| sql).collect()
}

fn create_indexes(path: &Path, indexes: &[String]) {
    let file = rusqlite::Connection::open(path).expect("a file");
    for sql in indexes {
        file.execute_batch(sql).expect("an index");
    }
    file.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .expect("checkpointed");
}

async fn redis(books: &Books) {
    let asked = std::process::Command::new("redis-server")
        .arg("--version")
        .output();
    if asked.is_err() {
        println!("redis-server is not installed: Redis is left out");
        return;
    }
    let start = || redis_server::RedisServer::start_with(&["--appendonly", "no", "--save", ""]);
    let server = tokio::task::spawn_blocking(start).await.expect("a server");
    let link = LinkOptions {
        timeout: Duration::from_secs(5),
        ..LinkOptions::standalone(server.url())
    };
    let store = RedisStore::start(RedisOptions::new(link)).expect("a store");
    let begin = Instant::now();
    while store.ping().await.is_err() {
        assert!(begin.elapsed() < PATIENCE, "no Redis");
    }
    if let Err(error) = books.fill(&*store).await {
        println!("redis: left out, it could not be filled: {error}");
        return;
    }
    println!(
        "redis: {} events of {} keys in {}, filled in {:.0?}",
        books.events,
        books.keys,
        server.info("used_memory_human").unwrap_or_default(),
        begin.elapsed()
    );
    measure::usage_pages("redis", &*store, books).await;
    measure::whole_books("redis", &*store).await;
    store.close().await;
}
