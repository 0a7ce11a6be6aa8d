//! The embedded store when the disk, the file or its owner is not as one would wish.

use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quota_proxy::keys::KeyId;
use quota_proxy::quota::{
    Amounts, Charge, GroupId, Limit, Period, Quotas, Rates, Reserved, Scope, ScopeClaim, Settled,
};
use quota_proxy::store::embedded::{EmbeddedOptions, EmbeddedStore, export_file};
use quota_proxy::store::{KeyQuery, Settlement, Store, StoreError, UsageQuery};
use quota_proxy::time::{Moment, UnixMs};
use rusqlite::Connection;
use uuid::Uuid;

use crate::records::{ask, audit, event, key_record};

fn open(path: &Path) -> Arc<EmbeddedStore> {
    EmbeddedStore::open(path, EmbeddedOptions::default()).unwrap()
}

async fn key(store: &EmbeddedStore) -> (KeyId, ScopeClaim) {
    let record = key_record(Uuid::new_v4());
    let key = store.create_key(record, audit("test")).await.unwrap().id;
    let tokens = Limit {
        limit: 1_000,
        period: Period::Total,
    };
    let claim = ScopeClaim {
        scope: Scope::Key(key),
        quotas: Quotas {
            tokens,
            ..Quotas::default()
        },
        rates: Rates::default(),
    };
    (key, claim)
}

fn settlement(id: Uuid, key: KeyId, tokens: i64) -> Settlement {
    Settlement {
        id: quota_proxy::quota::ReservationId(id),
        charge: Charge::Exact(Amounts {
            requests: 1,
            tokens,
            nano_usd: 0,
        }),
        event: event(id, key, UnixMs::now()),
        further: Vec::new(),
    }
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let give_up_at = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < give_up_at, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_disk_that_refuses_gives_holds_back_and_loses_no_settlement() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quota.db");
    let store = open(&path);
    let (key, claim) = key(&store).await;
    let running = Uuid::new_v4();
    let ask_for = |id, output| ask(id, key, vec![claim], 0, output);
    let granted = store.reserve(ask_for(running, 100)).await.unwrap();
    assert!(matches!(granted, Reserved::Granted(_)));

    // A visitor who holds the write lock looks to the store like a disk that takes nothing.
    let visitor = Connection::open(&path).unwrap();
    visitor.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = store.reserve(ask_for(Uuid::new_v4(), 100)).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    assert_eq!(store.standing(claim).await.unwrap().held.tokens, 100);
    let settled = store.settle(settlement(running, key, 70)).await.unwrap();
    assert!(matches!(settled, Settled::Applied { .. }));
    assert!(store.ping().await.is_err());
    let change = store
        .create_key(key_record(Uuid::new_v4()), audit("test"))
        .await;
    assert!(matches!(change, Err(StoreError::Unavailable(_))));

    visitor.execute_batch("ROLLBACK").unwrap();
    eventually("the store writes again", || async {
        store.ping().await.is_ok()
    })
    .await;
    let granted = store.reserve(ask_for(Uuid::new_v4(), 100)).await.unwrap();
    assert!(matches!(granted, Reserved::Granted(_)));
    let page = store.usage_events(UsageQuery {
        limit: 10,
        ..UsageQuery::default()
    });
    assert_eq!(page.await.unwrap().total, 1);
    store.close().await;

    let store = open(&path);
    assert_eq!(store.standing(claim).await.unwrap().used.tokens, 170);
    assert_eq!(
        store
            .list_keys(KeyQuery {
                limit: 10,
                ..KeyQuery::default()
            })
            .await
            .unwrap()
            .total,
        1
    );
}

#[tokio::test]
async fn a_file_of_the_first_schema_settles_its_holds_where_they_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quota.db");
    let file = Connection::open(&path).unwrap();
    let written = include_str!("../golden/store_schema_1.sql");
    file.execute_batch(written).unwrap();
    drop(file);
    // An hour later, on the second of the two days it tells of.
    let now = Moment::at(1_795_315_499_123 + 3_600_000);
    let options = EmbeddedOptions {
        clock: Arc::new(move || now),
        ..EmbeddedOptions::default()
    };
    let claim = |scope, period| ScopeClaim {
        scope,
        quotas: Quotas {
            tokens: Limit {
                limit: 1_000,
                period,
            },
            ..Quotas::default()
        },
        rates: Rates::default(),
    };
    let [one, two, group] = [1, 2, 3].map(Uuid::from_u128);
    for _ in 0..2 {
        let store = EmbeddedStore::open(&path, options.clone()).unwrap();
        let used = async |scope, period| {
            let standing = store.standing(claim(scope, period)).await.unwrap();
            assert_eq!(standing.held, Amounts::ZERO);
            standing.used.tokens
        };
        // 20 were settled today, 40 held; what yesterday held is charged to yesterday.
        assert_eq!(used(Scope::Key(KeyId(one)), Period::Daily).await, 60);
        assert_eq!(used(Scope::Group(GroupId(group)), Period::Total).await, 110);
        assert_eq!(used(Scope::Key(KeyId(two)), Period::Total).await, 60);
        store.close().await;
    }
    let file = Connection::open(&path).unwrap();
    let booked = "SELECT group_concat(tokens_booked, ' ') FROM
                  (SELECT tokens_booked FROM counters ORDER BY scope)";
    let booked: String = file.query_row(booked, [], |row| row.get(0)).unwrap();
    assert_eq!(booked, "110 110 60");
}

