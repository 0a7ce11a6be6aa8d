//! Per-minute limits, concurrency and shared quotas, as a client meets them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::admin::Key;
use crate::support::rig::{Builder, CHAT, Rig, chat, chat_stream};

fn builder() -> Builder {
    Rig::builder().set(
        "tiers",
        json!({
            "slow": {"requests_per_minute": 3},
            "terse": {"tokens_per_minute": 200},
            "single": {"concurrency": 1},
        }),
    )
}

async fn key(rig: &Rig, tier: &str) -> Key {
    let body = json!({"name": tier, "token_limit": 0, "rate_limit_tier": tier});
    rig.admin().create(body).await
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers()[name].to_str().unwrap()
}

#[tokio::test]
async fn requests_per_minute_are_a_bucket_that_says_when() {
    let rig = builder().start().await;
    let key = key(&rig, "slow").await;
    for left in [2, 1, 0] {
        let answer = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(header(&answer, "x-ratelimit-limit-requests"), "3");
        assert_eq!(
            header(&answer, "x-ratelimit-remaining-requests"),
            left.to_string()
        );
        answer.bytes().await.unwrap();
    }
    let refused = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
    assert_eq!(refused.status(), 429);
    let seconds: u64 = header(&refused, "retry-after").parse().unwrap();
    assert!((1..=20).contains(&seconds), "{seconds}");
    let refused: Value = refused.json().await.unwrap();
    assert_eq!(refused["error"]["code"], "rate_limit_exceeded", "{refused}");
    rig.end().await;
}

#[tokio::test]
async fn a_request_that_failed_upstream_does_not_use_its_minute_up() {
    let rig = builder().start().await;
    let key = key(&rig, "slow").await;
    for _ in 0..10 {
        let answer = rig
            .post_fake(CHAT, &key.secret, &chat("gpt-4o"), "status=404")
            .await;
        assert_eq!(answer.status(), 404);
        answer.bytes().await.unwrap();
        rig.admin().settled().await;
    }
    rig.end().await;
}

#[tokio::test]
async fn tokens_per_minute_follow_what_was_really_used() {
    let rig = builder().start().await;
    let key = key(&rig, "terse").await;
    let mut body = chat("gpt-4o");
    body["max_tokens"] = json!(150);
    // It held nearly all of the minute and used little: the rest came back.
    for _ in 0..3 {
        let answer = rig.post_fake(CHAT, &key.secret, &body, "tokens=5").await;
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap();
        rig.admin().settled().await;
    }
    let answer = rig.post_fake(CHAT, &key.secret, &body, "tokens=150").await;
    assert_eq!(answer.status(), 200);
    answer.bytes().await.unwrap();
    rig.admin().settled().await;
    let refused = rig.post(CHAT, &key.secret, &body).await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    refused.bytes().await.unwrap();
    rig.end().await;
}

#[tokio::test]
async fn one_at_a_time_means_one_at_a_time() {
    let rig = builder().start().await;
    let key = key(&rig, "single").await;
    let request = rig.request(Method::POST, CHAT, &key.secret);
    let request = request.header("x-fake", "tokens=20000,interval=20ms");
    let mut running = request.json(&chat_stream("gpt-4o")).send().await.unwrap();
    running.chunk().await.unwrap().unwrap();
    let refused = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
    assert_eq!(refused.status(), 429);
    refused.bytes().await.unwrap();
    drop(running);
    rig.admin().settled().await;
    let answer = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
    assert_eq!(answer.status(), 200);
    answer.bytes().await.unwrap();
    rig.end().await;
}

#[tokio::test]
async fn keys_of_a_group_draw_on_their_own_and_the_groups_quota_together_or_not_at_all() {
    let rig = Rig::start().await;
    let group = json!({"name": "team", "quotas": {"requests": {"limit": 5, "period": "total"}}});
    let group = rig
        .admin()
        .ok(Method::POST, "/admin/groups", Some(&group))
        .await;
    let group = group["id"].as_str().unwrap();
    let member = async |limit: u64| {
        let body = json!({"name": "member", "token_limit": 0, "request_limit": limit,
                          "rate_limit_tier": "unlimited", "group": group});
        rig.admin().create(body).await
    };
    let (narrow, wide) = (member(2).await, member(100).await);
    let mut passed = [0, 0];
    for _ in 0..6 {
        for (at, key) in [&narrow, &wide].into_iter().enumerate() {
            let answer = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
            passed[at] += u64::from(answer.status() == 200);
            answer.bytes().await.unwrap();
        }
    }
    // The narrow key's four refusals took nothing of the group's five.
    assert_eq!(passed, [2, 3]);
    rig.admin().settled().await;
    assert_eq!(rig.admin().show(&narrow).await["request_used"], 2);
    assert_eq!(rig.admin().show(&wide).await["request_used"], 3);
    let books = rig.end().await;
    let of_group = "SELECT requests_used FROM counters WHERE scope < 0";
    assert_eq!(books.number(of_group), 5);
}
