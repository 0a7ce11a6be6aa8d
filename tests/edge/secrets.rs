//! No secret leaves: credentials are swapped on the way up, and whatever happens, no key, credential,
//! prompt or answer is found in a log, a metric, an admin answer or the books (promise P5).
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::admin::{Key, TOKEN};
use crate::support::rig::{CHAT, CREDENTIAL, Rig, chat};
use crate::support::upstream::{Manner, Upstream, json_answer, refusing};
use crate::support::wait::{PATIENCE, eventually, that};

const MESSAGES: &str = "/v1/messages";
const GEMINI: &str = "/v1beta/models/gemini-2.5-pro:generateContent";

const PROMPT: &str = "PROMPT-canary-9f3a";
const ANSWER: &str = "ANSWER-canary-71bc";
const EXTRA: &str = "peer-header-secret-5d5d";
const STRANGER: &str = "sk-proxy-stranger-0123456789abcdef";

/// An upstream whose answers hold a canary, for all three dialects.
async fn rig_over(upstream: &Upstream) -> Rig {
    let peer =
        json!([{"url": upstream.url(), "credential": CREDENTIAL, "headers": {"x-org": EXTRA}}]);
    Rig::builder()
        .set("pools.0.peers", peer.clone())
        .set("pools.1.peers", peer.clone())
        .set("pools.2.peers", peer)
        .set("log", json!({"level": "debug", "access": "access.jsonl"}))
        .set("edge.max_request_body", json!("1MiB"))
        .start()
        .await
}

