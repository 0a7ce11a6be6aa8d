//! The keys that users keep.

use serde_json::{Value, json};

use super::house::House;
use crate::support::rig::{CHAT, chat};

const KEYS: &str = "/api/v1/api-keys";

on_both_stores!(
    a_member_keeps_keys,
    a_key_is_set_anew_or_in_part,
    what_is_wrong_is_refused,
    a_quota_is_used_up,
    a_member_sees_only_their_own,
    groups_are_for_those_who_were_given_them,
);

fn uri(key: &Value) -> String {
    format!("{KEYS}/{}", key["id"])
}

async fn a_member_keeps_keys(house: House) {
    let ada = house.member("ada").await;
    let body = json!({
        "name": "mine", "quota": 5000, "ip_whitelist": ["127.0.0.1"], "ip_blacklist": ["10.0.0.0/8"],
    });
    let made = house.call(&ada, "POST", KEYS, body).await.ok();
    let names: Vec<&String> = made.as_object().unwrap().keys().collect();
    let mut expected = [
        "id",
        "key",
        "name",
        "group_id",
        "status",
        "quota",
        "quota_used",
        "quota_type",
        "ip_whitelist",
        "ip_blacklist",
        "created_at",
        "updated_at",
    ];
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert!(made["id"].is_i64() && made["group_id"].is_null());
    assert_eq!(
        (&made["status"], &made["quota_type"]),
        (&json!("active"), &json!("tokens"))
    );
    assert_eq!(
        (&made["quota"], &made["quota_used"]),
        (&json!(5000), &json!(0))
    );
    assert_eq!(made["ip_whitelist"], json!(["127.0.0.1"]));
    let secret = made["key"].as_str().unwrap();
    assert_eq!(
        house.rig.post(CHAT, secret, &chat("gpt-4o")).await.status(),
        200
    );
    house.rig.admin().settled().await;
    let shown = house.get(&ada, &uri(&made)).await.ok();
    assert_ne!(shown["key"], made["key"]);
    assert!(shown["quota_used"].as_i64() > Some(0), "{shown}");
    let list = house.get(&ada, KEYS).await;
    assert_eq!(list.headers["x-total-count"], "1");
    assert_eq!(list.ok(), json!([shown]));
    house
        .call(&ada, "DELETE", &uri(&made), Value::Null)
        .await
        .ok();
    house
        .get(&ada, &uri(&made))
        .await
        .coded(404, "KEY_NOT_FOUND");
    assert_eq!(house.get(&ada, KEYS).await.ok(), json!([]));
    assert_eq!(
        house.rig.post(CHAT, secret, &chat("gpt-4o")).await.status(),
        401
    );
}

async fn a_key_is_set_anew_or_in_part(house: House) {
    let ada = house.member("ada").await;
    let own = "a-key-of-my-own-0123456789";
    let body = json!({"name": "a", "quota": 2.5, "quota_type": "usd", "custom_key": own});
    let made = house.call(&ada, "POST", KEYS, body).await.ok();
    assert_eq!((&made["key"], &made["quota"]), (&json!(own), &json!(2.5)));
    let made_uri = uri(&made);
    let patch = |body: Value| {
        let (house, ada, uri) = (&house, &ada, &made_uri);
        async move { house.call(ada, "PATCH", uri, body).await.ok() }
    };
    let key = patch(json!({"quota": 0.000000001, "status": "disabled"})).await;
    assert_eq!(
        (&key["quota"], &key["quota_type"]),
        (&json!(1e-9), &json!("usd"))
    );
    assert_eq!(
        (&key["status"], &key["name"]),
        (&json!("disabled"), &json!("a"))
    );
    assert_eq!(
        house.rig.post(CHAT, own, &chat("gpt-4o")).await.status(),
        403
    );
    let key = patch(json!({"quota": 0, "status": "active"})).await;
    assert_eq!(
        (&key["quota"], &key["quota_type"]),
        (&json!(0.0), &json!("usd"))
    );
    assert!(
        key["quota_used"].is_null(),
        "an unlimited quota has no figures"
    );
    let other = "another-key-of-my-own-012345";
    patch(json!({"custom_key": other})).await;
    assert_eq!(
        house.rig.post(CHAT, own, &chat("gpt-4o")).await.status(),
        401
    );
    assert_eq!(
        house.rig.post(CHAT, other, &chat("gpt-4o")).await.status(),
        200
    );
    patch(json!({"ip_whitelist": ["192.0.2.0/24"]})).await;
    let whole = json!({"name": "b", "quota": 70});
    let key = house.call(&ada, "PUT", &uri(&made), whole).await.ok();
    assert_eq!((&key["name"], &key["quota"]), (&json!("b"), &json!(70)));
    assert_eq!(
        (&key["quota_type"], &key["ip_whitelist"]),
        (&json!("tokens"), &json!([]))
    );
    assert_eq!(key["status"], "active");
}

