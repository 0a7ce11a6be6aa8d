//! `quota-proxy usage`.

use http::StatusCode;
use serde_json::json;

use crate::command::{golden, run};
use crate::service::Service;

async fn summary() -> Service {
    let sum = |name: &str, requests: u32, cost: f64| {
        json!({
            "name": name, "requests": requests, "tokens": 10 * requests, "prompt_tokens": 6 * requests,
            "completion_tokens": 4 * requests, "cost": cost, "errors": 1,
        })
    };
    let answer = json!({
        "by": "model", "since": "2026-11-14T00:00:00.000Z", "until": "2026-11-21T00:00:00.000Z",
        "items": [sum("gpt-4o", 1200, 0.123456789), sum("=a,\"b\"", 3, 0.0), sum("", 1, 2.5)],
        "total": sum("", 1204, 2.623456789),
    });
    Service::start(move |_, _, _| (StatusCode::OK, answer.to_string())).await
}

#[tokio::test]
async fn sums_are_a_table_csv_or_json() {
    let service = summary().await;
    let table = run(service.address, &["usage", "--by", "model"]).await.ok();
    golden("usage.txt", &table.out);
    let csv = run(service.address, &["usage", "--by", "model", "--csv"])
        .await
        .ok();
    golden("usage.csv", &csv.out);
    let json = run(service.address, &["usage", "--json"]).await.ok().json();
    assert_eq!(json["items"][0]["cost"], json!(0.123456789));
}

#[tokio::test]
async fn what_is_asked_for_reaches_the_service() {
    let service = summary().await;
    let key = "6f0a3c1e-0000-4000-8000-000000000001";
    let words = [
        "usage",
        "--key",
        key,
        "--since",
        "2026-11-01",
        "--until",
        "2026-11-20",
        "--by",
        "day",
    ];
    run(service.address, &words).await.ok();
    let expected =
        format!("/admin/usage/summary?by=day&since=2026-11-01&until=2026-11-20&key={key}");
    assert_eq!(service.asked(), [expected]);
}
