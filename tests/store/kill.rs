//! A real kill -9: a child reserves and settles and says what was acknowledged; it is killed at
//! random instants, and everything it had acknowledged must be in the file, once.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use quota_proxy::keys::KeyId;
use quota_proxy::quota::{
    Amounts, Charge, Limit, Period, Quotas, Rates, ReservationId, Reserved, Scope, ScopeClaim,
};
use quota_proxy::store::embedded::{EmbeddedOptions, EmbeddedStore};
use quota_proxy::store::{KeyQuery, Settlement, Store, UsageQuery};
use quota_proxy::time::UnixMs;
use uuid::Uuid;

use crate::records::{ask, audit, event, key_record};
use crate::soak::soak;

const CHILD: &str = "QUOTA_PROXY_KILL_CHILD";
/// What each request holds, and what the settled ones use.
const HELD: i64 = 50;
const USED: i64 = 20;

fn claim(key: KeyId) -> ScopeClaim {
    let tokens = Limit {
        limit: 1 << 50,
        period: Period::Daily,
    };
    ScopeClaim {
        scope: Scope::Key(key),
        quotas: Quotas {
            tokens,
            ..Quotas::default()
        },
        rates: Rates::default(),
    }
}

/// Not a test by itself: what the child process runs until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let store = EmbeddedStore::open(Path::new(&path), EmbeddedOptions::default()).unwrap();
    let key = store
        .list_keys(KeyQuery {
            limit: 1,
            ..KeyQuery::default()
        })
        .await
        .unwrap()
        .items[0]
        .id;
    let tasks = (0..16).map(|task| tokio::spawn(exchanges(store.clone(), key, task)));
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

async fn exchanges(store: Arc<EmbeddedStore>, key: KeyId, task: usize) {
    for n in 0.. {
        let id = Uuid::new_v4();
        let ask = ask(id, key, vec![claim(key)], 10, HELD - 10);
        assert!(matches!(
            store.reserve(ask).await.unwrap(),
            Reserved::Granted(_)
        ));
        acknowledge('R', id);
        if (n + task).is_multiple_of(5) {
            continue;
        }
        let settlement = Settlement {
            id: ReservationId(id),
            charge: Charge::Exact(Amounts {
                requests: 1,
                tokens: USED,
                nano_usd: USED,
            }),
            event: event(id, key, UnixMs::now()),
            further: Vec::new(),
        };
        store.settle(settlement).await.unwrap();
        acknowledge('S', id);
    }
}

fn acknowledge(what: char, id: Uuid) {
    std::io::stdout()
        .write_all(format!("\n{what} {id} .").as_bytes())
        .unwrap();
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_and_nothing_counts_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quota.db");
    let store = EmbeddedStore::open(&path, EmbeddedOptions::default()).unwrap();
    let key = store
        .create_key(key_record(Uuid::new_v4()), audit("test"))
        .await;
    let key = key.unwrap().id;
    store.close().await;
    let mut acknowledged = 0;
    for cycle in 0..8 * soak() {
        let after_ms = 40 + u64::from(Uuid::new_v4().as_bytes()[0]) / 2;
        let lines = run_and_kill(&path, Duration::from_millis(after_ms));
        acknowledged += lines.len();
        check(&path, key, &lines, cycle, after_ms).await;
    }
    assert!(acknowledged > 0);
}

/// What the child said before it died.
fn run_and_kill(path: &Path, after: Duration) -> Vec<(char, Uuid)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let lines = output.lines().map_while(Result::ok);
        lines.filter_map(|line| parse(&line)).collect::<Vec<_>>()
    });
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

/// `R 8f0c… .`; a line without its dot was cut by the kill.
fn parse(line: &str) -> Option<(char, Uuid)> {
    let mut words = line.split(' ');
    let what = words.next()?.chars().next()?;
    let id = Uuid::parse_str(words.next()?).ok()?;
    (words.next()? == ".").then_some((what, id))
}

async fn check(path: &Path, key: KeyId, lines: &[(char, Uuid)], cycle: u32, after_ms: u64) {
    let seen = format!("cycle {cycle}, killed after {after_ms} ms");
    let store = EmbeddedStore::open(path, EmbeddedOptions::default()).unwrap();
    let totals = store.totals().await.unwrap();
    assert_eq!(
        (totals.open_reservations, totals.held),
        (0, Amounts::ZERO),
        "{seen}"
    );
    let query = UsageQuery {
        key: Some(key),
        limit: i64::MAX,
        ..UsageQuery::default()
    };
    let events = store.usage_events(query).await.unwrap();
    assert_eq!(events.total, events.items.len() as i64, "{seen}");
    let mut charged: HashMap<Uuid, Vec<i64>> = HashMap::new();
    for event in &events.items {
        charged
            .entry(event.id)
            .or_default()
            .push(event.total_tokens);
    }
    for (what, id) in lines {
        let charges = charged.get(id).map(Vec::as_slice).unwrap_or_default();
        let right = match what {
            // Never settled: its hold is charged.
            'R' => charges == [HELD] || charges == [USED],
            _ => charges == [USED] || charges == [HELD],
        };
        assert!(right, "{seen}: {what} {id} was charged {charges:?}");
    }
    let sum: i64 = events.items.iter().map(|event| event.total_tokens).sum();
    let standing = store.standing(claim(key)).await.unwrap();
    assert_eq!(standing.used.tokens, sum, "{seen}");
    assert_eq!(standing.used.requests, events.total, "{seen}");
    store.close().await;
}
