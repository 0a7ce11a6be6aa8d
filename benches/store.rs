//! What a reserve and a settle cost, and what group commit saves.
//!
//! Claim: reserve + settle on the embedded store, its writer thread included, takes at most 8 µs of
//! CPU per request at 64 requests at once. Run `cargo bench --bench store`; the baseline (one INSERT,
//! one DELETE and a commit for each request) runs beside it, and the ratio is printed.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench that cannot go on may say so and stop; its figures are its output"
)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::Criterion;
use quota_proxy::keys::KeyId;
use quota_proxy::quota::ledger::Ledger;
use quota_proxy::quota::{
    Amounts, Ask, Charge, Limit, Period, Quotas, Rates, ReservationId, Reserved, Scope, ScopeClaim,
};
use quota_proxy::store::embedded::{EmbeddedOptions, EmbeddedStore};
use quota_proxy::store::{Settlement, Store, UsageEvent};
use quota_proxy::time::{Moment, UnixMs};
use uuid::Uuid;

use records::{audit, key_record};

#[path = "../tests/support/records.rs"]
mod records;

fn main() {
    let mut criterion = Criterion::default()
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500))
        .configure_from_args();
    ledger_alone(&mut criterion);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    for keys in [64, 10_000] {
        runtime.block_on(embedded(1, keys));
        runtime.block_on(embedded(64, keys));
    }
    baseline();
    runtime.block_on(start_with_keys(100_000));
    criterion.final_summary();
}

fn ledger_alone(criterion: &mut Criterion) {
    let keys: Vec<KeyId> = (0..10_000).map(|_| KeyId(Uuid::new_v4())).collect();
    let asks: Vec<Ask> = keys.iter().map(|key| ask(*key)).collect();
    let mut ledger = Ledger::default();
    let mut at = 0;
    criterion.bench_function("ledger: reserve + settle, 10,000 keys", |bencher| {
        bencher.iter(|| {
            at = (at + 7_919) % asks.len();
            let mut ask = asks[at].clone();
            ask.id = ReservationId(Uuid::new_v4());
            let now = Moment::at(1_795_229_099_123);
            let reserved = ledger.reserve(&ask, now);
            assert!(matches!(reserved, Ok(Reserved::Granted(_))));
            black_box(ledger.settle(ask.id, Charge::Exact(charged()), now))
        });
    });
}

/// Requests for three seconds from `tasks` tasks at once, over `keys` keys.
async fn embedded(tasks: usize, keys: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let options = EmbeddedOptions::default();
    let store = EmbeddedStore::open(&folder.path().join("quota.db"), options).expect("a store");
    let mut ids = Vec::new();
    for _ in 0..keys {
        let record = key_record(Uuid::new_v4());
        ids.push(record.id);
        store
            .create_key(record, audit("bench"))
            .await
            .expect("a key");
    }
    let ids = Arc::new(ids);
    let done = Arc::new(AtomicU64::new(0));
    let (begin, cpu) = (Instant::now(), cpu_time());
    let running = (0..tasks).map(|task| {
        let (store, ids, done) = (store.clone(), ids.clone(), done.clone());
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            let mut at = task;
            while begin.elapsed() < Duration::from_secs(3) {
                at = (at + 7_919) % ids.len();
                latencies.push(request(&*store, ids[at]).await);
                done.fetch_add(1, Ordering::Relaxed);
            }
            latencies
        })
    });
    let mut latencies: Vec<Duration> = Vec::new();
    for task in running.collect::<Vec<_>>() {
        latencies.extend(task.await.expect("a task"));
    }
    store.ping().await.expect("written");
    let (elapsed, cpu) = (begin.elapsed(), cpu_time() - cpu);
    latencies.sort_unstable();
    let requests = done.load(Ordering::Relaxed);
    let quantile = |q: usize| latencies[latencies.len() * q / 1000];
    println!(
        "embedded, {keys} keys, {tasks} at once: {:.0} requests/s, reserve p50 {:?} p99 {:?} p99.9 {:?}, CPU {:.2} µs/request",
        requests as f64 / elapsed.as_secs_f64(),
        quantile(500),
        quantile(990),
        quantile(999),
        cpu.as_secs_f64() * 1e6 / requests as f64,
    );
}

