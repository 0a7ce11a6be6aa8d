//! The trial-key API where the store gives out.

use super::rig::Rig;
use quota_proxy::store::StoreError;
use serde_json::json;

#[tokio::test]
async fn a_batch_that_does_not_fit_leaves_no_key_behind() {
    let rig = Rig::new();
    rig.store.room_for(20);
    let body = json!({"quota": 5, "count": 30});
    let answer = rig.send("POST", "/admin/keys", &body).await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert_eq!(answer.json()["error"]["code"], "STORE_UNAVAILABLE");
    assert_eq!(rig.get("/admin/keys").await.ok()["total"], 0);
    // The audit log tells of both.
    let done = rig.store.audit_entries().await;
    let made = done.iter().filter(|entry| entry.what == "create key");
    let deleted = done
        .iter()
        .filter(|entry| entry.what == "delete key for good");
    assert_eq!((made.count(), deleted.count()), (20, 20));
}

#[tokio::test]
async fn a_store_that_is_away_is_503_in_the_shape_of_the_path() {
    let rig = Rig::new();
    let made = rig.send("POST", "/admin/keys", &json!({"quota": 5})).await;
    let secret = made.ok()["key"].as_str().unwrap().to_owned();
    rig.store
        .fail(Some(StoreError::Unavailable(String::from("away"))));
    for (method, path) in [
        ("GET", "/admin/keys"),
        ("GET", "/admin/usage"),
        ("POST", "/admin/keys"),
    ] {
        let answer = rig.send(method, path, &json!({"quota": 5})).await;
        assert_eq!(answer.status, 503, "{path}: {}", answer.text);
        assert_eq!(answer.json()["error"]["code"], "STORE_UNAVAILABLE");
    }
    let ask = |method, path| rig.ask(method, path).bearer(&secret).send("{}");
    let drawn = ask("POST", "/api/v1/use").await;
    assert_eq!(drawn.status, 503);
    assert_eq!(drawn.json()["error"]["code"], "STORE_UNAVAILABLE");
    ask("GET", "/api/usage").await.detail(503);
}
