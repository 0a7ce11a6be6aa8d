//! Exchanges over TLS, over HTTP/2 and HTTP/1.1: metered to the token, also where clients leave.

use std::collections::BTreeMap;
use std::sync::Arc;

use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::client::{Client, Connection, text};
use crate::handshakes::rig;
use crate::support::admin::Key;
use crate::support::fake::Record;
use crate::support::rig::{CHAT, Rig};
use crate::support::tls::Certificates;

const HOST: &str = "first.example";
const STREAMS: usize = 40;

fn body(client: usize) -> Value {
    json!({
        "model": "gpt-4o", "stream": true, "max_tokens": 5_000, "user": format!("client-{client}"),
        "messages": [{"role": "user", "content": "Tell me a story."}],
    })
}

async fn start(protocol: &str) -> (Arc<Rig>, Key, Connection) {
    let certificates = Certificates::of(&format!("DNS:{HOST}"));
    let rig = rig(&certificates, &["server"], json!({})).await;
    let key = rig.admin().key(1_000_000_000).await;
    let client = Client::new(&certificates, protocol, None);
    let connection = client.connect(rig.process().tls[0], HOST).await.unwrap();
    (Arc::new(rig), key, connection)
}

async fn ask(
    connection: &Connection,
    key: &Key,
    client: usize,
    wish: &str,
) -> http::Response<hyper::body::Incoming> {
    let bearer = format!("Bearer {}", key.secret);
    let id = client.to_string();
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-fake", wish),
        ("x-request-id", &id),
    ];
    let answer = connection
        .post(CHAT, &headers, &body(client))
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    answer
}

/// Events and the fake's records, by client, once all has ended.
async fn told(rig: &Rig, key: &Key, count: usize) -> BTreeMap<String, (Value, Record)> {
    rig.admin().settled().await;
    let ledger = rig.fake().ledger_when(|ledger| {
        ledger.records.len() == count && ledger.records.iter().all(|r| r.finished || r.client_gone)
    });
    let records = ledger.await.records;
    let events = rig.admin().usage_logs_when(key, count).await;
    let by_client = |event: Value| {
        let client = event["end_user"].as_str().unwrap().to_owned();
        let id = client.trim_start_matches("client-");
        let record = records.iter().find(|r| r.headers["x-request-id"] == id);
        (client.clone(), (event, record.unwrap().clone()))
    };
    events.into_iter().map(by_client).collect()
}

#[tokio::test]
async fn many_streams_of_one_connection_are_metered_each_for_itself() {
    let (rig, key, connection) = start("h2").await;
    let running = (0..STREAMS).map(|client| {
        let (connection, key) = (&connection, &key);
        async move {
            let wish = format!("tokens={},interval=2ms", client + 1);
            text(ask(connection, key, client, &wish).await).await
        }
    });
    for answer in futures_util::future::join_all(running).await {
        assert!(answer.ends_with("data: [DONE]\n\n"), "{answer}");
    }
    let told = told(&rig, &key, STREAMS).await;
    for client in 0..STREAMS {
        let (event, record) = &told[&format!("client-{client}")];
        assert_eq!(event["completion_tokens"], client + 1, "{event:#}");
        assert_eq!(event["prompt_tokens"], record.input_tokens, "{event:#}");
        assert_eq!(event["estimated"], false, "{event:#}");
    }
    Arc::try_unwrap(rig).unwrap().end().await;
}

/// RST_STREAM (RFC 9113 section 6.4) ends one stream: the others of the connection go on.
#[tokio::test]
async fn a_client_that_resets_a_stream_pays_for_it_and_no_other_notices() {
    let (rig, key, connection) = start("h2").await;
    let running = (0..STREAMS).map(|client| {
        let (connection, key) = (&connection, &key);
        async move {
            let leaves = client % 2 == 0;
            let tokens = if leaves { 5_000 } else { 120 };
            let wish = format!("tokens={tokens},interval=5ms");
            let answer = ask(connection, key, client, &wish).await;
            if !leaves {
                return assert!(text(answer).await.ends_with("data: [DONE]\n\n"));
            }
            let mut body = answer.into_body();
            for _ in 0..=client {
                body.frame().await.unwrap().unwrap();
            }
        }
    });
    futures_util::future::join_all(running).await;
    let told = told(&rig, &key, STREAMS).await;
    let mut charged = 0;
    for client in 0..STREAMS {
        let (event, record) = &told[&format!("client-{client}")];
        let (ours, theirs) = (&event["completion_tokens"], record.output_tokens);
        charged += event["total_tokens"].as_i64().unwrap();
        if client % 2 == 1 {
            assert_eq!(*ours, 120, "{event:#}");
            assert_eq!(event["client_disconnected"], false, "{event:#}");
            continue;
        }
        assert!(record.client_gone && theirs < 5_000, "{record:?}");
        assert_eq!(event["client_disconnected"], true, "{event:#}");
        assert_eq!(event["reason"], "client_gone", "{event:#}");
        // What the upstream wrote while it did not know yet is not ours.
        let ours = ours.as_i64().unwrap();
        assert!(
            ours >= 1 && ours <= theirs as i64 + 3,
            "{theirs}: {event:#}"
        );
    }
    // The connection serves on, and the key's count is that of its events.
    text(ask(&connection, &key, STREAMS, "tokens=7").await).await;
    let admin = rig.admin();
    let all = |shown: &Value| shown["request_count"] == STREAMS + 1;
    let shown = admin.show_when(&key, all).await;
    let last = admin.usage_logs_when(&key, STREAMS + 1).await;
    charged += last[0]["total_tokens"].as_i64().unwrap();
    assert_eq!(shown["token_used"], charged);
    Arc::try_unwrap(rig).unwrap().end().await;
}

#[tokio::test]
async fn http1_streams_one_after_the_other_on_one_connection() {
    let (rig, key, connection) = start("http/1.1").await;
    for client in 0..5 {
        let wish = format!("tokens={},interval=1ms", 10 * (client + 1));
        let answer = text(ask(&connection, &key, client, &wish).await).await;
        assert!(answer.ends_with("data: [DONE]\n\n"), "{answer}");
    }
    for (event, record) in told(&rig, &key, 5).await.into_values() {
        assert_eq!(
            event["completion_tokens"], record.output_tokens,
            "{event:#}"
        );
        assert_eq!(event["prompt_tokens"], record.input_tokens, "{event:#}");
    }
    Arc::try_unwrap(rig).unwrap().end().await;
}
