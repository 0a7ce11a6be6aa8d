//! `/api/v1` and `/usage`: what a key says of itself, and uses drawn from its request quota.

use reqwest::Method;
use serde_json::{Value, json};

use super::house::House;
use crate::reply::{names, reply};

on_both_stores!(
    a_key_tells_of_itself_on_both_ports_by_either_header,
    uses_and_calls_stand_in_one_history,
    what_does_not_fit_draws_nothing,
    an_unlimited_key_has_no_figures_but_counts,
    uses_are_free_of_per_minute_limits,
    senseless_uses_are_told_what_is_wrong,
);

async fn a_key_tells_of_itself_on_both_ports_by_either_header(house: House) {
    let body = json!({"name": "trial", "max_calls": 10, "valid_days": 7});
    let made = house.manage("/admin/keys", &body).await.ok();
    let secret = made["key"].as_str().unwrap();
    house
        .post("/api/v1/use", secret, &json!({"amount": 3}))
        .await
        .ok();
    let masked = masked(&house, secret).await;
    let ends = &made["expiresAt"];
    let last_used = house.get("/api/v1/quota", secret).await.ok()["lastUsed"].clone();
    assert!(last_used.as_str().unwrap().ends_with('Z'), "{last_used}");
    let expected = [
        (
            "/usage",
            json!({"name": "trial", "max_calls": 10, "used": 3, "remaining": 7, "tokens_used": 0,
                   "cost": 0.0, "expires_at": ends}),
        ),
        (
            "/api/v1/validate",
            json!({"valid": true, "key": masked, "quota": 10, "remaining": 7, "expiresAt": ends}),
        ),
        (
            "/api/v1/quota",
            json!({"key": masked, "quota": 10, "remaining": 7, "used": 3, "expiresAt": ends,
                   "lastUsed": last_used}),
        ),
        (
            "/api/usage/quota",
            json!({"token_limit": 0, "token_used": null, "token_remaining": null,
                   "usage_percentage": 0.0, "is_quota_exceeded": false,
                   "rate_limit_tier": "unlimited", "is_active": true, "expires_at": ends,
                   "is_expired": false}),
        ),
    ];
    for (path, expected) in expected {
        for request in [house.edge(Method::GET, path), house.side(Method::GET, path)] {
            let by_bearer = request.try_clone().unwrap().bearer_auth(secret);
            assert_eq!(reply(by_bearer).await.ok(), expected, "{path}");
            let by_name = request.header("x-api-key", secret);
            assert_eq!(reply(by_name).await.ok(), expected, "{path}");
        }
    }
}

async fn masked(house: &House, secret: &str) -> String {
    let valid = house.get("/api/v1/validate", secret).await.ok();
    let masked = valid["key"].as_str().unwrap().to_owned();
    assert!(
        masked.len() < secret.len() && secret.starts_with(&masked[..8]),
        "{masked}"
    );
    masked
}

