//! The real, unmodified SDKs of OpenAI and Anthropic, for Python and Node, against the fake and then
//! through the proxy. The scripts are in `tests/sdk`; what they need is installed once, under `target`.
#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use quota_proxy::cli::fake_upstream::Options;
use serde_json::json;

mod support;

use support::admin::Key;
use support::fake::Fake;
use support::rig::{Rig, chat};
use support::sdk::{Language, NODE, PYTHON};

const PYTHON_SCRIPTS: &[&str] = &["test_openai.py", "test_anthropic.py"];
const NODE_SCRIPTS: &[&str] = &["openai.mjs", "anthropic.mjs"];

fn satisfied_by_the_fake(language: &Language, scripts: &[&str]) {
    let fake = Fake::start(Options::default());
    let surroundings = [
        ("BASE_URL", fake.url()),
        ("API_KEY", "sk-anything".to_owned()),
        ("LEDGER_URL", format!("{}/_fake/ledger", fake.url())),
    ];
    language.run(scripts, &surroundings);
}

#[test]
fn the_fake_satisfies_the_python_sdks() {
    satisfied_by_the_fake(&PYTHON, PYTHON_SCRIPTS);
}

#[test]
fn the_fake_satisfies_the_node_sdks() {
    satisfied_by_the_fake(&NODE, NODE_SCRIPTS);
}

/// A key whose only request is spent.
async fn empty_key(rig: &Rig) -> Key {
    let body = json!({"name": "empty", "token_limit": 0, "request_limit": 1,
                      "rate_limit_tier": "unlimited"});
    let key = rig.admin().create(body).await;
    let first = rig
        .post("/v1/chat/completions", &key.secret, &chat("gpt-4o"))
        .await;
    assert_eq!(first.status(), 200);
    first.bytes().await.unwrap();
    key
}

async fn through_the_proxy(language: &'static Language, scripts: &'static [&str]) {
    let rig = Rig::builder()
        .set("edge.max_request_body", json!("2MiB"))
        .start()
        .await;
    let admin = rig.admin();
    let key = admin.key(0).await;
    let empty = empty_key(&rig).await;
    let disabled = admin.key(0).await;
    admin.act(&disabled, "disable").await;
    let narrow = json!({"name": "narrow", "token_limit": 0, "rate_limit_tier": "unlimited",
                        "allowed_models": ["other-*"]});
    let narrow = admin.create(narrow).await;
    let refused = |shown: &serde_json::Value| shown["error_count"].as_u64().unwrap();
    let refused_before = refused(&admin.show(&empty).await);
    let surroundings = [
        ("BASE_URL", rig.url()),
        ("API_KEY", key.secret.clone()),
        ("LEDGER_URL", format!("{}/_fake/ledger", rig.fake().url())),
        ("BEHIND_PROXY", "1".to_owned()),
        ("EMPTY_KEY", empty.secret.clone()),
        ("DISABLED_KEY", disabled.secret),
        ("NARROW_KEY", narrow.secret),
    ];
    let run = tokio::task::spawn_blocking(move || language.run(scripts, &surroundings));
    run.await.unwrap();
    // Each script called once with the empty key, and its SDK obeyed `x-should-retry: false`.
    let calls = scripts.len() as u64;
    let refused_calls = support::wait::eventually(support::wait::PATIENCE, || async {
        let count = refused(&admin.show(&empty).await) - refused_before;
        support::wait::that(count, |&count| count >= calls)
    });
    assert_eq!(refused_calls.await, calls);
}

#[tokio::test]
async fn the_python_sdks_work_through_the_proxy() {
    through_the_proxy(&PYTHON, PYTHON_SCRIPTS).await;
}

#[tokio::test]
async fn the_node_sdks_work_through_the_proxy() {
    through_the_proxy(&NODE, NODE_SCRIPTS).await;
}
