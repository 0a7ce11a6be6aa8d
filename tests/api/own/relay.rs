//! `/api/usage`: sums, days and events of a key.

use quota_proxy::time::{DAY_MS, UnixMs};
use reqwest::Method;
use serde_json::{Value, json};

use super::house::House;
use crate::reply::{names, reply};

on_both_stores!(
    usage_is_summed_up_by_model_and_error,
    a_key_without_usage_has_zeros,
    spans_and_pages_that_make_no_sense_are_422,
);

async fn usage_is_summed_up_by_model_and_error(house: House) {
    let body =
        json!({"name": "n", "token_limit": 0, "request_limit": 4, "rate_limit_tier": "unlimited"});
    let made = house.manage("/admin/api-keys", &body).await.ok();
    let secret = made["api_key"].as_str().unwrap();
    house.call(secret, "gpt-4o").await;
    house.call(secret, "gpt-4o").await;
    house.call(secret, "gpt-4o-mini").await;
    house.post("/api/v1/use", secret, &json!({})).await.ok();
    // Used up: this one is refused.
    house.call(secret, "gpt-4o").await;

    let events = house.get("/api/usage/logs", secret).await.ok();
    let events = events.as_array().unwrap();
    assert_eq!(events.len(), 5);
    assert_eq!(names(&events[0]), EVENT_NAMES);
    assert_eq!(events[0]["error_code"], "QUOTA_EXCEEDED");
    assert_eq!(events[1]["request_path"], "/api/v1/use");
    let sum = |name: &str| {
        events
            .iter()
            .map(|e| e[name].as_i64().unwrap())
            .sum::<i64>()
    };
    let cost: f64 = events
        .iter()
        .map(|e| e["total_cost"].as_f64().unwrap())
        .sum();
    let tokens_of = |model: &str| {
        let events = events.iter().filter(|e| e["model"] == model);
        events
            .map(|e| e["total_tokens"].as_i64().unwrap())
            .sum::<i64>()
    };
    let (large, small) = (tokens_of("gpt-4o"), tokens_of("gpt-4o-mini"));
    assert!(large > small && small > 0, "{large} {small}");

    let usage = house.get("/api/usage", secret).await.ok();
    assert_eq!(names(&usage), USAGE_NAMES);
    assert_eq!(usage["total_requests"], 5);
    assert_eq!(usage["total_tokens"], large + small);
    assert_eq!(usage["total_prompt_tokens"], sum("prompt_tokens"));
    assert_eq!(usage["total_completion_tokens"], sum("completion_tokens"));
    assert!((usage["total_cost"].as_f64().unwrap() - cost).abs() < 1e-9);
    let mean = sum("response_time_ms") as f64 / 5.0;
    assert!((usage["avg_response_time_ms"].as_f64().unwrap() - mean).abs() < 0.01);
    assert_eq!(
        (&usage["error_count"], &usage["error_rate"]),
        (&json!(1), &json!(20.0))
    );
    assert_eq!(
        usage["error_breakdown"],
        json!([{"error_code": "QUOTA_EXCEEDED", "count": 1}])
    );
    let models = json!([
        {"model": "gpt-4o", "request_count": 2, "total_tokens": large},
        {"model": "gpt-4o-mini", "request_count": 1, "total_tokens": small},
    ]);
    assert_eq!(usage["model_usage"], models);

    let today = UnixMs::now().day();
    let named = house.edge(Method::GET, "/api/usage").bearer_auth(secret);
    let span = json!({"start_date": "2026-01-01", "end_date": "2099-12-31"});
    assert_eq!(reply(named.json(&span)).await.ok(), usage);
    let day = json!({"date": today, "requests": 5, "tokens": large + small, "cost": usage["total_cost"], "errors": 1});
    for path in [
        "/api/usage/daily",
        "/api/usage/daily?days=1",
        "/api/usage/daily?days=365",
    ] {
        let days = house.get(path, secret).await.ok();
        // Midnight may have come between.
        if days.as_array().unwrap().len() == 1 && UnixMs::now().day() == today {
            assert_eq!(days, json!([day]), "{path}");
        }
    }
    let before = UnixMs::now().plus_ms(-2 * DAY_MS).day();
    let path = format!("/api/usage?start_date=2026-01-01&end_date={before}");
    assert_eq!(house.get(&path, secret).await.ok()["total_requests"], 0);
    let path = format!("/api/usage/logs?start_date=2026-01-01&end_date={before}");
    assert_eq!(house.get(&path, secret).await.ok(), json!([]));
    let page = house
        .get("/api/usage/logs?skip=1&limit=2", secret)
        .await
        .ok();
    assert_eq!(page, json!(events[1..3]));
}