async fn what_is_wrong_is_refused(house: House) {
    let ada = house.member("ada").await;
    let custom = json!({"name": "a", "custom_key": "a-key-of-my-own-0123456789"});
    house.call(&ada, "POST", KEYS, custom.clone()).await.ok();
    house
        .call(&ada, "POST", KEYS, custom)
        .await
        .coded(409, "CONFLICT");
    let key = house
        .call(&ada, "POST", KEYS, json!({"name": "b"}))
        .await
        .ok();
    let taken = json!({"custom_key": "a-key-of-my-own-0123456789"});
    house
        .call(&ada, "PATCH", &uri(&key), taken)
        .await
        .coded(409, "CONFLICT");
    for (bad, field) in [
        (json!({"name": "a", "quota": -1}), "quota: found -1"),
        (json!({"name": "a", "quota": 1.5}), "quota: found 1.5"),
        (
            json!({"name": "a", "quota": -0.5, "quota_type": "usd"}),
            "quota: found -0.5",
        ),
        (json!({"name": "a", "quota_type": "requests"}), "quota_type"),
        (json!({"name": "a", "status": "expired"}), "status"),
        (
            json!({"name": "a", "custom_key": "hidden it is"}),
            "custom_key: found (hidden)",
        ),
        (
            json!({"name": "a", "ip_whitelist": ["10.0.0.0/99"]}),
            "ip_whitelist",
        ),
        (json!({"quota": 1}), "name: is required"),
        (json!({"name": "a", "qouta": 1}), "did you mean quota?"),
    ] {
        let (told, _) = house
            .call(&ada, "POST", KEYS, bad.clone())
            .await
            .coded(400, "INVALID_REQUEST");
        assert!(told.contains(field), "{told}");
        house
            .call(&ada, "PUT", &uri(&key), bad)
            .await
            .coded(400, "INVALID_REQUEST");
    }
    let told = house
        .call(&ada, "PATCH", &uri(&key), json!({"quota_type": "usd"}))
        .await;
    told.coded(400, "INVALID_REQUEST");
    for none in ["none", "-1", "99999999999999999999", "1.0"] {
        let none = format!("{KEYS}/{none}");
        house.get(&ada, &none).await.coded(404, "KEY_NOT_FOUND");
    }
    house
        .get("no-token-at-all", KEYS)
        .await
        .coded(401, "UNAUTHORIZED");
}

