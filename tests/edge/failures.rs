//! Every way in which an upstream fails, one row each: what the client got, what each upstream saw, what
//! was billed, and what the access log and the metrics say of it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use quota_proxy::cli::fake_upstream::Options;
use quota_proxy::cli::fake_upstream::control::Control;
use serde_json::{Value, json};

use crate::support::fake::Ledger;
use crate::support::rig::{CHAT, CREDENTIAL, Rig, chat_stream};
use crate::support::upstream::{Manner, Upstream, refusing};
use crate::support::wait::{PATIENCE, eventually, that};

/// What the first of two peers does with every request.
#[derive(Clone, Copy, Debug)]
enum First {
    Refuses,
    /// It takes the request and says nothing.
    Hangs,
    Fake(&'static str),
}

/// What comes of it.
struct Row {
    first: First,
    /// `retry.on`; empty for the default.
    on: &'static [&'static str],
    status: u16,
    /// The answer is read to its end.
    whole: bool,
    /// Whether the second peer is asked.
    again: bool,
    /// The word of the access log for the first attempt, where that failed as an attempt.
    reason: Option<&'static str>,
    /// The first attempt in the metrics.
    outcome: &'static str,
}

const fn row(
    first: First,
    on: &'static [&'static str],
    status: u16,
    again: bool,
    reason: Option<&'static str>,
    outcome: &'static str,
) -> Row {
    let whole = true;
    Row {
        first,
        on,
        status,
        whole,
        again,
        reason,
        outcome,
    }
}

const fn broken(first: First) -> Row {
    let on = &["connect", "timeout", "5xx", "429"];
    let mut row = row(first, on, 200, false, None, "broken");
    row.whole = false;
    row
}

use First::{Fake, Hangs, Refuses};

const ROWS: [Row; 17] = [
    row(Refuses, &[], 200, true, Some("connect"), "connect"),
    row(Hangs, &[], 504, false, Some("timeout"), "timeout"),
    row(Hangs, &["timeout"], 200, true, Some("timeout"), "timeout"),
    // A head in time is all that counts; here it is late.
    row(
        Fake("latency=20s"),
        &[],
        504,
        false,
        Some("timeout"),
        "timeout",
    ),
    row(
        Fake("latency=20s"),
        &["timeout"],
        200,
        true,
        Some("timeout"),
        "timeout",
    ),
    // Broken off before the head: it may have worked on it.
    row(Fake("drop"), &[], 502, false, Some("broken"), "broken"),
    row(
        Fake("drop"),
        &["connect", "timeout", "429"],
        502,
        false,
        Some("broken"),
        "broken",
    ),
    row(Fake("drop"), &["5xx"], 200, true, Some("broken"), "broken"),
    row(
        Fake("status=429"),
        &[],
        200,
        true,
        Some("too_many_requests"),
        "too_many_requests",
    ),
    row(
        Fake("status=429"),
        &["connect"],
        429,
        false,
        None,
        "too_many_requests",
    ),
    row(Fake("status=500"), &[], 500, false, None, "server_error"),
    row(
        Fake("status=500"),
        &["5xx"],
        200,
        true,
        Some("server_error"),
        "server_error",
    ),
    row(Fake("status=529"), &[], 529, false, None, "server_error"),
    row(
        Fake("status=529"),
        &["5xx"],
        200,
        true,
        Some("server_error"),
        "server_error",
    ),
    row(
        Fake("status=401"),
        &[],
        200,
        true,
        Some("credential"),
        "credential",
    ),
    broken(Fake("truncate-after=3")),
    broken(Fake("reset-after=3")),
];

