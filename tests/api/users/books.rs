//! What operators ask of the books: sums, invariants, what every key has used.

use serde_json::{Value, json};

use super::house::House;
use crate::reply::reply;
use crate::support::admin::TOKEN;
use crate::support::rig::{CHAT, chat};

on_both_stores!(
    usage_is_summed_up_in_every_way,
    the_books_are_in_order_and_say_so,
    a_page_of_keys_has_all_figures,
);

/// Two keys, one in a group, and an answer of 20 tokens to each.
async fn used(house: &House) -> (Value, Value) {
    house
        .operate("POST", "/admin/groups", json!({"name": "team"}))
        .await
        .ok();
    let make = async |body: Value| house.operate("POST", "/admin/api-keys", body).await.ok();
    let one = make(json!({"name": "=one", "group": "team"})).await;
    let two = make(json!({"name": "two, too"})).await;
    for (key, model, user) in [(&one, "gpt-4o", "u1"), (&two, "gpt-4o-mini", "u2")] {
        let mut body = chat(model);
        body["user"] = json!(user);
        let secret = key["api_key"].as_str().unwrap();
        let answer = house.rig.post(CHAT, secret, &body).await;
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap();
    }
    house.rig.admin().settled().await;
    (one, two)
}

async fn usage_is_summed_up_in_every_way(house: House) {
    let (one, _) = used(&house).await;
    let summary = async |query: &str| {
        let path = format!("/admin/usage/summary?{query}");
        house.operate("GET", &path, Value::Null).await.ok()
    };
    for (by, names) in [
        ("key", ["=one", "two, too"]),
        ("model", ["gpt-4o", "gpt-4o-mini"]),
        ("group", ["", "team"]),
        ("end_user", ["u1", "u2"]),
    ] {
        let sums = summary(&format!("by={by}&since=1d")).await;
        let items = sums["items"].as_array().unwrap();
        let mut found: Vec<&str> = items.iter().map(|i| i["name"].as_str().unwrap()).collect();
        found.sort_unstable();
        assert_eq!((&sums["by"], found), (&json!(by), names.to_vec()), "{sums}");
        assert_eq!(sums["total"]["requests"], 2);
        assert_eq!(sums["total"]["completion_tokens"], 40);
        let tokens: i64 = items.iter().map(|i| i["tokens"].as_i64().unwrap()).sum();
        assert_eq!(sums["total"]["tokens"], tokens);
        assert!(
            items
                .iter()
                .all(|i| i["requests"] == 1 && i["errors"] == 0 && i["cost"].is_number())
        );
    }
    let keys = summary("").await;
    let found = keys["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|i| i["name"] == "=one");
    assert_eq!(found.unwrap()["key"], one["id"]);
    let days = summary("by=day").await;
    assert_eq!(days["items"].as_array().unwrap().len(), 1);
    assert_eq!(summary("since=2d&until=1d").await["total"]["calls"], 0);
    for bad in [
        "by=year",
        "since=then",
        "until=-1d",
        "format=xml",
        "since=1d&until=2d",
    ] {
        let path = format!("/admin/usage/summary?{bad}");
        house.operate("GET", &path, Value::Null).await.detail(422);
    }
    let csv = house.get(TOKEN, "/admin/usage/summary?format=csv").await;
    assert_eq!(csv.headers["content-type"], "text/csv; charset=utf-8");
    let mut lines = csv.text.lines();
    let header = "key,name,requests,calls,tokens,prompt_tokens,completion_tokens,cost,errors";
    assert_eq!(lines.next(), Some(header));
    let rest: Vec<&str> = lines.collect();
    assert_eq!(rest.len(), 2);
    assert!(
        rest.iter().any(|line| line.contains(",\"'=one\",1,1,")),
        "{rest:?}"
    );
    assert!(
        rest.iter().any(|line| line.contains(",\"two, too\",1,1,")),
        "{rest:?}"
    );
    let request = house.request(reqwest::Method::GET, "/admin/usage/summary?by=model");
    let request = request.bearer_auth(TOKEN).header("accept", "text/csv");
    assert!(reply(request).await.text.starts_with("model,requests,"));
}

async fn the_books_are_in_order_and_say_so(house: House) {
    used(&house).await;
    let books = house
        .operate("GET", "/admin/invariants", Value::Null)
        .await
        .ok();
    assert_eq!(books["holds"], true, "{books}");
    assert_eq!(
        (&books["open_reservations"], &books["held"]["tokens"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(books["settled"]["requests"], 2);
    let checks = books["checks"].as_array().unwrap();
    let ids: Vec<&str> = checks.iter().map(|c| c["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["I1", "I2", "I3", "I4", "I5"]);
}

async fn a_page_of_keys_has_all_figures(house: House) {
    let (one, _) = used(&house).await;
    let page = house
        .operate("GET", "/admin/api-keys?limit=1000", Value::Null)
        .await
        .ok();
    let shown = &page["items"][0];
    assert_eq!(
        (&shown["id"], &shown["request_count"]),
        (&one["id"], &json!(1))
    );
    assert!(shown["token_used"].as_i64() > Some(0) && shown["last_used_at"].is_string());
    let uri = format!("/admin/api-keys/{}", one["id"].as_str().unwrap());
    assert_eq!(&house.operate("GET", &uri, Value::Null).await.ok(), shown);
    let stats = house
        .operate("GET", &format!("{uri}/stats"), Value::Null)
        .await
        .ok();
    assert_eq!(
        (&stats["is_expired"], &stats["name"]),
        (&json!(false), &json!("=one"))
    );
}