async fn a_quota_is_used_up(house: House) {
    let ada = house.member("ada").await;
    let body = json!({"name": "small", "quota": 60});
    let made = house.call(&ada, "POST", KEYS, body).await.ok();
    let secret = made["key"].as_str().unwrap();
    let mut body = chat("gpt-4o");
    body["max_tokens"] = json!(4_000);
    let answer = house
        .rig
        .post_fake(CHAT, secret, &body, "tokens=4000")
        .await;
    assert_eq!(answer.status(), 200);
    answer.bytes().await.unwrap();
    house.rig.admin().settled().await;
    let used = house.get(&ada, &uri(&made)).await.ok()["quota_used"].clone();
    assert!((1..=60).contains(&used.as_i64().unwrap()), "{used}");
    for (quota, status) in [(used.clone(), "exhausted"), (json!(1000), "active")] {
        let body = json!({"quota": quota});
        let key = house.call(&ada, "PATCH", &uri(&made), body).await.ok();
        assert_eq!(
            (&key["status"], &key["quota_used"]),
            (&json!(status), &used)
        );
    }
}

async fn a_member_sees_only_their_own(house: House) {
    let (ada, eve) = (house.member("ada").await, house.member("eve").await);
    let key = house
        .call(&ada, "POST", KEYS, json!({"name": "ada's"}))
        .await
        .ok();
    let others = house
        .operate("POST", KEYS, json!({"name": "the operator's"}))
        .await
        .ok();
    for stranger in [&key, &others] {
        for (method, body) in [
            ("GET", Value::Null),
            ("PATCH", json!({"quota": 1})),
            ("PUT", json!({"name": "eve's"})),
            ("DELETE", Value::Null),
        ] {
            let reply = house.call(&eve, method, &uri(stranger), body).await;
            reply.coded(404, "KEY_NOT_FOUND");
        }
    }
    let list = house.get(&eve, &format!("{KEYS}?owner=ada")).await;
    assert_eq!(list.headers["x-total-count"], "0");
    assert_eq!(list.ok(), json!([]));
    let names = |list: Value| -> Vec<String> {
        let keys = list.as_array().unwrap().iter();
        keys.map(|key| key["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = house.operate("GET", KEYS, Value::Null).await.ok();
    assert_eq!(names(all), ["ada's", "the operator's"]);
    let hers = house
        .operate("GET", &format!("{KEYS}?owner=ada"), Value::Null)
        .await
        .ok();
    assert_eq!(names(hers), ["ada's"]);
    let page = house
        .operate("GET", &format!("{KEYS}?skip=1&limit=1"), Value::Null)
        .await;
    assert_eq!(page.headers["x-total-count"], "2");
    assert_eq!(names(page.ok()), ["the operator's"]);
    house
        .operate("GET", &format!("{KEYS}?owner=nobody"), Value::Null)
        .await
        .coded(404, "NOT_FOUND");
    house
        .operate("PATCH", &uri(&key), json!({"name": "changed"}))
        .await
        .ok();
}

async fn groups_are_for_those_who_were_given_them(house: House) {
    let group = house
        .operate("POST", "/admin/groups", json!({"name": "team"}))
        .await
        .ok();
    let ada = house.member("ada").await;
    let body = json!({"name": "a", "group_id": "team"});
    house
        .call(&ada, "POST", KEYS, body.clone())
        .await
        .coded(403, "FORBIDDEN");
    let none = json!({"name": "a", "group_id": "no such group"});
    house
        .call(&ada, "POST", KEYS, none.clone())
        .await
        .coded(403, "FORBIDDEN");
    house
        .operate("POST", KEYS, none)
        .await
        .coded(400, "INVALID_REQUEST");
    let id = house.get(&ada, "/api/auth/me").await.ok()["id"].clone();
    let user = format!("/admin/users/{}", id.as_str().unwrap());
    house
        .operate("PATCH", &user, json!({"groups": ["team"]}))
        .await
        .ok();
    let key = house.call(&ada, "POST", KEYS, body).await.ok();
    assert_eq!(key["group_id"], group["id"]);
    let out = house
        .call(&ada, "PATCH", &uri(&key), json!({"group_id": null}))
        .await
        .ok();
    assert!(out["group_id"].is_null());
    let back = json!({"group_id": group["id"]});
    let back = house.call(&ada, "PATCH", &uri(&key), back).await.ok();
    assert_eq!(back["group_id"], group["id"]);
}