async fn uses_and_calls_stand_in_one_history(house: House) {
    let (_, secret) = house.key(10).await;
    let masked = masked(&house, &secret).await;
    let use_one = house.edge(Method::POST, "/api/v1/use").bearer_auth(&secret);
    let used = reply(use_one).await.ok();
    let expected =
        json!({"success": true, "key": masked, "amountUsed": 1, "remaining": 9, "totalQuota": 10});
    assert_eq!(used, expected);
    let body = json!({"amount": 2, "reason": "report", "metadata": {"page": [1]}});
    let used = house.post("/api/v1/use", &secret, &body).await.ok();
    assert_eq!(
        (&used["amountUsed"], &used["remaining"]),
        (&json!(2), &json!(7))
    );
    house.call(&secret, "gpt-4o").await;
    let body = json!([{"amount": 1, "reason": "first"}, {"amount": 3}]);
    let used = house.post("/api/v1/use/batch", &secret, &body).await.ok();
    let expected = json!({
        "success": true, "key": masked, "amountUsed": 4, "remaining": 2, "totalQuota": 10,
        "items": [{"amount": 1, "reason": "first", "remaining": 5},
                  {"amount": 3, "reason": null, "remaining": 2}],
    });
    assert_eq!(used, expected);

    let page = house.get("/api/v1/usage/history", &secret).await.ok();
    assert_eq!(names(&page), ["history", "limit", "offset", "total"]);
    assert_eq!(
        [&page["total"], &page["limit"], &page["offset"]],
        [5, 100, 0]
    );
    let entries = page["history"].as_array().unwrap();
    let shown: Vec<Value> = entries.iter().map(without_time).collect();
    let entry = |amount: i64, reason: &str, remaining: i64, metadata: Value| json!({"amount": amount, "reason": reason, "remaining": remaining, "metadata": metadata});
    // Entries of one batch are of one time; each says what was left after it.
    let expected = [
        entry(3, "POST /api/v1/use/batch", 2, json!({})),
        entry(1, "first", 5, json!({})),
        entry(1, "POST /v1/chat/completions", 6, json!({})),
        entry(2, "report", 7, json!({"page": [1]})),
        entry(1, "POST /api/v1/use", 9, json!({})),
    ];
    assert_eq!(shown, expected);

    let path = "/api/v1/usage/history";
    let by_query = house
        .get(&format!("{path}?limit=2&offset=1"), &secret)
        .await;
    let by_query = by_query.ok();
    assert_eq!(by_query["history"], json!(entries[1..3]));
    assert_eq!(
        [&by_query["total"], &by_query["limit"], &by_query["offset"]],
        [5, 2, 1]
    );
    let by_body = house.edge(Method::GET, path).bearer_auth(&secret);
    let by_body = reply(by_body.json(&json!({"limit": 2, "offset": 1}))).await;
    assert_eq!(by_body.ok(), by_query);
    let beyond = house.get(&format!("{path}?offset=99"), &secret).await.ok();
    assert_eq!(
        (&beyond["history"], &beyond["total"]),
        (&json!([]), &json!(5))
    );
}

fn without_time(entry: &Value) -> Value {
    let mut entry = entry.clone();
    let time = entry.as_object_mut().unwrap().remove("timestamp");
    assert!(time.unwrap().as_str().unwrap().ends_with('Z'));
    entry
}

async fn what_does_not_fit_draws_nothing(house: House) {
    let (_, secret) = house.key(5).await;
    let masked = masked(&house, &secret).await;
    house
        .post("/api/v1/use", &secret, &json!({"amount": 3}))
        .await
        .ok();
    let batch = json!([{"amount": 2}, {"amount": 1}]);
    for (path, body) in [
        ("/api/v1/use", json!({"amount": 3})),
        ("/api/v1/use/batch", batch),
    ] {
        let (message, details) = house
            .post(path, &secret, &body)
            .await
            .coded(429, "QUOTA_EXCEEDED");
        assert_eq!(
            details,
            json!({"key": masked, "remaining": 2, "requested": 3})
        );
        for part in ["API_KEY_QUOTA_EXHAUSTED", "3", "5"] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }
    let chinese = house.edge(Method::POST, "/api/v1/use").bearer_auth(&secret);
    let chinese = chinese.header("accept-language", "zh-CN,zh;q=0.9,en;q=0.8");
    let (message, _) = reply(chinese.json(&json!({"amount": 3})))
        .await
        .coded(429, "QUOTA_EXCEEDED");
    assert!(
        message.contains("额度不足") && message.contains("API_KEY_QUOTA_EXHAUSTED"),
        "{message}"
    );
    let quota = house.get("/api/v1/quota", &secret).await.ok();
    assert_eq!(
        (&quota["used"], &quota["remaining"]),
        (&json!(3), &json!(2))
    );
    house
        .post("/api/v1/use", &secret, &json!({"amount": 2}))
        .await
        .ok();
    house
        .post("/api/v1/use", &secret, &json!({}))
        .await
        .coded(429, "QUOTA_EXCEEDED");
    // Refused draws are errors of the key, and no history.
    let history = house.get("/api/v1/usage/history", &secret).await.ok();
    assert_eq!(history["total"], 2);
    let usage = house.get("/api/usage", &secret).await.ok();
    let breakdown = json!([{"error_code": "QUOTA_EXCEEDED", "count": 4}]);
    assert_eq!(
        (&usage["error_count"], &usage["error_breakdown"]),
        (&json!(4), &breakdown)
    );
}

