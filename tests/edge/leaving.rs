//! RELIABILITY 13: clients that leave. Whatever the rule, the upstream's own ledger says what was
//! really sent, the books say what was charged, and nothing stays held.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::admin::Key;
use crate::support::chance::Chance;
use crate::support::fake::{Ledger, Record};
use crate::support::rig::Rig;
use crate::support::wait::{PATIENCE, eventually, that};

const PATH: &str = "/v1/chat/completions";

/// How a client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    Fin,
    Reset,
    H2Reset,
}

const WAYS: [Leave; 3] = [Leave::Fin, Leave::Reset, Leave::H2Reset];

/// Clients per rule: a few hundred, a thousand in a soak.
fn clients() -> u64 {
    if std::env::var_os("QUOTA_PROXY_SOAK").is_some() {
        1_000
    } else {
        250
    }
}

async fn rig(rule: &str) -> (Rig, Key) {
    let rig = Rig::builder()
        .set("quota.on_client_gone", json!(rule))
        .start()
        .await;
    let key = rig.admin().key(1_000_000_000).await;
    (rig, key)
}

/// A stream whose event and ledger record can be told from all others.
fn body(client: u64) -> Value {
    json!({
        "model": "gpt-4o", "stream": true, "max_tokens": 5_000, "user": format!("client-{client}"),
        "messages": [{"role": "user", "content": "Tell me a long story about nothing at all."}],
    })
}

/// One client that reads `bytes` of the answer and leaves.
async fn visit(rig: &Rig, key: &Key, client: u64, way: Leave, wish: &str, bytes: usize) {
    let id = client.to_string();
    let bearer = format!("Bearer {}", key.secret);
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-fake", wish),
        ("x-request-id", id.as_str()),
        ("content-type", "application/json"),
    ];
    let body = body(client).to_string();
    if way == Leave::H2Reset {
        let request = rig.h2().post(format!("{}{PATH}", rig.url())).body(body);
        let request = headers.iter().fold(request, |r, (n, v)| r.header(*n, *v));
        let mut answer = request.send().await.unwrap();
        let mut seen = 0;
        while seen < bytes {
            seen += answer.chunk().await.unwrap().unwrap().len();
        }
        return;
    }
    let mut wire = rig.wire().await;
    wire.post(PATH, &headers, body.as_bytes()).await;
    assert_eq!(wire.head().await.status, 200);
    wire.read_some(bytes).await;
    match way {
        Leave::Reset => wire.reset(),
        _ => wire.close(),
    }
}

