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
use quota_proxy::keys::{KeyHash, KeyId, KeyRecord};
use quota_proxy::quota::ledger::Ledger;
use quota_proxy::quota::{
    Admission, Amounts, Ask, Charge, Limit, Period, Quotas, Rates, ReservationId, Reserved, Scope,
    ScopeClaim, Subject,
};
use quota_proxy::store::embedded::{EmbeddedOptions, EmbeddedStore};
use quota_proxy::store::{AuditEntry, Settlement, Store, UsageEvent};
use quota_proxy::time::{Moment, UnixMs};
use uuid::Uuid;

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
    let asks: Vec<Ask> = keys.iter().map(|key| ask(*key, 1)).collect();
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
        let record = record();
        ids.push(record.id);
        store.create_key(record, audit()).await.expect("a key");
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
        store.create_key(record(), audit()).await.expect("a key");
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
    let ask = ask(key, 1);
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

fn ask(key: KeyId, key_version: i64) -> Ask {
    let limit = |limit| Limit {
        limit,
        period: Period::Monthly,
    };
    Ask {
        id: ReservationId(Uuid::new_v4()),
        key_version,
        group_version: None,
        scopes: vec![ScopeClaim {
            scope: Scope::Key(key),
            quotas: Quotas {
                requests: limit(1 << 50),
                tokens: limit(1 << 50),
                usd: limit(1 << 50),
            },
            rates: Rates {
                requests_per_minute: 1 << 36,
                tokens_per_minute: 1 << 36,
                concurrency: 1 << 36,
            },
        }],
        admission: Admission::Clamp,
        requests: 1,
        input_tokens: 100,
        output_tokens: 1_000,
        least_output_tokens: 1,
        fixed_nano_usd: 1_000,
        output_nano_per_million: 10_000_000,
        rate_limited: true,
        lease_ms: 900_000,
        subject: Arc::new(Subject {
            key,
            request_id: String::from("req_0123456789abcdef01234567"),
            method: String::from("POST"),
            path: String::from("/v1/chat/completions"),
            model: Some(String::from("gpt-5-mini")),
            pool: Some(String::from("openai")),
            end_user: None,
            input_tokens: 100,
        }),
    }
}

fn event(key: KeyId, id: ReservationId) -> UsageEvent {
    UsageEvent {
        id: id.0,
        api_key_id: key,
        request_id: String::from("req_0123456789abcdef01234567"),
        request_method: String::from("POST"),
        request_path: String::from("/v1/chat/completions"),
        request_size: 1_000,
        response_status: 200,
        response_size: 2_000,
        response_time_ms: 1_000,
        first_byte_ms: Some(200),
        requests: 1,
        prompt_tokens: 100,
        completion_tokens: 800,
        cached_tokens: 0,
        cache_write_tokens: 0,
        reasoning_tokens: 0,
        total_tokens: 900,
        model: Some(String::from("gpt-5-mini")),
        pool: Some(String::from("openai")),
        peer: Some(String::from("api.openai.com:443")),
        is_error: false,
        error_code: None,
        error_message: None,
        total_error_message: None,
        total_cost_nano: 9_000,
        estimated: false,
        end_user: None,
        client_disconnected: false,
        reason: None,
        metadata: None,
        created_at: UnixMs::now(),
    }
}

fn record() -> KeyRecord {
    let id = Uuid::new_v4();
    KeyRecord {
        id: KeyId(id),
        seq: 0,
        version: 0,
        name: String::from("bench"),
        description: None,
        hash: KeyHash::of(id.as_bytes()),
        masked: String::from("sk-proxy_AbCd…wxyz"),
        prefix: String::from("sk-proxy"),
        previous: None,
        owner: None,
        group: None,
        tier: String::from("unlimited"),
        quotas: Quotas::default(),
        allowed_ips: Vec::new(),
        denied_ips: Vec::new(),
        allowed_origins: Vec::new(),
        allowed_models: Vec::new(),
        metadata: serde_json::Value::Null,
        active: true,
        deleted: false,
        expires_at: None,
        created_at: UnixMs(0),
        updated_at: UnixMs(0),
    }
}

fn audit() -> AuditEntry {
    AuditEntry {
        at: UnixMs(0),
        who: String::from("bench"),
        what: String::from("create"),
        subject: String::from("bench"),
        before: None,
        after: None,
    }
}