async fn start(row: &Row, first: &str, directives: &str) -> Rig {
    let mut always = Control::default();
    always.apply(directives).unwrap();
    let first_fake = Options {
        always,
        ..Options::default()
    };
    let peers = json!([
        {"url": first, "credential": CREDENTIAL},
        {"url": "{fake0}", "credential": CREDENTIAL},
    ]);
    let mut rig = Rig::builder()
        .fake(Options::default())
        .fake(first_fake)
        .set("log", json!({"access": "access.jsonl"}))
        .set("pools.2.balance", json!("fallback"))
        .set("pools.2.peers", peers)
        .set(
            "pools.2.timeouts",
            json!({"first_byte": "1s", "idle": "1s"}),
        );
    if !row.on.is_empty() {
        rig = rig.set("pools.2.retry", json!({"on": row.on}));
    }
    rig.start().await
}

async fn access_line(rig: &Rig) -> Value {
    let path = rig.folder().join("access.jsonl");
    eventually(PATIENCE, || async {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        that(lines.collect::<Vec<Value>>(), |lines| lines.len() == 1)
    })
    .await
    .remove(0)
}

/// How often an answer was produced to its end, which is what a provider bills for certain.
fn finished(ledger: &Ledger) -> usize {
    let done =
        |record: &&crate::support::fake::Record| record.finished && record.status == Some(200);
    ledger.records.iter().filter(done).count()
}

async fn holds(row: &Row) {
    let (closed, refused) = refusing();
    let silent = Upstream::start(Manner::Silent).await;
    let (url, directives) = match row.first {
        Refuses => (refused, ""),
        Hangs => (silent.url(), ""),
        Fake(directives) => ("{fake1}".to_owned(), directives),
    };
    let rig = start(row, &url, directives).await;
    let key = rig.admin().key(10_000).await;
    let answer = rig.post(CHAT, &key.secret, &chat_stream("gpt-4o")).await;
    assert_eq!(answer.status(), row.status);
    assert_eq!(answer.bytes().await.is_ok(), row.whole);
    drop(closed);

    let line = access_line(&rig).await;
    let (first, second) = (rig.fakes()[1].ledger().await, rig.fakes()[0].ledger().await);
    let asked_first = first.requests as usize + silent.seen().len();
    assert_eq!(asked_first, usize::from(!matches!(row.first, Refuses)));
    assert_eq!(second.requests, u64::from(row.again));
    assert!(finished(&first) + finished(&second) <= 1, "billed twice");

    let attempts = 1 + i64::from(row.again);
    assert_eq!(line["attempts"], attempts, "{line}");
    assert_eq!(line["status"], row.status, "{line}");
    let name = if row.again {
        rig.fakes()[0].url()
    } else {
        url.replace("{fake1}", &rig.fakes()[1].url())
    };
    assert_eq!(line["peer"], name.trim_start_matches("http://"), "{line}");
    assert_eq!(
        line["failed_attempts"][0]["reason"].as_str(),
        row.reason,
        "{line}"
    );
    let metrics = rig.admin().metrics().await;
    let begin = format!("upstream_attempts_total{{outcome=\"{}\",peer=", row.outcome);
    let is_one = |line: &str| line.starts_with(&begin) && line.ends_with("pool=\"openai\"} 1");
    assert!(metrics.lines().any(is_one), "no {begin} in\n{metrics}");

    rig.admin().settled().await;
    let shown = rig.admin().show(&key).await;
    let used = shown["token_used"].as_u64().unwrap();
    let served = i64::from(row.status == 200);
    assert_eq!(shown["request_count"], served, "{shown}");
    assert_eq!(shown["token_remaining"], 10_000 - used, "{shown}");
    if row.again {
        let seen = &second.records[0];
        assert_eq!(used, seen.input_tokens + seen.output_tokens, "{shown}");
    } else {
        assert_eq!(used > 0, !row.whole, "{shown}");
    }
    rig.end().await;
}

/// Each row has its own proxy and upstreams; some wait, so they run side by side.
#[tokio::test]
async fn each_failure_is_told_counted_and_billed_as_it_should_be() {
    for rows in ROWS.chunks(4) {
        let checks = rows.iter().map(|row| async {
            println!("{:?} with retry.on {:?}", row.first, row.on);
            holds(row).await;
        });
        futures_util::future::join_all(checks).await;
    }
}
