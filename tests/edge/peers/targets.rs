//! What a peer's URL does to the targets of requests.

use serde_json::json;

use super::answer_of;
use super::in_order;
use crate::support::rig::{CHAT, CREDENTIAL, chat};
use crate::support::upstream::{Manner, Upstream, json_answer};

#[tokio::test]
async fn base_paths_as_providers_have_them() {
    for (base, sent, arrives) in [
        ("", CHAT, CHAT),
        ("/openai", CHAT, "/openai/v1/chat/completions"),
        ("/api/v1", CHAT, "/api/v1/chat/completions"),
        ("/api/paas/v4", CHAT, "/api/paas/v4/chat/completions"),
        ("/api/v3", CHAT, "/api/v3/chat/completions"),
        ("/v1beta/openai", CHAT, "/v1beta/openai/chat/completions"),
        ("/openai/v1", CHAT, "/openai/v1/chat/completions"),
        (
            "/openai/deployments/X?api-version=2024-10-21",
            CHAT,
            "/openai/deployments/X/chat/completions?api-version=2024-10-21",
        ),
        (
            "?api-version=2024-10-21",
            "/openai/deployments/gpt-4o/chat/completions?api-version=old&a=1",
            "/openai/deployments/gpt-4o/chat/completions?a=1&api-version=2024-10-21",
        ),
    ] {
        let upstream =
            Upstream::start(Manner::Answer(json_answer("200 OK", "", &answer_of(1, 1)))).await;
        let rig = in_order(&[])
            .set(
                "pools.0.peers",
                json!([{"url": format!("{}{base}", upstream.url()), "credential": CREDENTIAL}]),
            )
            .start()
            .await;
        let key = rig.admin().key(0).await;
        let answer = rig.post(sent, &key.secret, &chat("gpt-4o")).await;
        assert_eq!(answer.status(), 200, "{base}");
        let line = format!("POST {arrives} HTTP/1.1");
        let seen = upstream.seen();
        assert_eq!(seen[0].head.lines().next(), Some(line.as_str()), "{base}");
        // It may say whose it is.
        let shown = rig.admin().get("/admin/pools").await.to_string();
        assert!(!shown.contains("api-version"), "{shown}");
    }
}
