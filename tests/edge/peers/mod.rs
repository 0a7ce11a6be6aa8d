//! Peers over the wire: how they are found and reached, who is asked next, what rests one, and what a
//! peer gets to see.
#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod aliases;
mod balance;
mod checks;
mod credentials;
mod downgrade;
mod failover;
mod heads;
mod health;
mod limits;
mod lists;
mod names;
mod refusals;
mod rests;
mod stale;
mod targets;

use quota_proxy::cli::fake_upstream::Options;
use quota_proxy::cli::fake_upstream::control::Control;
use serde_json::{Value, json};

use crate::support::admin::Key;
use crate::support::rig::{Builder, CHAT, CREDENTIAL, Rig, chat};
use crate::support::upstream::{Manner, Upstream, json_answer};
use crate::support::wait::{PATIENCE, eventually, that};

/// A fake that does this with every request.
fn always(directives: &str) -> Options {
    let mut always = Control::default();
    always.apply(directives).unwrap();
    Options {
        always,
        ..Options::default()
    }
}

/// One pool for all of OpenAI's models, whose peers are asked in this order; with an access log.
fn in_order(urls: &[&str]) -> Builder {
    one_pool(json!({"balance": "fallback"}), urls)
}

/// One pool for all of OpenAI's models, with these settings beside its peers.
fn one_pool(settings: Value, urls: &[&str]) -> Builder {
    let peers = urls
        .iter()
        .map(|url| json!({"url": url, "credential": CREDENTIAL}));
    let peers: Vec<Value> = peers.collect();
    let mut pool = json!({"name": "only", "dialect": "openai", "models": ["*"], "peers": peers});
    let settings = settings.as_object().unwrap().clone();
    pool.as_object_mut().unwrap().extend(settings);
    Rig::builder()
        .set("log", json!({"access": "access.jsonl"}))
        .set("pools", json!([pool]))
}

/// A chat to its end; its status.
async fn ask(rig: &Rig, key: &Key) -> u16 {
    let answer = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
    let status = answer.status().as_u16();
    // Read to its end: only then the exchange is over.
    answer.bytes().await.unwrap();
    status
}

/// What `/admin/pools` says of a peer of the first pool.
async fn state(rig: &Rig, peer: usize) -> Value {
    let shown = rig.admin().get("/admin/pools").await;
    shown["pools"][0]["peers"][peer].clone()
}

async fn is_in_state(rig: &Rig, peer: usize, expected: &str) -> Value {
    eventually(PATIENCE, || async {
        that(state(rig, peer).await, |shown| shown["state"] == expected)
    })
    .await
}

/// The access log, once it has so many lines.
async fn access_lines(rig: &Rig, count: usize) -> Vec<Value> {
    let path = rig.folder().join("access.jsonl");
    eventually(PATIENCE, || async {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        that(lines.collect::<Vec<Value>>(), |lines| lines.len() == count)
    })
    .await
}

/// Waits until a series of `/metrics` has this value. `labels` as they stand between the braces.
async fn counts(rig: &Rig, name: &str, labels: &str, value: u64) {
    let line = format!("{name}{{{labels}}} {value}");
    eventually(PATIENCE, || async {
        that(rig.admin().metrics().await, |text| {
            text.lines().any(|shown| shown == line)
        })
        .map_err(|text| format!("no {line} in {text}"))
    })
    .await;
}

fn answer_of(prompt: i64, completion: i64) -> Value {
    json!({"object": "chat.completion", "choices": [], "model": "x",
           "usage": {"prompt_tokens": prompt, "completion_tokens": completion,
                     "total_tokens": prompt + completion}})
}

/// Two peers; the first puts these headers into each answer.
async fn first_says(headers: &str) -> (Upstream, Rig) {
    let answer = json_answer("200 OK", headers, &answer_of(1, 1));
    let first = Upstream::start(Manner::Answer(answer)).await;
    let rig = in_order(&[&first.url(), "{fake0}"]).fake(Options::default());
    (first, rig.start().await)
}

/// `host:port` of a URL, as a peer is named.
fn name_of(url: &str) -> &str {
    url.split("://").nth(1).unwrap()
}
