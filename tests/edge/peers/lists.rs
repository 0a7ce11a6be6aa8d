//! The lists of models that peers are asked for.

use reqwest::Method;
use serde_json::{Value, json};

use super::in_order;
use crate::support::admin::Key;
use crate::support::rig::Rig;
use crate::support::upstream::{Upstream, json_answer};
use crate::support::wait::{PATIENCE, eventually, that};

fn list(model: &str) -> String {
    json_answer("200 OK", "", &json!({"data": [{"id": model}]}))
}

async fn listed(rig: &Rig, key: &Key) -> Vec<String> {
    let asked = rig.request(Method::GET, "/v1/models", &key.secret).send();
    let answer: Value = asked.await.unwrap().json().await.unwrap();
    let models = answer["data"].as_array().unwrap().iter();
    models
        .map(|model| model["id"].as_str().unwrap().to_owned())
        .collect()
}

/// Another account has other models: what the old credential was told holds for it alone.
#[tokio::test]
async fn a_list_goes_with_the_credential_that_asked_for_it() {
    let (upstream, tell) = Upstream::told(&list("old")).await;
    let rig = in_order(&[&upstream.url()]).start().await;
    let key = rig.admin().key(0).await;
    assert_eq!(listed(&rig, &key).await, ["old"]);
    tell(&list("new"));
    assert_eq!(listed(&rig, &key).await, ["old"]);
    let mut config = rig.config();
    config["pools"][0]["peers"][0]["credential"] = json!("sk-another-account-1");
    rig.write_config(&config);
    rig.process().signal("HUP");
    let asked = || async { that(listed(&rig, &key).await, |models| models == &["new"]) };
    eventually(PATIENCE, asked).await;
    let seen = upstream.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[1].head.contains("sk-another-account-1"));
}

#[tokio::test]
async fn many_who_ask_at_once_are_one_question() {
    let (upstream, _tell) = Upstream::told(&list("one")).await;
    let rig = in_order(&[&upstream.url()]).start().await;
    let key = rig.admin().key(0).await;
    let all = (0..20).map(|_| listed(&rig, &key));
    for models in futures_util::future::join_all(all).await {
        assert_eq!(models, ["one"]);
    }
    assert_eq!(upstream.seen().len(), 1);
}
