//! More connections than the system lends descriptors for: those who only sit there make room for others,
//! and leave enough for upstreams and the books.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::h2_wire::H2Wire;
use crate::support::rig::{CHAT, CREDENTIAL, Rig, chat, chat_stream};
use crate::support::upstream::{Manner, Upstream};
use crate::support::wait::{PATIENCE, eventually, that};
use crate::support::wire::Wire;

fn post(key: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

/// A request over a connection of its own; the connection stays.
async fn asks(rig: &Rig, key: &str) -> Wire {
    let mut wire = rig.wire().await;
    wire.send(post(key, &chat("gpt-4o"))).await;
    let answer = wire.answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    wire
}

async fn metric(rig: &Rig, line: &str) -> u64 {
    let text = rig.admin().metrics().await;
    let found = text.lines().find_map(|l| l.strip_prefix(line));
    found.unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn who_only_sits_there_makes_room() {
    // That is for 192 connections of clients.
    let rig = Rig::builder().prelude("ulimit -n 512").start().await;
    let key = rig.admin().key(0).await;
    let mut crowd = Vec::new();
    for n in 0..500 {
        // In one breath it would be a test of `listen`'s queue.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut stream = TcpStream::connect(rig.edge()).await.unwrap();
        if n % 3 == 1 {
            stream.write_all(b"POST / HTTP/1.1\r\n").await.unwrap();
        }
        crowd.push(stream);
    }
    // Connections of HTTP/2 on which nothing is asked are no better.
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(H2Wire::connect(rig.edge()).await);
    }
    let mut kept = Vec::new();
    for _ in 0..150 {
        kept.push(asks(&rig, &key.secret).await);
    }
    let ended = metric(&rig, r#"proxy_connections_full_total{closed="idle"}"#).await;
    assert!(ended >= 300, "{ended}");
    let said = rig.process().output();
    assert_eq!(said.matches("edge.max_connections").count(), 1, "{said}");
    assert!(!said.contains("Too many open files"), "{said}");
    rig.end().await;
}

/// Running answers are never ended for a new connection: that one is closed.
#[tokio::test]
async fn a_connection_is_turned_away_where_all_are_in_use() {
    let flood = Upstream::start(Manner::Flood).await;
    let peers = json!([{"url": flood.url(), "credential": CREDENTIAL}]);
    let flood =
        json!({"name": "flood", "dialect": "openai", "models": ["o-flood"], "peers": peers});
    let peers = json!([{"url": "{fake0}", "credential": CREDENTIAL}]);
    let openai =
        json!({"name": "openai", "dialect": "openai", "models": ["gpt-*"], "peers": peers});
    let rig = Rig::builder()
        .set("edge.max_connections", json!(4))
        .set("pools", json!([flood, openai]))
        .set("quota.on_overrun", json!("record"))
        .start()
        .await;
    let key = rig.admin().key(1_000_000_000_000).await.secret;
    let mut running = Vec::new();
    for _ in 0..4 {
        let mut wire = rig.wire().await;
        wire.send(post(&key, &chat_stream("o-flood"))).await;
        assert!(wire.read_some(1).await > 0);
        running.push(wire);
    }
    let mut fifth = rig.wire().await;
    assert!(fifth.is_closed(PATIENCE).await);
    let line = r#"proxy_connections_full_total{closed="new"}"#;
    assert_eq!(metric(&rig, line).await, 1);
    // The oldest goes on: this is more than was on its way already.
    assert!(running[0].read_some(12 << 20).await >= 12 << 20);
    drop(running);
    eventually(PATIENCE, || async {
        let mut wire = rig.wire().await;
        wire.send(post(&key, &chat("gpt-4o"))).await;
        let begins = wire.read_some(12).await;
        that(begins, |begins| *begins >= 12)
    })
    .await;
    rig.end().await;
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised() {
    let rig = Rig::builder().prelude("ulimit -S -n 200").start().await;
    let limits = format!("/proc/{}/limits", rig.process().pid());
    let line = eventually(PATIENCE, || async {
        let limits = std::fs::read_to_string(&limits).unwrap();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let words: Vec<String> = line
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        that(words, |words| words[3] == words[4])
    })
    .await;
    assert_ne!(line[3], "200");
    rig.end().await;
}