fn answer() -> Value {
    json!({"object": "chat.completion", "model": "gpt-4o",
           "choices": [{"message": {"role": "assistant", "content": ANSWER}}],
           "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}})
}

#[tokio::test]
async fn credentials_are_swapped_on_the_way_up() {
    let upstream = Upstream::start(Manner::Answer(json_answer("200 OK", "", &answer()))).await;
    let rig = rig_over(&upstream).await;
    let key = rig.admin().key(0).await.secret;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let bearer = format!("Bearer {key}");
    let everywhere = [
        ("authorization", bearer.as_str()),
        ("x-api-key", &key),
        ("x-goog-api-key", &key),
        ("api-key", &key),
        ("proxy-authorization", &bearer),
        ("cookie", &format!("session={key}")),
        ("openai-organization", "org-of-the-client"),
        ("openai-project", "proj-of-the-client"),
        ("x-org", "org-of-the-client"),
        ("x-forwarded-for", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("host", "forged.test"),
    ];
    let claude = json!({"model": "claude-sonnet-4-5", "max_tokens": 5, "messages": []});
    let cases = [
        (
            CHAT,
            chat("gpt-4o"),
            format!("authorization: Bearer {CREDENTIAL}"),
        ),
        (MESSAGES, claude, format!("x-api-key: {CREDENTIAL}")),
        (
            GEMINI,
            json!({"contents": []}),
            format!("x-goog-api-key: {CREDENTIAL}"),
        ),
    ];
    for (path, body, credential) in &cases {
        for connection in [
            "close",
            "x-api-key",
            "authorization, x-org",
            "X-Goog-Api-Key",
            "x-other",
        ] {
            let url = format!("{}{path}?a=1&key={key}&b=2", rig.url());
            let mut request = http.post(url).json(body).header("connection", connection);
            for (name, value) in everywhere {
                request = request.header(name, value);
            }
            let status = request.send().await.unwrap().status();
            assert_eq!(status, 200, "{path} {connection}");
            let seen = upstream.seen().pop().unwrap();
            let head = seen.head.to_ascii_lowercase();
            assert!(
                head.contains(&credential.to_ascii_lowercase()),
                "{connection}: {head}"
            );
            assert!(
                head.contains(&format!("x-org: {EXTRA}")),
                "{connection}: {head}"
            );
            assert!(
                head.starts_with(&format!(
                    "post {}?a=1&b=2 http/1.1",
                    path.to_ascii_lowercase()
                )),
                "{head}"
            );
            for leaked in [
                &key.to_ascii_lowercase(),
                "6.6.6.6",
                "forged",
                "of-the-client",
                "cookie",
            ] {
                assert!(!head.contains(leaked), "{leaked} in {head}");
            }
            assert_eq!(
                head.matches(&CREDENTIAL.to_ascii_lowercase()).count(),
                1,
                "{head}"
            );
        }
    }
}

/// A client that knows nothing but an upstream's credential gets nowhere with it.
#[tokio::test]
async fn an_upstream_credential_is_no_key() {
    let rig = Rig::start().await;
    let answer = rig.post(CHAT, CREDENTIAL, &chat("gpt-4o")).await;
    assert_eq!(answer.status(), 401);
    let answer = rig.post(CHAT, TOKEN, &chat("gpt-4o")).await;
    assert_eq!(answer.status(), 401);
    assert_eq!(rig.fake().ledger().await.requests, 0);
}

fn prompt(model: &str) -> Value {
    json!({"model": model, "stream": false, "messages": [{"role": "user", "content": PROMPT}]})
}

/// Everything that goes right and wrong, with the key in each of its places.
async fn mixed_load(rig: &Rig, keys: &[Key]) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for key in keys {
        let secret = &key.secret;
        for body in [
            prompt("gpt-4o"),
            prompt("claude-sonnet-4-5"),
            prompt("nobody"),
            json!({"messages": PROMPT}),
        ] {
            let url = format!("{}{CHAT}", rig.url());
            http.post(format!("{url}?key={secret}"))
                .json(&body)
                .send()
                .await
                .unwrap();
            http.post(&url)
                .header("x-api-key", secret)
                .json(&body)
                .send()
                .await
                .unwrap();
            let broken = format!("{{\"model\":\"gpt-4o\",\"messages\":[\"{PROMPT}\"");
            rig.request(Method::POST, CHAT, secret)
                .body(broken)
                .send()
                .await
                .unwrap();
            rig.request(Method::GET, &format!("/api/usage/quota?x={secret}"), secret)
                .send()
                .await
                .unwrap();
            rig.request(Method::GET, "/v1/models", secret)
                .send()
                .await
                .unwrap();
            let two = http
                .post(&url)
                .bearer_auth(STRANGER)
                .header("x-api-key", secret);
            two.json(&body).send().await.unwrap();
        }
        let large = json!({"model": "gpt-4o", "messages": PROMPT.repeat(80_000)});
        rig.post(CHAT, secret, &large).await;
        for text in malformed(secret) {
            let mut wire = rig.wire().await;
            wire.send(text).await;
            wire.half_close().await;
            wire.read_some(1).await;
        }
        let mut wire = rig.wire().await;
        let bearer = format!("Bearer {secret}");
        wire.post_head(CHAT, &[("authorization", &bearer)], 5_000)
            .await;
        wire.send(PROMPT).await;
        wire.reset();
    }
    rig.post(CHAT, STRANGER, &prompt("gpt-4o")).await;
}

/// Heads and bodies that Pingora itself turns away, each with secrets where its log could quote them.
fn malformed(key: &str) -> Vec<String> {
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n");
    vec![
        format!("{head}bad header {key}\r\n\r\n"),
        format!("{head}x\0: {key}\r\n\r\n"),
        format!("{head}host: {key}\r\n\r\n"),
        format!("GET /v1/models?key={key} HTTP/9.9\r\n\r\n"),
        format!("GET http://{key}@a/v1/models HTTP/1.1\r\nhost: {key}\r\n\r\n"),
        format!("{head}content-length: {key}\r\n\r\n"),
        format!("{head}transfer-encoding: {key}\r\n\r\n"),
        format!("{head}transfer-encoding: chunked\r\n\r\n{PROMPT}\r\n{key}\r\n"),
        format!("{head}connection: \"{key}\"\r\ncontent-length: 0\r\n\r\n"),
        format!("{key} {PROMPT}\r\n\r\n"),
        format!("{head}upgrade: {key}\r\nexpect: {key}\r\ncontent-length: 2\r\n\r\n{{}}"),
    ]
}

/// All files below a folder, as bytes.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        // What the operator wrote in there is his own.
        if path.is_file() && !name.ends_with("quota-proxy.yaml") {
            found.push((name, std::fs::read(&path).unwrap()));
        }
    }
    found
}

