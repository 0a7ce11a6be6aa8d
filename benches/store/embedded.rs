//! The ledger alone, the embedded store around it, and a store without group commit beside it.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use criterion::Criterion;
use quota_proxy::keys::KeyId;
use quota_proxy::quota::ledger::Ledger;
use quota_proxy::quota::{Ask, Charge, ReservationId, Reserved};
use quota_proxy::store::Store as _;
use quota_proxy::store::embedded::{EmbeddedOptions, EmbeddedStore};
use quota_proxy::time::Moment;
use uuid::Uuid;

use crate::load::{self, Figures, ask, charged, cpu_time};
use crate::records::{audit, key_record};

pub fn ledger_alone(criterion: &mut Criterion) {
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

/// The embedded store under load.
pub async fn under_load(count: usize, tasks: usize) -> Figures {
    let folder = tempfile::tempdir().expect("a folder");
    let options = EmbeddedOptions::default();
    let store = EmbeddedStore::open(&folder.path().join("quota.db"), options).expect("a store");
    let keys = load::keys(&*store, count).await;
    let figures = load::run(&[store], &keys, tasks).await;
    println!(
        "embedded, {count} keys, {tasks} at once: {}",
        figures.told()
    );
    figures
}

/// How long a start takes that finds this many keys.
pub async fn start_with_keys(keys: usize) {
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

/// What a store without group commit does: a transaction for each hold and for each settlement.
pub fn baseline() {
    let folder = tempfile::tempdir().expect("a folder");
    let connection = open_baseline(&folder.path().join("baseline.db"));
    let (begin, cpu) = (Instant::now(), cpu_time());
    let mut requests = 0;
    while begin.elapsed() < load::length() {
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
