//! The trial-key API: keys by their request quota.

use std::collections::HashSet;

use quota_proxy::time::{DAY_MS, UnixMs};
use reqwest::Method;
use serde_json::{Value, json};

use super::house::House;
use crate::reply::{names, reply};
use crate::support::admin::TOKEN;

on_both_stores!(
    a_key_is_made_in_either_vocabulary,
    a_batch_is_a_list_of_keys_that_all_work,
    keys_are_listed_reset_disabled_and_enabled,
    one_key_in_two_dialects,
    senseless_requests_and_unknown_keys,
);

const MADE_NAMES: [&str; 8] = [
    "createdAt",
    "expiresAt",
    "id",
    "key",
    "name",
    "quota",
    "remaining",
    "success",
];

async fn a_key_is_made_in_either_vocabulary(house: House) {
    let make = async |body: Value| {
        let made = house.manage("/admin/keys", &body).await.ok();
        assert_eq!(names(&made), MADE_NAMES);
        assert_eq!(
            (&made["success"], &made["remaining"]),
            (&json!(true), &made["quota"])
        );
        made
    };
    let made = make(json!({"name": "trial", "max_calls": 100, "valid_days": 1})).await;
    assert_eq!(
        (&made["name"], &made["quota"]),
        (&json!("trial"), &json!(100))
    );
    assert!(made["key"].as_str().unwrap().starts_with("sk-proxy_"));
    let ends = |made: &Value| made["expiresAt"].as_str().unwrap().to_owned();
    let time = |text: &str| UnixMs::parse_rfc3339(text).unwrap().0;
    let lives = time(&ends(&made)) - time(made["createdAt"].as_str().unwrap());
    assert!((lives - DAY_MS).abs() < 5_000, "{made}");

    let made = make(json!({"prefix": "roc", "quota": 1_000, "expiresAt": "2099-12-31"})).await;
    assert_eq!(
        (&made["name"], &made["quota"]),
        (&json!("roc"), &json!(1_000))
    );
    assert!(made["key"].as_str().unwrap().starts_with("roc_"));
    assert_eq!(ends(&made), "2099-12-31T23:59:59.999Z");

    let body = json!({"name": "both", "prefix": "roc", "quota": 5, "max_calls": 5,
                      "expiresAt": "2099-12-31T08:00:00+08:00", "tier": "basic"});
    let made = make(body).await;
    assert_eq!((&made["name"], &made["quota"]), (&json!("both"), &json!(5)));
    assert_eq!(ends(&made), "2099-12-31T00:00:00.000Z");

    let made = house.manage("/admin/keys", &json!({"quota": 0})).await.ok();
    assert_eq!(
        (&made["remaining"], &made["expiresAt"]),
        (&Value::Null, &Value::Null)
    );
    let audit = house.look("/admin/audit").await.ok();
    assert_eq!(audit["total"], 4);
    assert_eq!(audit["items"][0]["what"], "create key");
    let text = audit.to_string();
    assert!(
        !text.contains(&made["key"].as_str().unwrap()[9..]),
        "{text}"
    );
}

async fn a_batch_is_a_list_of_keys_that_all_work(house: House) {
    let body = json!({"prefix": "roc", "quota": 3, "count": 40});
    let made = house.manage("/admin/keys", &body).await.ok();
    assert_eq!(names(&made), ["keys", "success"]);
    let keys = made["keys"].as_array().unwrap();
    let of =
        |name: &str| -> HashSet<&str> { keys.iter().map(|k| k[name].as_str().unwrap()).collect() };
    assert_eq!(
        [of("id").len(), of("key").len(), of("name").len()],
        [40, 40, 1]
    );
    for key in [&keys[0], &keys[39]] {
        assert_eq!(names(key), MADE_NAMES[..7]);
        let used = house
            .post("/api/v1/use", key["key"].as_str().unwrap(), &json!({}))
            .await;
        assert_eq!(used.ok()["remaining"], 2);
    }
    let one = house
        .manage("/admin/keys", &json!({"quota": 3, "count": 1}))
        .await
        .ok();
    assert_eq!(one["keys"].as_array().unwrap().len(), 1);
    let list = house.look("/admin/keys").await.ok();
    assert_eq!(list["total"], 41);
}

