//! What of a caller's head reaches a peer, and of a peer's heads a caller.

use serde_json::json;

use super::{answer_of, in_order};
use crate::support::rig::{CHAT, CREDENTIAL, Rig, chat};
use crate::support::upstream::{Manner, Upstream, json_answer};

fn good() -> String {
    json_answer("200 OK", "", &answer_of(1, 1))
}

async fn before(upstream: &Upstream) -> Rig {
    in_order(&[&upstream.url()])
        .set("edge.allow_unmetered", json!(true))
        .start()
        .await
}

/// A page's WebSocket has its key among the protocols, as OpenAI's own clients do it.
#[tokio::test]
async fn a_key_among_websocket_protocols_is_read_and_goes_no_further() {
    let upstream = Upstream::start(Manner::Answer(good())).await;
    let rig = before(&upstream).await;
    let key = rig.admin().key(0).await.secret;
    let ask = async |protocols: &str| {
        let mut wire = rig.wire().await;
        wire.send(format!(
            "GET /v1/realtime?model=gpt-4o HTTP/1.1\r\nhost: edge.test\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             sec-websocket-protocol: {protocols}\r\n\r\n"
        ))
        .await;
        wire.answer().await.status
    };
    assert_eq!(ask("realtime").await, 401);
    assert_eq!(ask("realtime, openai-insecure-api-key.sk-wrong").await, 401);
    assert!(upstream.seen().is_empty());
    let all = format!(
        "realtime, openai-insecure-api-key.{key}, openai-organization.org-theirs, \
         openai-project.theirs, openai-beta.realtime-v1"
    );
    assert_eq!(ask(&all).await, 200);
    let head = upstream.seen()[0].head.to_lowercase();
    assert!(
        head.contains("sec-websocket-protocol: realtime, openai-beta.realtime-v1\r\n"),
        "{head}"
    );
    assert!(
        !head.contains(&key.to_lowercase()) && !head.contains("theirs"),
        "{head}"
    );
    assert!(
        head.contains(&format!("authorization: bearer {CREDENTIAL}")),
        "{head}"
    );
}

/// Azure's clients send their key as `api-key`.
#[tokio::test]
async fn azures_header_is_a_key() {
    let upstream = Upstream::start(Manner::Answer(good())).await;
    let rig = before(&upstream).await;
    let key = rig.admin().key(0).await.secret;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for (secret, status) in [("sk-wrong", 401), (key.as_str(), 200)] {
        let request = http.post(format!("{}{CHAT}", rig.url()));
        let request = request.header("api-key", secret).json(&chat("gpt-4o"));
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    let seen = upstream.seen();
    assert_eq!(seen.len(), 1);
    assert!(
        !seen[0].head.to_lowercase().contains("api-key"),
        "{}",
        seen[0].head
    );
}

/// Heads before the final one say no more than that one may.
#[tokio::test]
async fn early_heads_give_nothing_away() {
    let early = format!(
        "HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\nx-ratelimit-remaining-requests: 7\r\n\
         set-cookie: a=b\r\nx-echo: {CREDENTIAL}\r\nopenai-organization: ours\r\n\r\n"
    );
    let upstream = Upstream::start(Manner::Answer(early + &good())).await;
    let rig = before(&upstream).await;
    let key = rig.admin().key(0).await.secret;
    let bearer = format!("Bearer {key}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let mut wire = rig.wire().await;
    wire.post(CHAT, &headers, chat("gpt-4o").to_string().as_bytes())
        .await;
    let mut head = wire.head().await;
    while head.status < 200 {
        let said = format!("{:?}", head.headers);
        for secret in ["ratelimit", "cookie", CREDENTIAL, "organization"] {
            assert!(!said.contains(secret), "{said}");
        }
        head = wire.head().await;
    }
    assert_eq!(head.status, 200);
    assert!(head.header("x-quota-type").is_none() && head.header("x-request-id").is_some());
}

#[tokio::test]
async fn anthropics_version_and_betas_pass() {
    let answer = json!({"type": "message", "content": [],
                        "usage": {"input_tokens": 1, "output_tokens": 1}});
    let upstream = Upstream::start(Manner::Answer(json_answer("200 OK", "", &answer))).await;
    let rig = in_order(&[&upstream.url()])
        .set("pools.0.dialect", json!("anthropic"))
        .start()
        .await;
    let key = rig.admin().key(0).await.secret;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http
        .post(format!("{}/v1/messages", rig.url()))
        .header("x-api-key", &key)
        .header("anthropic-version", "2023-06-01")
        .header(
            "anthropic-beta",
            "context-1m-2025-08-07,files-api-2025-04-14",
        )
        .json(&json!({"model": "claude-x", "max_tokens": 5, "messages": []}));
    assert_eq!(request.send().await.unwrap().status(), 200);
    let head = upstream.seen()[0].head.to_lowercase();
    for line in [
        "anthropic-version: 2023-06-01\r\n",
        "anthropic-beta: context-1m-2025-08-07,files-api-2025-04-14\r\n",
        &format!("x-api-key: {CREDENTIAL}\r\n"),
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    assert!(!head.contains(&key.to_lowercase()));
}

/// Anthropic answers 401 to whom it takes for a page.
#[tokio::test]
async fn what_a_browser_says_of_its_page_goes_no_further() {
    let upstream = Upstream::start(Manner::Answer(good())).await;
    let rig = before(&upstream).await;
    let key = rig.admin().key(0).await.secret;
    let request = rig.request(reqwest::Method::POST, CHAT, &key);
    let request = request
        .header("origin", "https://app.example")
        .header("referer", "https://app.example/chat")
        .header("sec-fetch-mode", "cors")
        .header("sec-fetch-site", "cross-site")
        .header("x-stainless-lang", "js");
    let answer = request.json(&chat("gpt-4o")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers().contains_key("access-control-allow-origin"));
    let head = upstream.seen()[0].head.to_lowercase();
    for name in ["origin", "referer", "sec-fetch", "app.example"] {
        assert!(!head.contains(name), "{name}: {head}");
    }
    assert!(head.contains("x-stainless-lang: js"), "{head}");
}