const USAGE_NAMES: [&str; 10] = [
    "avg_response_time_ms",
    "error_breakdown",
    "error_count",
    "error_rate",
    "model_usage",
    "total_completion_tokens",
    "total_cost",
    "total_prompt_tokens",
    "total_requests",
    "total_tokens",
];

const EVENT_NAMES: [&str; 30] = [
    "api_key_id",
    "cache_write_tokens",
    "cached_tokens",
    "client_disconnected",
    "completion_tokens",
    "created_at",
    "end_user",
    "error_code",
    "error_message",
    "estimated",
    "first_byte_ms",
    "id",
    "is_error",
    "metadata",
    "model",
    "peer",
    "pool",
    "prompt_tokens",
    "reason",
    "reasoning_tokens",
    "request_id",
    "request_method",
    "request_path",
    "request_size",
    "response_size",
    "response_status",
    "response_time_ms",
    "total_cost",
    "total_error_message",
    "total_tokens",
];

async fn a_key_without_usage_has_zeros(house: House) {
    let (_, secret) = house.key(5).await;
    let expected = json!({
        "total_requests": 0, "total_tokens": 0, "total_prompt_tokens": 0, "total_completion_tokens": 0,
        "total_cost": 0.0, "avg_response_time_ms": 0.0, "error_count": 0, "error_rate": 0.0,
        "model_usage": [], "error_breakdown": [],
    });
    assert_eq!(house.get("/api/usage", &secret).await.ok(), expected);
    assert_eq!(house.get("/api/usage/daily", &secret).await.ok(), json!([]));
    assert_eq!(house.get("/api/usage/logs", &secret).await.ok(), json!([]));
}

async fn spans_and_pages_that_make_no_sense_are_422(house: House) {
    let (_, secret) = house.key(5).await;
    let cases = [
        (
            "/api/usage?start_date=2026-11-22&end_date=2026-11-21",
            "end_date: lies before the start",
        ),
        (
            "/api/usage?start_date=yesterday",
            "start_date: found \"yesterday\", expected a day such as",
        ),
        (
            "/api/usage/logs?start_date=2026-11-22&end_date=2026-11-21",
            "end_date",
        ),
        (
            "/api/usage/logs?limit=0",
            "limit: found \"0\", expected a whole number from 1 to 1000",
        ),
        ("/api/usage/logs?limit=1001", "limit"),
        ("/api/usage/logs?skip=-1", "skip"),
        (
            "/api/usage/daily?days=0",
            "days: found \"0\", expected a whole number from 1 to 365",
        ),
        ("/api/usage/daily?days=366", "days"),
        ("/api/usage/daily?days=x", "days"),
    ];
    for (path, words) in cases {
        let message = house.get(path, &secret).await.detail(422);
        assert!(message.contains(words), "{path}: {message}");
    }
    let path = "/api/usage?start_date=2026-11-22&end_date=2026-11-21";
    let chinese = house.edge(Method::GET, path).bearer_auth(&secret);
    let message = reply(chinese.header("accept-language", "zh"))
        .await
        .detail(422);
    assert_eq!(message, "end_date: 早于开始时间");
    let broken = house.edge(Method::GET, "/api/usage").bearer_auth(&secret);
    let message = reply(broken.body("[1]")).await.detail(422);
    assert!(message.contains("must be a JSON object"), "{message}");
    assert_eq!(
        house.get("/api/usage", &secret).await.ok()["error_count"],
        Value::from(0)
    );
}