async fn an_unlimited_key_has_no_figures_but_counts(house: House) {
    let (_, secret) = house.key(0).await;
    let used = house
        .post("/api/v1/use", &secret, &json!({"amount": 7}))
        .await
        .ok();
    assert_eq!(
        (&used["remaining"], &used["totalQuota"]),
        (&Value::Null, &json!(0))
    );
    let quota = house.get("/api/v1/quota", &secret).await.ok();
    assert_eq!(
        (&quota["used"], &quota["remaining"]),
        (&Value::Null, &Value::Null)
    );
    let figures = house.get("/usage", &secret).await.ok();
    assert_eq!(
        (&figures["max_calls"], &figures["used"]),
        (&json!(0), &Value::Null)
    );
    let history = house.get("/api/v1/usage/history", &secret).await.ok();
    assert_eq!(history["history"][0]["amount"], 7);
    assert_eq!(history["history"][0]["remaining"], Value::Null);
}

async fn uses_are_free_of_per_minute_limits(house: House) {
    // The tier `basic` bears 100 requests a minute.
    let body = json!({"name": "n", "quota": 1_000, "tier": "basic"});
    let made = house.manage("/admin/keys", &body).await.ok();
    let secret = made["key"].as_str().unwrap();
    for _ in 0..105 {
        house.post("/api/v1/use", secret, &json!({})).await.ok();
    }
    let used = house
        .post("/api/v1/use", secret, &json!({"amount": 200}))
        .await
        .ok();
    assert_eq!(used["remaining"], 1_000 - 305);
}

async fn senseless_uses_are_told_what_is_wrong(house: House) {
    let (_, secret) = house.key(10).await;
    let long = "x".repeat(501);
    let cases = [
        (
            "/api/v1/use",
            json!({"amount": 0}),
            "amount: found 0, expected a whole number from 1",
        ),
        ("/api/v1/use", json!({"amount": -1}), "amount: found -1"),
        ("/api/v1/use", json!({"amount": 1.5}), "amount: found 1.5"),
        ("/api/v1/use", json!({"amount": "1"}), "amount: found \"1\""),
        (
            "/api/v1/use",
            json!({"amount": 1, "reason": long}),
            "reason: found",
        ),
        ("/api/v1/use", json!({"metadata": []}), "metadata: found []"),
        (
            "/api/v1/use",
            json!({"amonut": 1}),
            "amonut: unknown field, did you mean amount?",
        ),
        ("/api/v1/use", json!([]), "must be a JSON object"),
        (
            "/api/v1/use/batch",
            json!([]),
            "must be a JSON array of 1 to 1000 objects",
        ),
        ("/api/v1/use/batch", json!({}), "must be a JSON array"),
        (
            "/api/v1/use/batch",
            json!([{}, {}, {"amount": 0}]),
            "[2].amount: found 0",
        ),
        (
            "/api/v1/use/batch",
            json!([{"amount": 1}, 5]),
            "[1]: must be a JSON object",
        ),
        (
            "/api/v1/use/batch",
            json!(vec![json!({}); 1_001]),
            "there are more",
        ),
        (
            "/api/v1/use/batch",
            json!([{"amount": 1_i64 << 53}, {}]),
            "the amounts together",
        ),
    ];
    for (path, body, part) in cases {
        let (message, _) = house
            .post(path, &secret, &body)
            .await
            .coded(400, "INVALID_REQUEST");
        assert!(message.contains(part), "{path} {body}: {message}");
    }
    let (_, details) = house
        .post("/api/v1/use", &secret, &json!({"amount": 0, "b": 1}))
        .await
        .coded(400, "INVALID_REQUEST");
    let fields: Vec<&Value> = details["fields"].as_array().unwrap().iter().collect();
    assert_eq!([&fields[0]["field"], &fields[1]["field"]], ["amount", "b"]);
    let chinese = house
        .edge(Method::POST, "/api/v1/use/batch")
        .bearer_auth(&secret);
    let chinese = chinese.header("accept-language", "zh").json(&json!({}));
    let (message, _) = reply(chinese).await.coded(400, "INVALID_REQUEST");
    assert!(
        message.contains("请求体必须是由 1 到 1000 个对象组成的 JSON 数组"),
        "{message}"
    );
    for query in ["limit=0", "limit=1001", "offset=-1", "limit=x"] {
        let path = format!("/api/v1/usage/history?{query}");
        house
            .get(&path, &secret)
            .await
            .coded(400, "INVALID_REQUEST");
    }
    let quota = house.get("/api/v1/quota", &secret).await.ok();
    assert_eq!(quota["used"], 0);
    assert_eq!(quota["lastUsed"], Value::Null);
}
