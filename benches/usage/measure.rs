//! How long the answers take, one after the other.

use std::time::{Duration, Instant};

use quota_proxy::keys::KeyId;
use quota_proxy::store::{KeyQuery, Store, SumBy, SumQuery, UsageQuery};
use quota_proxy::time::{DAY_MS, UnixMs};

use crate::fill::{Books, DAYS, key, spread};

const BOUND: Duration = Duration::from_millis(50);
const SAMPLES: u64 = 300;
/// Rows of a first page, unless the caller asks for more.
const PAGE: i64 = 100;

#[derive(Clone, Copy, Debug)]
enum Answer {
    /// `/api/usage`.
    Usage,
    /// `/api/usage/daily`.
    Daily,
    /// The first page of `/api/usage/logs`.
    Logs,
    /// The same of `/api/v1/usage/history`: what drew on the request quota.
    History,
}

/// What a caller asks of its own key, at random and hot.
pub async fn usage_pages(name: &str, store: &dyn Store, books: &Books) {
    for (whose, hot) in [("keys at random", false), ("the hot key", true)] {
        for answer in [Answer::Usage, Answer::Daily, Answer::Logs, Answer::History] {
            let mut took = Vec::new();
            for sample in 0..SAMPLES {
                let number = if hot { 0 } else { spread(sample) % books.keys };
                let begin = Instant::now();
                ask(store, key(number), answer).await;
                took.push(begin.elapsed());
            }
            took.sort_unstable();
            let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
            let kept = if p99 < BOUND { "within" } else { "BEYOND" };
            println!("{name}, {answer:?}, {whose}: p50 {p50:.2?}, p99 {p99:.2?}, {kept} {BOUND:?}");
        }
    }
}

async fn ask(store: &dyn Store, key: KeyId, answer: Answer) {
    let until = UnixMs::now();
    let since = until.plus_ms(-DAYS * DAY_MS);
    let sums = |by| SumQuery {
        key: Some(key),
        since,
        until,
        by,
    };
    match answer {
        Answer::Usage => {
            let by_model = store.usage_sums(sums(SumBy::Model)).await;
            let by_code = store.usage_sums(sums(SumBy::ErrorCode)).await;
            assert!(!by_model.expect("sums").is_empty() || by_code.expect("sums").is_empty());
        }
        Answer::Daily => {
            store.usage_sums(sums(SumBy::Day)).await.expect("sums");
        }
        Answer::Logs | Answer::History => {
            let query = UsageQuery {
                key: Some(key),
                since: Some(since),
                until: Some(until),
                charged_only: matches!(answer, Answer::History),
                skip: 0,
                limit: PAGE,
            };
            let page = store.usage_events(query).await.expect("a page");
            assert!(page.items.len() as i64 == page.total.min(PAGE));
        }
    }
}

/// What an operator asks of all keys: no bound, told as it is.
pub async fn whole_books(name: &str, store: &dyn Store) {
    let until = UnixMs::now();
    for by in [SumBy::Model, SumBy::Day, SumBy::Key] {
        let begin = Instant::now();
        let query = SumQuery {
            key: None,
            since: until.plus_ms(-DAYS * DAY_MS),
            until,
            by,
        };
        let sums = store.usage_sums(query).await.expect("sums").len();
        println!(
            "{name}, all keys by {by:?}: {sums} sums in {:.0?}",
            begin.elapsed()
        );
    }
    let begin = Instant::now();
    let query = KeyQuery {
        limit: PAGE,
        ..KeyQuery::default()
    };
    let page = store.list_keys(query).await.expect("a page");
    println!(
        "{name}, first page of {} keys: {:.2?}",
        page.total,
        begin.elapsed()
    );
    let begin = Instant::now();
    match store.invariants().await {
        Ok(found) => {
            let checked: i64 = found.checks.iter().map(|check| check.checked).sum();
            println!(
                "{name}, invariants: {checked} looked at in {:.1?}",
                begin.elapsed()
            );
        }
        Err(error) => println!("{name}, invariants: {error}"),
    }
}
