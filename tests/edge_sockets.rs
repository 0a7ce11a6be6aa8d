//! WebSockets of realtime APIs: passed through both ways, and metered by what their turns report.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::process::{Command, Output};

use serde_json::json;

mod support;

use support::admin::Key;
use support::reader::Reader;
use support::rig::{Builder, CREDENTIAL, Rig};
use support::sdk::PYTHON;

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