async fn keys_are_listed_reset_disabled_and_enabled(house: House) {
    let (first, first_secret) = house.key(5).await;
    let (second, second_secret) = house.key(0).await;
    house
        .post("/api/v1/use", &first_secret, &json!({"amount": 5}))
        .await
        .ok();
    let list = house.look("/admin/keys").await.ok();
    assert_eq!(
        (&list["success"], &list["total"]),
        (&json!(true), &json!(2))
    );
    let [line, unlimited] = &list["keys"].as_array().unwrap()[..] else {
        panic!("{list}")
    };
    let item_names = [
        "active",
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
    assert_eq!(names(line), item_names);
    assert_eq!([&line["id"], &unlimited["id"]], [&first, &second]);
    assert_eq!(
        [&line["quota"], &line["used"], &line["remaining"]],
        [5, 5, 0]
    );
    assert!(
        line["lastUsed"].is_string() && line["active"] == true,
        "{line}"
    );
    assert!(!list.to_string().contains(&first_secret[5..]));
    let figures = [
        &unlimited["used"],
        &unlimited["remaining"],
        &unlimited["lastUsed"],
    ];
    assert_eq!(figures, [&Value::Null; 3]);

    // By the whole key, and by its id in either field.
    house
        .post("/api/v1/use", &first_secret, &json!({}))
        .await
        .coded(429, "QUOTA_EXCEEDED");
    let body = json!({"key": first_secret, "newQuota": 20});
    let reset = house.manage("/admin/keys/reset", &body).await.ok();
    assert_eq!(
        [&reset["quota"], &reset["used"], &reset["remaining"]],
        [20, 0, 20]
    );
    assert_eq!(
        (&reset["success"], &reset["id"]),
        (&json!(true), &json!(first))
    );
    house
        .post("/api/v1/use", &first_secret, &json!({"amount": 20}))
        .await
        .ok();
    let reset = house
        .manage("/admin/keys/reset", &json!({"id": first}))
        .await
        .ok();
    assert_eq!([&reset["quota"], &reset["used"]], [20, 0]);

    let off = house
        .manage("/admin/keys/disable", &json!({"key": first}))
        .await
        .ok();
    assert_eq!(
        (&off["success"], &off["active"]),
        (&json!(true), &json!(false))
    );
    house
        .get("/api/v1/validate", &first_secret)
        .await
        .coded(403, "KEY_DISABLED");
    house.get("/api/v1/validate", &second_secret).await.ok();
    let on = house
        .manage("/admin/keys/enable", &json!({"key": first_secret}))
        .await
        .ok();
    assert_eq!(on["active"], true);
    house.get("/api/v1/validate", &first_secret).await.ok();
    let audit = house.look("/admin/audit").await.ok();
    let done: Vec<&Value> = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| &i["what"])
        .collect();
    let expected = [
        "enable key",
        "disable key",
        "reset key",
        "reset key",
        "change key",
        "create key",
        "create key",
    ];
    assert_eq!(done, expected);
}

async fn one_key_in_two_dialects(house: House) {
    let (id, secret) = house.key(7).await;
    house
        .post("/api/v1/use", &secret, &json!({"amount": 2}))
        .await
        .ok();
    let item = house.look(&format!("/admin/api-keys/{id}")).await.ok();
    let shown = [
        "token_limit",
        "request_limit",
        "request_used",
        "request_remaining",
    ];
    assert_eq!(shown.map(|name| &item[name]), [0, 7, 2, 5]);
    assert_eq!(
        (&item["rate_limit_tier"], &item["prefix"]),
        (&json!("unlimited"), &json!("roc"))
    );
    assert_eq!(item["period"], "total");

    let body = json!({"name": "relay", "token_limit": 1_000, "request_limit": 9});
    let made = house.manage("/admin/api-keys", &body).await.ok();
    house
        .post("/api/v1/use", made["api_key"].as_str().unwrap(), &json!({}))
        .await
        .ok();
    let list = house.look("/admin/keys").await.ok();
    let line = &list["keys"][1];
    assert_eq!(
        [&line["quota"], &line["used"], &line["remaining"]],
        [9, 1, 8]
    );
    let gone = house.side(Method::DELETE, &format!("/admin/api-keys/{id}"));
    reply(gone.bearer_auth(TOKEN)).await.ok();
    assert_eq!(house.look("/admin/keys").await.ok()["total"], 1);
    for body in [json!({"id": id}), json!({"key": secret})] {
        let answer = house.manage("/admin/keys/enable", &body).await;
        answer.coded(404, "KEY_NOT_FOUND");
    }
}