/// Many clients that leave at random places, some at a time.
async fn visits(rig: &Arc<Rig>, key: &Key, wish: &'static str, most_bytes: u64) -> u64 {
    let mut chance = Chance::from_env();
    let count = clients();
    let room = Arc::new(Semaphore::new(40));
    let mut running = tokio::task::JoinSet::new();
    for client in 0..count {
        let (way, bytes) = (*chance.pick(&WAYS), 1 + chance.below(most_bytes) as usize);
        let (rig, key, room) = (Arc::clone(rig), key.clone(), Arc::clone(&room));
        running.spawn(async move {
            let _place = room.acquire().await.unwrap();
            visit(&rig, &key, client, way, wish, bytes).await;
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    count
}

/// The fake's records by client, once every request has ended there.
async fn records(rig: &Rig, count: u64) -> BTreeMap<String, Record> {
    let ended = |ledger: &Ledger| {
        ledger.requests == count && ledger.records.iter().all(|r| r.finished || r.client_gone)
    };
    let ledger = rig.fake().ledger_when(ended).await;
    let by_client = |record: &Record| {
        let id = record.headers.get("x-request-id").unwrap();
        (format!("client-{id}"), record.clone())
    };
    ledger.records.iter().map(by_client).collect()
}

/// The events by client, once all are booked and nothing is held.
async fn events(rig: &Rig, key: &Key, count: u64) -> BTreeMap<String, Value> {
    rig.admin().settled().await;
    let logs = rig.admin().usage_logs_when(key, count as usize).await;
    let by_client = |event: Value| (event["end_user"].as_str().unwrap().to_owned(), event);
    logs.into_iter().map(by_client).collect()
}

fn number(event: &Value, name: &str) -> i64 {
    event[name].as_i64().unwrap()
}

/// Ends the proxy and checks the books as they lie on disk.
async fn balanced(rig: Arc<Rig>, key: &Key, events: &BTreeMap<String, Value>) {
    let charged: i64 = events.values().map(|e| number(e, "total_tokens")).sum();
    assert_eq!(rig.admin().show(key).await["token_used"], charged);
    Arc::try_unwrap(rig).unwrap().end().await;
}

#[tokio::test]
async fn bill_streamed_charges_what_was_really_sent() {
    let (rig, key) = rig("bill_streamed").await;
    let rig = Arc::new(rig);
    // Each would run for a minute: it ends because the proxy hangs up.
    let count = visits(&rig, &key, "tokens=5000,interval=12ms", 12_000).await;
    let records = records(&rig, count).await;
    let events = events(&rig, &key, count).await;
    let is_soak = crate::support::soak::soak() > 1;
    let unheard = if is_soak { 90 } else { 2_000 };
    let (mut sent, mut charged) = (0, 0);
    for (client, event) in &events {
        let record = &records[client];
        assert!(
            record.client_gone && record.output_tokens < 4_000,
            "{record:?}"
        );
        assert_eq!(event["client_disconnected"], true, "{event:#}");
        assert_eq!(event["estimated"], true, "{event:#}");
        assert_eq!(event["reason"], "client_gone", "{event:#}");
        // What the upstream wrote while it did not know yet: a second of words, and no more. A busy
        // machine may take longer to tell it.
        let (theirs, ours) = (
            record.output_tokens as i64,
            number(event, "completion_tokens"),
        );
        assert!(
            ours <= theirs + 3 && ours + unheard >= theirs,
            "{theirs}: {event:#}"
        );
        sent += theirs;
        charged += ours;
    }
    let off = (sent - charged).abs() as f64 / sent as f64;
    // On a busy machine more is sent before the upstream hears of it.
    assert!(off <= 0.05 || !is_soak, "sent {sent}, charged {charged}");
    balanced(rig, &key, &events).await;
}

#[tokio::test]
async fn drain_reads_on_and_charges_the_exact_usage() {
    let (rig, key) = rig("drain").await;
    let rig = Arc::new(rig);
    let count = visits(&rig, &key, "tokens=60,interval=4ms", 3_000).await;
    let records = records(&rig, count).await;
    let events = events(&rig, &key, count).await;
    for (client, event) in &events {
        let record = &records[client];
        assert!(record.finished && !record.client_gone, "{record:?}");
        assert_eq!(number(event, "completion_tokens"), 60, "{event:#}");
        assert_eq!(
            number(event, "prompt_tokens") as u64,
            record.input_tokens,
            "{event:#}"
        );
        assert_eq!(event["estimated"], false, "{event:#}");
    }
    let gone = events
        .values()
        .filter(|e| e["client_disconnected"] == true)
        .count();
    assert!(gone > events.len() / 2, "only {gone} were seen to leave");
    balanced(rig, &key, &events).await;
}

#[tokio::test]
async fn keep_hold_charges_no_less_than_was_held() {
    let (rig, key) = rig("keep_hold").await;
    let rig = Arc::new(rig);
    let count = visits(&rig, &key, "tokens=5000,interval=12ms", 6_000).await;
    records(&rig, count).await;
    let events = events(&rig, &key, count).await;
    let mut whole_bound = 0;
    for event in events.values() {
        assert_eq!(event["reason"], "client_gone", "{event:#}");
        // Later ones may hold what is usual by then, which are the kept holds of the first.
        assert!(number(event, "total_tokens") >= 5_000, "{event:#}");
        whole_bound += 1;
    }
    assert_eq!(whole_bound, count);
    balanced(rig, &key, &events).await;
}

/// Clients that are gone before there is anything to read.
async fn before_the_first_byte(rule: &str, wish: &str) -> (Arc<Rig>, Key, u64) {
    let (rig, key) = rig(rule).await;
    let rig = Arc::new(rig);
    let count = 30;
    let mut waiting = Vec::new();
    let mut streams = tokio::task::JoinSet::new();
    for client in 0..count {
        let id = client.to_string();
        let bearer = format!("Bearer {}", key.secret);
        if client % 3 == 0 {
            let request = rig.h2().post(format!("{}{PATH}", rig.url()));
            let request = request
                .header("authorization", bearer)
                .header("x-fake", wish);
            let request = request.header("x-request-id", id).json(&body(client));
            streams.spawn(request.send());
            continue;
        }
        let mut wire = rig.wire().await;
        let headers = [
            ("authorization", bearer.as_str()),
            ("x-fake", wish),
            ("x-request-id", id.as_str()),
        ];
        wire.post(PATH, &headers, body(client).to_string().as_bytes())
            .await;
        waiting.push((client, wire));
    }
    rig.fake()
        .ledger_when(|ledger| ledger.requests == count)
        .await;
    streams.abort_all();
    while streams.join_next().await.is_some() {}
    for (client, wire) in waiting {
        match client % 3 {
            1 => wire.reset(),
            _ => wire.close(),
        }
    }
    (rig, key, count)
}

#[tokio::test]
async fn a_client_gone_before_the_first_byte_pays_for_its_input() {
    let (rig, key, count) = before_the_first_byte("bill_streamed", "latency=60s").await;
    // The upstream is told long before it would have answered.
    let records = records(&rig, count).await;
    assert!(
        records
            .values()
            .all(|r| r.client_gone && r.output_tokens == 0)
    );
    let events = events(&rig, &key, count).await;
    for (client, event) in &events {
        assert_eq!(event["client_disconnected"], true, "{event:#}");
        assert_eq!(number(event, "completion_tokens"), 0, "{event:#}");
        let (theirs, ours) = (
            records[client].input_tokens as i64,
            number(event, "prompt_tokens"),
        );
        assert!(ours >= theirs && ours <= theirs + 20, "{theirs}: {event:#}");
    }
    balanced(rig, &key, &events).await;
}

#[tokio::test]
async fn drain_waits_for_an_answer_that_nobody_reads() {
    let (rig, key, count) = before_the_first_byte("drain", "latency=400ms,tokens=9").await;
    let records = records(&rig, count).await;
    assert!(records.values().all(|r| r.finished && r.output_tokens == 9));
    let events = events(&rig, &key, count).await;
    for event in events.values() {
        assert_eq!(number(event, "completion_tokens"), 9, "{event:#}");
        assert_eq!(event["estimated"], false, "{event:#}");
    }
    balanced(rig, &key, &events).await;
}

#[tokio::test]
async fn a_client_gone_inside_its_own_request_pays_nothing() {
    let (rig, key) = rig("bill_streamed").await;
    let bearer = format!("Bearer {}", key.secret);
    for way in [Leave::Fin, Leave::Reset] {
        let mut wire = rig.wire().await;
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: edge.test\r\nauthorization: {bearer}\r\ncontent-length: 900\r\n\r\n{{"
        );
        wire.send(head).await;
        match way {
            Leave::Reset => wire.reset(),
            _ => wire.close(),
        }
    }
    let shown = eventually(PATIENCE, || async {
        that(rig.admin().show(&key).await, |shown| {
            shown["error_count"] == 2
        })
    });
    let shown = shown.await;
    assert_eq!(
        (&shown["token_used"], &shown["request_count"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(rig.admin().metric("quota_reservations_open").await, 0.0);
    assert_eq!(rig.fake().ledger().await.requests, 0);
}
