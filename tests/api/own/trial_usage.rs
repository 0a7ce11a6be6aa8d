//! `GET /admin/usage`, and lists of many keys.

use quota_proxy::time::{DAY_MS, UnixMs};
use reqwest::Method;
use serde_json::{Value, json};

use super::house::House;
use crate::reply::{names, reply};
use crate::support::admin::TOKEN;

on_both_stores!(all_keys_are_summed_up, a_list_is_longer_than_a_page);

async fn all_keys_are_summed_up(house: House) {
    let (first, first_secret) = house.key(10).await;
    let (second, second_secret) = house.key(5).await;
    let (third, third_secret) = house.key(0).await;
    house
        .post("/api/v1/use", &first_secret, &json!({"amount": 4}))
        .await
        .ok();
    house
        .post("/api/v1/use", &second_secret, &json!({"amount": 5}))
        .await
        .ok();
    house
        .post("/api/v1/use", &third_secret, &json!({"amount": 9}))
        .await
        .ok();
    house
        .manage("/admin/keys/disable", &json!({"id": second}))
        .await
        .ok();

    let usage = house.look("/admin/usage").await.ok();
    let summary = json!({"totalKeys": 3, "totalQuota": 15, "totalUsed": 9, "totalRemaining": 6,
                         "activeKeys": 2, "expiredKeys": 0});
    assert_eq!(usage["summary"], summary);
    let detail_names = [
        "createdAt",
        "expiresAt",
        "id",
        "key",
        "lastUsed",
        "name",
        "quota",
        "remaining",
        "used",
    ];
    let details = usage["details"].as_array().unwrap();
    assert_eq!(names(&details[0]), detail_names);
    let ids: Vec<&Value> = details.iter().map(|line| &line["id"]).collect();
    assert_eq!(ids, [&first, &second, &third]);
    let used = |usage: &Value| -> Vec<Value> {
        let details = usage["details"].as_array().unwrap().iter();
        details.map(|line| line["used"].clone()).collect()
    };
    assert_eq!(used(&usage), [json!(4), json!(5), Value::Null]);

    // Over a span it is what was charged then, whatever was reset since.
    house
        .manage("/admin/keys/reset", &json!({"id": first}))
        .await
        .ok();
    let since = UnixMs::now().plus_ms(-DAY_MS).day();
    let path = format!("/admin/usage?startDate={since}&endDate=2099-12-31");
    let span = house.look(&path).await.ok();
    assert_eq!(used(&span), [4, 5, 9]);
    assert_eq!(
        (
            &span["summary"]["totalUsed"],
            &span["details"][0]["remaining"]
        ),
        (&json!(18), &json!(10))
    );
    let open = house
        .look(&format!("/admin/usage?startDate={since}"))
        .await
        .ok();
    assert_eq!(open, span);
    let by_body = house.side(Method::GET, "/admin/usage").bearer_auth(TOKEN);
    let by_body = by_body.json(&json!({"startDate": since, "endDate": "2099-12-31"}));
    assert_eq!(reply(by_body).await.ok(), span);
    let before = house.look("/admin/usage?endDate=2026-01-01").await.ok();
    assert_eq!(used(&before), [0, 0, 0]);

    for query in ["startDate=x", "startDate=2026-02-02&endDate=2026-02-01"] {
        let answer = house.look(&format!("/admin/usage?{query}")).await;
        answer.coded(400, "INVALID_REQUEST");
    }
    let stranger = house
        .side(Method::GET, "/admin/usage")
        .bearer_auth(&first_secret);
    reply(stranger).await.coded(401, "UNAUTHORIZED");
}

async fn a_list_is_longer_than_a_page(house: House) {
    let body = json!({"prefix": "roc", "quota": 3, "count": 1_000});
    let made = house.manage("/admin/keys", &body).await.ok();
    let last = house.key(8).await;
    let list = house.look("/admin/keys").await.ok();
    assert_eq!(list["total"], 1_001);
    let mut ids: Vec<&str> = ids_of(&list["keys"]);
    assert_eq!(ids.pop(), Some(last.0.as_str()));
    let mut expected = ids_of(&made["keys"]);
    expected.sort_unstable();
    ids.sort_unstable();
    assert_eq!(ids, expected);
    let usage = house.look("/admin/usage").await.ok();
    assert_eq!(
        (
            &usage["summary"]["totalKeys"],
            &usage["summary"]["totalQuota"]
        ),
        (&json!(1_001), &json!(3_008))
    );
}

fn ids_of(keys: &Value) -> Vec<&str> {
    let keys = keys.as_array().unwrap().iter();
    keys.map(|key| key["id"].as_str().unwrap()).collect()
}