async fn senseless_requests_and_unknown_keys(house: House) {
    let cases = [
        ("", json!({}), "quota: is required"),
        (
            "",
            json!({"quota": -1}),
            "quota: found -1, expected a whole number from 0",
        ),
        ("", json!({"max_calls": -1}), "max_calls: found -1"),
        ("", json!({"max_calls": 1.5}), "max_calls: found 1.5"),
        (
            "",
            json!({"quota": 1, "max_calls": 2}),
            "max_calls: give quota or max_calls",
        ),
        (
            "",
            json!({"quota": 1, "valid_days": 0}),
            "valid_days: found 0",
        ),
        (
            "",
            json!({"quota": 1, "expiresAt": "2020-01-01"}),
            "expiresAt: found",
        ),
        (
            "",
            json!({"quota": 1, "expiresAt": "soon"}),
            "expiresAt: found",
        ),
        (
            "",
            json!({"quota": 1, "valid_days": 1, "expiresAt": "2099-01-01"}),
            "not both",
        ),
        (
            "",
            json!({"quota": 1, "tier": "gold"}),
            "tier: found \"gold\", expected one of basic",
        ),
        ("", json!({"quota": 1, "name": ""}), "name: found"),
        ("", json!({"quota": 1, "prefix": "a b"}), "prefix: found"),
        (
            "",
            json!({"quota": 1, "count": 0}),
            "count: found 0, expected a whole number from 1 to 1000",
        ),
        ("", json!({"quota": 1, "count": 1_001}), "count: found 1001"),
        (
            "",
            json!({"quota": 1, "qouta": 2}),
            "qouta: unknown field, did you mean quota?",
        ),
        ("", json!([]), "must be a JSON object"),
        ("/reset", json!({}), "key: is required"),
        ("/reset", json!({"key": "a", "id": "b"}), "not both"),
        ("/reset", json!({"key": 5}), "key: found 5"),
        (
            "/reset",
            json!({"id": "b", "newQuota": -5}),
            "newQuota: found -5",
        ),
        ("/disable", json!({"id": []}), "id: found []"),
        ("/enable", json!({}), "key: is required"),
    ];
    for (path, body, words) in cases {
        let path = format!("/admin/keys{path}");
        let (message, _) = house
            .manage(&path, &body)
            .await
            .coded(400, "INVALID_REQUEST");
        assert!(message.contains(words), "{path} {body}: {message}");
    }
    assert_eq!(house.look("/admin/keys").await.ok()["total"], 0);
    for action in ["reset", "disable", "enable"] {
        let path = format!("/admin/keys/{action}");
        for body in [
            json!({"key": "roc_unknown"}),
            json!({"id": "00000000-0000-4000-8000-000000000000"}),
            json!({"id": "no-id"}),
        ] {
            let (message, _) = house.manage(&path, &body).await.coded(404, "KEY_NOT_FOUND");
            assert_eq!(message, "API key not found");
        }
        let stranger = house.side(Method::POST, &path).json(&json!({"key": "a"}));
        reply(stranger).await.coded(401, "UNAUTHORIZED");
    }
    let chinese = house
        .side(Method::POST, "/admin/keys/reset")
        .bearer_auth(TOKEN);
    let chinese = chinese
        .header("accept-language", "zh")
        .json(&json!({"key": "roc_unknown"}));
    let (message, _) = reply(chinese).await.coded(404, "KEY_NOT_FOUND");
    assert_eq!(message, "API 密钥不存在");
}

#[tokio::test]
async fn operators_are_served_on_the_edge_where_the_admin_service_is_mounted() {
    let house = House::mounted().await;
    let made = house
        .post("/admin/keys", TOKEN, &json!({"quota": 5}))
        .await
        .ok();
    let used = house
        .post("/api/v1/use", made["key"].as_str().unwrap(), &json!({}))
        .await;
    assert_eq!(used.ok()["remaining"], 4);
    let usage = house.get("/admin/usage", TOKEN).await.ok();
    assert_eq!(usage["summary"]["totalUsed"], 1);
    house
        .post("/admin/keys", "not-the-token", &json!({"quota": 5}))
        .await
        .coded(401, "UNAUTHORIZED");
}
