//! WebSockets of realtime APIs: passed through both ways, and metered by what their turns report.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::admin::Key;
use crate::support::reader::Reader;
use crate::support::rig::{Builder, CHAT, CREDENTIAL, Rig, chat};
use crate::support::sdk::PYTHON;
use crate::support::upstream::{Manner, Upstream};
use crate::support::wire::Answer;

/// A rig whose OpenAI pool has one peer at this URL.
fn reaching(url: &str) -> Builder {
    Rig::builder().set(
        "pools.2.peers",
        json!([{"url": url, "credential": CREDENTIAL}]),
    )
}

async fn talk(rig: &Rig, key: &Key, query: &str, turns: u32) -> Output {
    let url = format!("ws://{}/v1/realtime{query}", rig.edge());
    let secret = key.secret.clone();
    let client = tokio::task::spawn_blocking(move || {
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/upstreams/socket_client.py"
        );
        Command::new("timeout")
            .arg("60")
            .arg(PYTHON.installed().join("venv/bin/python"))
            .args([script, &url, &turns.to_string()])
            .env("API_KEY", secret)
            .output()
            .unwrap()
    });
    client.await.unwrap()
}

#[tokio::test]
async fn a_socket_passes_both_ways_and_its_turns_are_booked() {
    let server = Reader::sockets().await;
    let rig = reaching(&server.url)
        .set("edge.allow_unmetered", json!(true))
        .start()
        .await;
    let key = json!({"name": "k", "token_limit": 100_000, "usd_limit": 5, "rate_limit_tier": "unlimited"});
    let key = rig.admin().create(key).await;
    let said = talk(&rig, &key, "?model=gpt-4o", 3).await;
    assert!(said.status.success(), "{said:?}");
    let logs = rig.admin().usage_logs_when(&key, 1).await;
    let event = &logs[0];
    assert_eq!(event["prompt_tokens"], 300, "{event}");
    assert_eq!(event["completion_tokens"], 60);
    assert_eq!(event["cached_tokens"], 120);
    assert_eq!(event["model"], "gpt-4o");
    assert_eq!(event["response_status"], 101);
    assert_eq!(event["estimated"], false);
    // 180 × 2.50 + 120 × 1.25 + 60 × 10 USD a million.
    assert_eq!(event["total_cost"], 0.0012, "{event}");
    rig.admin().settled().await;
    let shown = rig.admin().show(&key).await;
    assert_eq!(shown["token_used"], 360, "{shown}");
    assert_eq!(shown["request_count"], 1);
    let opened = server.requests();
    assert_eq!(opened.len(), 1, "{opened:?}");
    // Compressed frames could not be read.
    assert!(
        !opened[0].contains("sec-websocket-extensions"),
        "{opened:?}"
    );
    assert!(
        opened[0].contains("/v1/realtime?model=gpt-4o"),
        "{opened:?}"
    );
}

/// What the caller names is the alias; the provider sees its own name, the books show the caller's.
#[tokio::test]
async fn a_socket_of_an_alias_is_opened_under_the_name_that_its_provider_knows() {
    let server = Reader::sockets().await;
    let rig = reaching(&server.url)
        .set("pools.2.models", json!(["voice"]))
        .set("pools.2.aliases", json!({"voice": "gpt-4o"}))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    let said = talk(&rig, &key, "?model=voice&intent=chat", 1).await;
    assert!(said.status.success(), "{said:?}");
    let opened = server.requests();
    let target = "/v1/realtime?model=gpt-4o&intent=chat";
    assert!(opened[0].contains(target), "{opened:?}");
    let logs = rig.admin().usage_logs_when(&key, 1).await;
    assert_eq!(logs[0]["model"], "voice");
    // 60 × 2.50 + 40 × 1.25 + 20 × 10 USD a million: the price is that of what was asked for there.
    assert_eq!(logs[0]["total_cost"], 0.0004, "{}", logs[0]);
}

#[tokio::test]
async fn a_key_with_a_quota_gets_no_socket_unless_that_is_allowed() {
    let server = Reader::sockets().await;
    let rig = reaching(&server.url).start().await;
    let limited = rig.admin().key(100_000).await;
    let said = talk(&rig, &limited, "?model=gpt-4o", 1).await;
    assert!(!said.status.success());
    assert!(
        String::from_utf8_lossy(&said.stderr).contains("403"),
        "{said:?}"
    );
    assert!(server.requests().is_empty());
    let free = rig.admin().key(0).await;
    let said = talk(&rig, &free, "?model=gpt-4o", 1).await;
    assert!(said.status.success(), "{said:?}");
    // Nor for a model that the key may not use.
    let narrow = json!({"name": "n", "token_limit": 0, "rate_limit_tier": "unlimited", "allowed_models": ["other"]});
    let narrow = rig.admin().create(narrow).await;
    for query in ["?model=gpt-4o", ""] {
        assert!(
            !talk(&rig, &narrow, query, 1).await.status.success(),
            "{query}"
        );
    }
    assert_eq!(server.requests().len(), 1);
}