/// How long a start takes that finds this many keys.
async fn start_with_keys(keys: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("quota.db");
    let store = EmbeddedStore::open(&path, EmbeddedOptions::default()).expect("a store");
    let begin = Instant::now();
    for _ in 0..keys {
        store
            .create_key(key_record(Uuid::new_v4()), audit("bench"))
            .await
            .expect("a key");
    }
    let created = begin.elapsed() / u32::try_from(keys).expect("a number");
    store.close().await;
    let begin = Instant::now();
    let store = EmbeddedStore::open(&path, EmbeddedOptions::default()).expect("a store");
    println!(
        "{keys} keys: {created:?} to create each, {:?} to open",
        begin.elapsed()
    );
    drop(store);
}

/// One reserve and its settle; answers how long the reserve took.
async fn request(store: &dyn Store, key: KeyId) -> Duration {
    let ask = ask(key);
    let id = ask.id;
    let begin = Instant::now();
    let reserved = store.reserve(ask).await.expect("an answer");
    let took = begin.elapsed();
    assert!(matches!(reserved, Reserved::Granted(_)));
    let settlement = Settlement {
        id,
        charge: Charge::Exact(charged()),
        event: event(key, id),
    };
    store.settle(settlement).await.expect("settled");
    took
}

/// What a store without group commit does: a transaction for each hold and for each settlement.
fn baseline() {
    let folder = tempfile::tempdir().expect("a folder");
    let connection = open_baseline(&folder.path().join("baseline.db"));
    let (begin, cpu) = (Instant::now(), cpu_time());
    let mut requests = 0;
    while begin.elapsed() < Duration::from_secs(3) {
        requests += 1;
        let insert = "INSERT INTO holds VALUES (?1, 'req_0123456789', '/v1/chat/completions', 100)";
        let mut insert = connection.prepare_cached(insert).expect("sql");
        insert.execute([requests]).expect("inserted");
        let delete = "DELETE FROM holds WHERE id = ?1";
        let mut delete = connection.prepare_cached(delete).expect("sql");
        delete.execute([requests]).expect("deleted");
    }
    let cpu = (cpu_time() - cpu).as_secs_f64() * 1e6 / requests as f64;
    println!(
        "baseline, INSERT + DELETE + 2 commits (no event, no sums): {:.0} requests/s, CPU {cpu:.2} µs/request",
        requests as f64 / begin.elapsed().as_secs_f64(),
    );
}

fn open_baseline(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).expect("a database");
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             CREATE TABLE holds (id INTEGER PRIMARY KEY, request TEXT, path TEXT, tokens INTEGER)",
        )
        .expect("a table");
    connection
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .expect("fields")
        .split(' ')
        .collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("ticks");
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

fn charged() -> Amounts {
    Amounts {
        requests: 1,
        tokens: 900,
        nano_usd: 9_000,
    }
}

/// On a key with every limit there is, none of them near.
fn ask(key: KeyId) -> Ask {
    let limit = Limit {
        limit: 1 << 50,
        period: Period::Monthly,
    };
    let claim = ScopeClaim {
        scope: Scope::Key(key),
        quotas: Quotas {
            requests: limit,
            tokens: limit,
            usd: limit,
        },
        rates: Rates {
            requests_per_minute: 1 << 36,
            tokens_per_minute: 1 << 36,
            concurrency: 1 << 36,
        },
    };
    records::ask(Uuid::new_v4(), key, vec![claim], 100, 1_000)
}

fn event(key: KeyId, id: ReservationId) -> UsageEvent {
    UsageEvent {
        end_user: None,
        metadata: None,
        ..records::event(id.0, key, UnixMs::now())
    }
}