#[tokio::test]
async fn a_file_of_the_second_schema_learns_calls_and_charged_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quota.db");
    let file = Connection::open(&path).unwrap();
    let written = include_str!("../golden/store_schema_2.sql");
    file.execute_batch(written).unwrap();
    drop(file);
    let key = KeyId(Uuid::from_u128(1));
    for _ in 0..2 {
        let store = open(&path);
        for (charged_only, total) in [(false, 5), (true, 3)] {
            let query = UsageQuery {
                key: Some(key),
                charged_only,
                limit: 10,
                ..UsageQuery::default()
            };
            let page = store.usage_events(query).await.unwrap();
            assert_eq!((page.total, page.items.len()), (total, total as usize));
            assert!(page.items.iter().all(|e| e.requests_remaining.is_none()));
        }
        let rollups = store.rollups(Some(key), "2026-01-01", "2026-12-31").await;
        let rollups = rollups.unwrap();
        // The best guess: requests and errors together, here 2 of 2 calls, and 4 of 3.
        let calls: Vec<i64> = rollups.iter().map(|day| day.calls).collect();
        assert_eq!(calls, [2, 4]);
        assert_eq!(store.audit(0, 9).await.unwrap().total, 1);
        assert_eq!(store.list_users(0, 9).await.unwrap().total, 0);
        let found = store.invariants().await.unwrap();
        assert!(found.checks.iter().all(|check| check.holds), "{found:?}");
        store.close().await;
    }
}

#[tokio::test]
async fn a_file_of_an_older_schema_is_not_exported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quota.db");
    let file = Connection::open(&path).unwrap();
    let written = include_str!("../golden/store_schema_2.sql");
    file.execute_batch(written).unwrap();
    let (records, _) = tokio::sync::mpsc::channel(1);
    let refused = export_file(&path, &records).unwrap_err().to_string();
    assert!(refused.contains("schema version 2"), "{refused}");
}

#[tokio::test]
async fn a_second_process_is_told_who_owns_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quota.db");
    let store = open(&path);
    let second = EmbeddedStore::open(&path, EmbeddedOptions::default());
    let message = second.unwrap_err().to_string();
    assert!(message.contains("in use by another"), "{message}");
    store.close().await;
    drop(open(&path));
    drop(open(&path));
}

#[tokio::test]
async fn folder_and_files_are_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/quota.db");
    let store = open(&path);
    key(&store).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    for file in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let file = file.unwrap().path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn a_newer_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quota.db");
    open(&path).close().await;
    let visitor = Connection::open(&path).unwrap();
    visitor.pragma_update(None, "user_version", 99).unwrap();
    let newer = EmbeddedStore::open(&path, EmbeddedOptions::default());
    let message = newer.unwrap_err().to_string();
    assert!(message.contains("schema version 99"), "{message}");
}

#[tokio::test]
async fn after_close_everything_is_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("quota.db"));
    let (key, claim) = key(&store).await;
    let id = Uuid::new_v4();
    store
        .reserve(ask(id, key, vec![claim], 1, 1))
        .await
        .unwrap();
    store.close().await;
    let refused = store
        .reserve(ask(Uuid::new_v4(), key, vec![claim], 1, 1))
        .await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    assert!(store.settle(settlement(id, key, 1)).await.is_err());
    assert!(store.ping().await.is_err());
    let page = store.usage_events(UsageQuery::default()).await;
    assert!(matches!(page, Err(StoreError::Unavailable(_))));
    store.close().await;
}

#[tokio::test]
async fn a_dropped_reserve_holds_until_it_is_settled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quota.db");
    let store = open(&path);
    let (key, claim) = key(&store).await;
    for _ in 0..200 {
        let id = Uuid::new_v4();
        let reserve = store.reserve(ask(id, key, vec![claim], 1, 1));
        // Polled once: the step has happened, its commit was not waited for.
        drop(tokio::time::timeout(Duration::ZERO, reserve).await);
        let void = Settlement {
            charge: Charge::Void,
            ..settlement(id, key, 0)
        };
        store.settle(void).await.unwrap();
    }
    assert_eq!(store.totals().await.unwrap().held, Amounts::ZERO);
    store.close().await;
    let file = Connection::open(&path).unwrap();
    let rows = file.query_row("SELECT count(*) FROM reservations", [], |row| row.get(0));
    assert_eq!(rows, Ok(0));
}

#[test]
fn any_runtime_may_wait() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("quota.db"));
    for _ in 0..3 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let page = runtime.block_on(store.usage_events(UsageQuery::default()));
        assert_eq!(page.unwrap().total, 0);
    }
}