#[tokio::test]
async fn no_secret_is_found_anywhere() {
    let upstream = Upstream::start(Manner::Answer(json_answer("200 OK", "", &answer()))).await;
    let mut rig = rig_over(&upstream).await;
    let admin = rig.admin();
    let limited = json!({"name": "few", "token_limit": 0, "request_limit": 2});
    let mut keys = vec![
        admin.key(0).await,
        admin.create(limited).await,
        admin.key(1).await,
    ];
    let disabled = admin.key(0).await;
    admin.act(&disabled, "disable").await;
    keys.push(disabled);
    mixed_load(&rig, &keys).await;
    let rotated = admin.act(&keys[0], "rotate").await;
    // Upstreams that reject, fail, hang up, refuse.
    let (_closed, refusing) = refusing();
    let rejecting =
        json!({"error": {"message": format!("Incorrect API key provided: {CREDENTIAL} {ANSWER}")}});
    let rejecting = Upstream::start(Manner::Answer(json_answer(
        "401 Unauthorized",
        "",
        &rejecting,
    )))
    .await;
    let garbage = Upstream::start(Manner::Answer(format!(
        "HTTP/1.1 200 OK\r\nbad {CREDENTIAL} {ANSWER}\r\n\r\n"
    )))
    .await;
    let lying = Upstream::start(Manner::Answer(format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {ANSWER}\r\n\r\n"
    )))
    .await;
    for url in [refusing, rejecting.url(), garbage.url(), lying.url()] {
        let mut config = rig.config();
        config["pools"][2]["peers"] =
            json!([{"url": url, "credential": CREDENTIAL, "headers": {"x-org": EXTRA}}]);
        rig.write_config(&config);
        rig.process().signal("HUP");
        eventually(PATIENCE, || async {
            let answer = rig.post(CHAT, &keys[0].secret, &prompt("gpt-4o")).await;
            that(answer.status().as_u16(), |&status| status == 502)
        })
        .await;
        mixed_load(&rig, &keys[..1]).await;
    }
    let mut shown = vec![("metrics".to_owned(), admin.metrics().await.into_bytes())];
    let mut pages = vec![
        "/admin/api-keys".to_owned(),
        "/admin/audit".into(),
        "/admin/groups".into(),
        "/health".into(),
    ];
    pages.extend(keys.iter().flat_map(|key| {
        let path = format!("/admin/api-keys/{}", key.id);
        [format!("{path}/stats"), path]
    }));
    for path in pages {
        let page = admin.call(Method::GET, &path, None).await;
        assert!(page.status().is_success(), "{path}");
        shown.push((path, page.bytes().await.unwrap().to_vec()));
    }
    for key in &keys[..1] {
        let events = admin.usage_logs(key).await;
        assert!(events.len() > 10);
        shown.push((
            "usage logs".to_owned(),
            serde_json::to_vec(&events).unwrap(),
        ));
    }
    shown.push((
        "files while it runs".to_owned(),
        files(rig.folder())
            .into_iter()
            .flat_map(|(_, bytes)| bytes)
            .collect(),
    ));
    let output = rig.process().output();
    assert!(
        output.contains("DEBUG") || output.contains("WARN"),
        "{output}"
    );
    shown.push(("stderr".to_owned(), output.into_bytes()));
    rig.term().await;
    let written = files(rig.folder());
    // What is no secret is found: the search sees what it looks at.
    let log = written
        .iter()
        .find(|(name, _)| name.ends_with("access.jsonl"))
        .unwrap();
    assert!(memchr::memmem::find(&log.1, keys[0].id.as_bytes()).is_some());
    for kind in ["access.jsonl", "quota.db"] {
        let file = written
            .iter()
            .find(|(name, _)| name.ends_with(kind))
            .unwrap();
        assert!(
            file.1.len() > 1_000,
            "{kind} holds too little to be searched"
        );
    }
    shown.extend(written);
    let mut secrets = vec![CREDENTIAL, EXTRA, TOKEN, PROMPT, ANSWER, STRANGER];
    secrets.extend(keys.iter().map(|key| key.secret.as_str()));
    secrets.push(rotated["api_key"].as_str().unwrap());
    for (place, bytes) in &shown {
        for secret in &secrets {
            let at = memchr::memmem::find(bytes, secret.as_bytes());
            let around = at.map(|at| {
                String::from_utf8_lossy(&bytes[at.saturating_sub(200)..(at + 60).min(bytes.len())])
            });
            assert!(at.is_none(), "{secret} in {place}: {around:?}");
        }
    }
}
