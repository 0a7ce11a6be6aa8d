//! Refusals of a provider: what is our credential's fault, and what a caller brought about.

use quota_proxy::cli::fake_upstream::Options;
use reqwest::Method;
use serde_json::json;

use super::{always, ask, counts, in_order, is_in_state, state};
use crate::support::upstream::{Manner, Upstream, json_answer};

/// A caller must not be able to take a peer from everybody else.
#[tokio::test]
async fn what_a_caller_can_bring_about_rests_nobody() {
    for (status, path) in [
        (403, None),
        (401, Some("/v1/files/x")),
        (402, Some("/v1/files/x")),
    ] {
        let rig = in_order(&["{fake1}", "{fake0}"])
            .fake(Options::default())
            .fake(always(&format!("status={status}")))
            .set("pools.0.cooldown", json!({"failures": 1, "for": "60s"}))
            .start()
            .await;
        let key = rig.admin().key(0).await;
        for _ in 0..3 {
            match path {
                None => assert_eq!(ask(&rig, &key).await, 200),
                Some(path) => {
                    let answer = rig.request(Method::GET, path, &key.secret).send().await;
                    assert_ne!(answer.unwrap().status(), status, "of {path}");
                }
            }
        }
        assert_eq!(
            rig.fakes()[1].ledger().await.requests,
            3,
            "{status}: it is still asked"
        );
        let shown = state(&rig, 0).await;
        assert_eq!(shown["state"], "fit", "{shown}");
        let peer = rig.fakes()[1].address;
        let labels = format!(r#"outcome="denied",peer="{peer}",pool="only""#);
        counts(&rig, "upstream_attempts_total", &labels, 3).await;
    }
}

#[tokio::test]
async fn a_credential_that_is_rejected_rests_its_peer() {
    for status in [401, 402] {
        let rig = in_order(&["{fake1}", "{fake0}"])
            .fake(Options::default())
            .fake(always(&format!("status={status}")))
            .set("pools.0.cooldown", json!({"failures": 2, "for": "60s"}))
            .start()
            .await;
        let key = rig.admin().key(0).await;
        for _ in 0..4 {
            assert_eq!(ask(&rig, &key).await, 200);
        }
        is_in_state(&rig, 0, "resting").await;
        assert_eq!(rig.fakes()[1].ledger().await.requests, 2);
        let peer = rig.fakes()[1].address;
        let labels = format!(r#"outcome="credential",peer="{peer}",pool="only""#);
        counts(&rig, "upstream_attempts_total", &labels, 2).await;
        let labels = format!(r#"cause="failures",peer="{peer}",pool="only""#);
        counts(&rig, "upstream_rests_total", &labels, 1).await;
    }
}

/// With one peer there is no other: the caller is told of an unavailable upstream, not of ours.
#[tokio::test]
async fn an_empty_account_counts_also_where_nobody_else_is_left() {
    let empty = json!({"error": {"code": "insufficient_quota", "message": "org-OURS"}});
    let upstream = json_answer("429 Too Many Requests", "", &empty);
    let upstream = Upstream::start(Manner::Answer(upstream)).await;
    let rig = in_order(&[&upstream.url()])
        .set("pools.0.cooldown", json!({"failures": 1, "for": "60s"}))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    assert_eq!(ask(&rig, &key).await, 502);
    is_in_state(&rig, 0, "resting").await;
    let labels = format!(
        r#"outcome="credential",peer="{}",pool="only""#,
        upstream.address
    );
    counts(&rig, "upstream_attempts_total", &labels, 1).await;
    rig.end().await;
}