/// A request to the edge by hand, with these lines in its head.
async fn ask(rig: &Rig, line: &str, head: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let length = body.len();
    let mut wire = rig.wire().await;
    wire.send(format!(
        "{line} HTTP/1.1\r\nhost: edge.test\r\n{head}content-length: {length}\r\n\r\n{body}"
    ))
    .await;
    wire.answer().await
}

/// Only a GET that asks for a WebSocket and nothing else opens one; all else is what its path says.
#[tokio::test]
async fn an_upgrade_header_does_not_switch_metering_off() {
    let limited = json!({"name": "k", "token_limit": 100_000, "rate_limit_tier": "unlimited",
                         "allowed_models": ["gpt-4o"]});
    for allowed in [false, true] {
        let rig = Rig::builder().set("edge.allow_unmetered", json!(allowed));
        let rig = rig.start().await;
        let key = rig.admin().create(limited.clone()).await;
        let mut used = 0;
        for (turn, upgrade) in ["websocket", "x-websocket", "WebSocket, h2c"]
            .iter()
            .enumerate()
        {
            let head = format!(
                "authorization: Bearer {}\r\nconnection: upgrade\r\nupgrade: {upgrade}\r\n\
                 content-type: text/plain\r\n",
                key.secret
            );
            let target = format!("POST {CHAT}?model=gpt-4o");
            let answer = ask(&rig, &target, &head, &chat("gpt-5")).await;
            assert_eq!(answer.status, 403, "{upgrade}: {}", answer.text());
            assert_eq!(answer.json()["error"]["code"], "model_not_allowed");
            let answer = ask(&rig, &target, &head, &chat("gpt-4o")).await;
            assert_eq!(answer.status, 200, "{upgrade}: {}", answer.text());
            assert!(answer.header("x-quota-remaining").is_some());
            used += answer.json()["usage"]["total_tokens"].as_u64().unwrap();
            let counted =
                |shown: &Value| shown["token_used"] == used && shown["request_count"] == turn + 1;
            rig.admin().show_when(&key, counted).await;
        }
        rig.end().await;
    }
}

/// The query rules, since it is what a provider reads.
#[tokio::test]
async fn a_sockets_model_is_the_one_of_its_query() {
    let rig = Rig::builder()
        .set("edge.allow_unmetered", json!(true))
        .start()
        .await;
    let key = json!({"name": "k", "token_limit": 0, "rate_limit_tier": "unlimited",
                     "allowed_models": ["gpt-4o"]});
    let key = rig.admin().create(key).await;
    let head = format!(
        "authorization: Bearer {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         content-type: application/json\r\n",
        key.secret
    );
    for (query, status) in [
        ("?model=gpt-5", 403),
        ("", 400),
        ("?model=gpt-4o&model=gpt-5", 400),
        ("?model=gpt-4o&m%6fdel=gpt-5", 400),
    ] {
        let target = format!("GET /v1/realtime{query}");
        let answer = ask(&rig, &target, &head, &chat("gpt-4o")).await;
        assert_eq!(answer.status, status, "{query}: {}", answer.text());
    }
    assert_eq!(rig.fake().ledger().await.requests, 0);
    rig.end().await;
}

/// On an open WebSocket nothing need be said: that it ends by its time-out is nobody's failure.
#[tokio::test]
async fn a_socket_that_falls_silent_blames_nobody() {
    let opened = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                  sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    // With a first frame, an empty text, and without.
    for frame in ["", "\u{1}\u{0}"] {
        let server = Upstream::start(Manner::Answer(format!("{opened}{frame}"))).await;
        let rig = reaching(&server.url())
            .set(
                "pools.2.timeouts",
                json!({"first_byte": "1s", "idle": "1s"}),
            )
            .set("pools.2.cooldown", json!({"failures": 1, "for": "60s"}))
            .start()
            .await;
        let key = rig.admin().key(0).await;
        let mut wire = rig.wire().await;
        wire.send(format!(
            "GET /v1/realtime?model=gpt-4o HTTP/1.1\r\nhost: edge.test\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nauthorization: Bearer {}\r\n\r\n",
            key.secret
        ))
        .await;
        assert_eq!(wire.head().await.status, 101);
        let logs = rig.admin().usage_logs_when(&key, 1).await;
        assert_eq!(logs[0]["response_status"], 101);
        assert_eq!(logs[0]["is_error"], false, "{}", logs[0]);
        let pools = rig.admin().get("/admin/pools").await;
        let peer = &pools["pools"][2]["peers"][0];
        assert_eq!(
            (&peer["state"], &peer["failures"]),
            (&json!("fit"), &json!(0))
        );
        let metrics = rig.admin().metrics().await;
        let ok = format!(
            r#"upstream_attempts_total{{outcome="ok",peer="{}",pool="openai"}} 1"#,
            server.address
        );
        assert!(metrics.lines().any(|line| line == ok), "{metrics}");
        rig.end().await;
    }
}
