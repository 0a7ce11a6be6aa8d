//! The rig itself: what the other integration tests rely on.

use std::time::Duration;

use quota_proxy::cli::fake_upstream::Options;
use serde_json::json;

use crate::support::chance::Chance;
use crate::support::fake::Fake;
use crate::support::rig::{CREDENTIAL, Rig, chat, chat_stream};
use crate::support::wait::{PATIENCE, eventually, that};
use crate::support::wire::Wire;

const PATH: &str = "/v1/chat/completions";

#[tokio::test]
async fn a_request_by_hand_arrives_however_it_is_cut() {
    let fake = Fake::start(Options::default());
    let body = chat("gpt-4o").to_string();
    let mut chance = Chance::from_env();
    for _ in 0..20 {
        let mut wire = Wire::connect(fake.address).await;
        let cut = chance.below(body.len() as u64) as usize;
        let (head, tail) = body.as_bytes().split_at(cut);
        let parts: Vec<&[u8]> = [head, tail].into_iter().filter(|p| !p.is_empty()).collect();
        wire.post_chunked(PATH, &[], &parts, false).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.is_whole), (200, true));
        assert_eq!(answer.json()["usage"]["completion_tokens"], 20);
        // The connection is kept.
        wire.post(PATH, &[], body.as_bytes()).await;
        assert_eq!(wire.answer().await.status, 200);
    }
    let ledger = fake.ledger_when(|l| l.completed == 40).await;
    let first = &ledger.records[0];
    assert!(
        ledger
            .records
            .iter()
            .all(|r| r.body_sha256 == first.body_sha256)
    );
    assert_eq!(first.body_bytes, body.len() as u64);
}

#[tokio::test]
async fn a_broken_answer_is_seen_as_broken_and_a_whole_one_as_whole() {
    let fake = Fake::start(Options::default());
    let body = chat_stream("gpt-4o").to_string();
    for (wish, is_whole) in [
        ("", true),
        ("truncate-after=3", false),
        ("reset-after=3", false),
    ] {
        let mut wire = Wire::connect(fake.address).await;
        wire.post(PATH, &[("x-fake", wish)], body.as_bytes()).await;
        let answer = wire.answer().await;
        assert_eq!(answer.is_whole, is_whole, "{wish}: {}", answer.text());
        assert_eq!(answer.text().contains("[DONE]"), is_whole);
        assert_eq!(wire.is_closed(Duration::from_millis(100)).await, !is_whole);
    }
    for wish in ["wrong-length", "truncate-after=10"] {
        let mut wire = Wire::connect(fake.address).await;
        let body = chat("gpt-4o").to_string();
        wire.post(PATH, &[("x-fake", wish)], body.as_bytes()).await;
        assert!(!wire.answer().await.is_whole, "{wish}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_seen_by_the_fake_whether_by_fin_or_by_reset() {
    let fake = Fake::start(Options::default());
    let body = chat_stream("gpt-4o").to_string();
    for by_reset in [false, true] {
        fake.forget().await;
        let mut wire = Wire::connect(fake.address).await;
        let wish = [("x-fake", "tokens=1000000,interval=5ms")];
        wire.post(PATH, &wish, body.as_bytes()).await;
        assert_eq!(wire.head().await.status, 200);
        wire.read_some(500).await;
        match by_reset {
            true => wire.reset(),
            false => wire.close(),
        }
        let record = fake.last_ended(1).await;
        assert!(record.client_gone && !record.finished);
        assert!(record.output_tokens > 0);
    }
}

#[tokio::test]
async fn the_proxy_serves_is_killed_and_serves_again_from_the_same_books() {
    let mut rig = Rig::start().await;
    let key = rig.admin().key(1_000).await;
    let answer = rig.post(PATH, &key.secret, &chat("gpt-4o")).await;
    assert_eq!(answer.status(), 200);
    let answer: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(answer["usage"]["completion_tokens"], 20);
    let record = rig.fake().last_ended(1).await;
    let credential = record.credential.unwrap();
    assert!(CREDENTIAL.ends_with(&credential.last4));
    let used = |shown: &serde_json::Value| shown["token_used"].as_u64();
    let expected = Some(record.input_tokens + record.output_tokens);
    let settled = eventually(PATIENCE, || async {
        // The event is read from the file: what it says has been written.
        let events = rig.admin().usage_logs(&key).await;
        that(events, |events| events.len() == 1)
    });
    assert_eq!(settled.await[0]["total_tokens"].as_u64(), expected);
    assert_eq!(used(&rig.admin().show(&key).await), expected);
    rig.kill9();
    assert!(rig.books().are_whole());
    rig.restart().await;
    assert_eq!(used(&rig.admin().show(&key).await), expected);
    let answer = rig.post(PATH, &key.secret, &chat("gpt-4o")).await;
    assert_eq!(answer.status(), 200);
    assert!(rig.term().await.success());
}

#[tokio::test]
async fn a_rig_is_made_as_it_is_asked_for() {
    let rig = Rig::builder()
        .fake(Options::default())
        .fake(Options::default())
        .set(
            "pools",
            json!([{
                "name": "both", "dialect": "openai", "models": ["*"],
                "peers": [{"url": "{fake0}"}, {"url": "{fake1}"}],
            }]),
        )
        .start()
        .await;
    let key = rig.admin().key(0).await;
    for _ in 0..4 {
        let answer = rig.post(PATH, &key.secret, &chat("anything")).await;
        assert_eq!(answer.status(), 200);
    }
    for fake in rig.fakes() {
        assert_eq!(fake.ledger().await.requests, 2);
    }
    let mut wire = rig.wire().await;
    let bearer = format!("Bearer {}", key.secret);
    let body = chat_stream("anything").to_string();
    wire.post(PATH, &[("authorization", &bearer)], body.as_bytes())
        .await;
    assert!(wire.answer().await.is_whole);
    let h2 = rig.h2().post(format!("{}{PATH}", rig.url()));
    let h2 = h2
        .bearer_auth(&key.secret)
        .json(&chat("anything"))
        .send()
        .await;
    assert_eq!(h2.unwrap().version(), reqwest::Version::HTTP_2);
}
