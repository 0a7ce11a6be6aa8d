//! The admin API as a client meets it: names, statuses, validation, audit.

use super::rig::{Rig, START, TOKEN};
use axum::body::Body;
use quota_proxy::keys::KeyId;
use quota_proxy::store::StoreError;
use serde_json::{Value, json};
use uuid::Uuid;

fn names(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

fn key_id(id: &str) -> KeyId {
    KeyId(Uuid::parse_str(id).unwrap())
}

#[tokio::test]
async fn a_key_is_made_with_the_defaults_and_shows_its_secret_once() {
    let rig = Rig::new();
    let made = rig
        .send("POST", "/admin/api-keys", &json!({"name": "ci"}))
        .await;
    let made = made.ok();
    let expected = [
        "api_key",
        "created_at",
        "description",
        "expires_at",
        "id",
        "name",
        "rate_limit_tier",
        "token_limit",
    ];
    assert_eq!(names(&made), expected);
    assert_eq!(made["token_limit"], 1_000_000);
    assert_eq!(made["rate_limit_tier"], "basic");
    assert_eq!(made["expires_at"], Value::Null);
    assert_eq!(made["created_at"], START.to_rfc3339());
    let secret = made["api_key"].as_str().unwrap();
    assert!(
        secret.starts_with("sk-proxy_") && secret.len() == 9 + 43,
        "{secret}"
    );

    // Nothing else ever shows it.
    let id = made["id"].as_str().unwrap();
    for uri in [
        "/admin/api-keys",
        &format!("/admin/api-keys/{id}"),
        &format!("/admin/api-keys/{id}/stats"),
        "/admin/audit",
        "/metrics",
    ] {
        let reply = rig.get(uri).await;
        assert_eq!(reply.status, 200);
        assert!(!reply.text.contains(&secret[9..]), "{uri}: {}", reply.text);
    }
}

#[tokio::test]
async fn every_field_of_a_create_is_kept() {
    let rig = Rig::new();
    let body = json!({
        "name": "n", "description": "d", "token_limit": 0, "rate_limit_tier": "premium",
        "expires_in_days": 365, "allowed_ips": ["10.0.0.1", "2001:db8::/32"],
        "denied_ips": ["10.1.2.3/8"], "allowed_origins": ["*.example.com"],
        "allowed_models": ["gpt-*"], "metadata": {"team": [1]}, "request_limit": 1000,
        "usd_limit": 12.345678901, "period": "daily", "prefix": "roc",
    });
    let (id, secret) = rig.key(body).await;
    assert!(secret.starts_with("roc_"));
    let item = rig.get(&format!("/admin/api-keys/{id}")).await.ok();
    let expected = json!({
        "name": "n", "description": "d", "token_limit": 0, "token_used": null,
        "token_remaining": null, "usage_percentage": 0.0, "rate_limit_tier": "premium",
        "request_count": 0, "error_count": 0, "is_active": true, "last_used_at": null,
        "expires_at": START.plus_ms(365 * 86_400_000).to_rfc3339(), "seq": 1, "prefix": "roc",
        "request_limit": 1000, "request_used": 0, "request_remaining": 1000,
        "usd_limit": 12.345678901, "usd_used": 0.0, "period": "daily",
        "allowed_ips": ["10.0.0.1/32", "2001:db8::/32"], "denied_ips": ["10.0.0.0/8"],
        "allowed_origins": ["*.example.com"], "allowed_models": ["gpt-*"],
        "metadata": {"team": [1]},
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&item[name], value, "{name}");
    }
}

#[tokio::test]
async fn faults_of_a_create_are_422_and_name_the_field() {
    let rig = Rig::new();
    let long = "x".repeat(256);
    let cases = [
        (json!({}), "name: is required"),
        (json!({"name": null}), "name: is required"),
        (json!({"name": "  "}), "name: found"),
        (json!({"name": long}), "1 to 255 characters"),
        (
            json!({"name": "n", "description": "d".repeat(1001)}),
            "description: found",
        ),
        (
            json!({"name": "n", "token_limit": -1}),
            "token_limit: found -1",
        ),
        (
            json!({"name": "n", "token_limit": "5"}),
            "token_limit: found \"5\"",
        ),
        (
            json!({"name": "n", "token_limit": 1.5}),
            "token_limit: found 1.5",
        ),
        (
            json!({"name": "n", "usd_limit": -0.5}),
            "usd_limit: found -0.5",
        ),
        (
            json!({"name": "n", "rate_limit_tier": "gold"}),
            "one of basic, premium, unlimited",
        ),
        (json!({"name": "n", "expires_in_days": 0}), "from 1 to 365"),
        (
            json!({"name": "n", "expires_in_days": 366}),
            "from 1 to 365",
        ),
        (
            json!({"name": "n", "expires_at": "2020-01-01"}),
            "expires_at: found",
        ),
        (
            json!({"name": "n", "expires_in_days": 1, "expires_at": "2027-01-01"}),
            "not both",
        ),
        (
            json!({"name": "n", "allowed_ips": ["10.0.0.300"]}),
            "allowed_ips: found",
        ),
        (
            json!({"name": "n", "allowed_origins": ["a b"]}),
            "allowed_origins: found",
        ),
        (
            json!({"name": "n", "allowed_models": [""]}),
            "allowed_models: found",
        ),
        (json!({"name": "n", "metadata": []}), "metadata: found"),
        (json!({"name": "n", "prefix": "a b"}), "prefix: found"),
        (
            json!({"name": "n", "prefix": "x".repeat(33)}),
            "prefix: found",
        ),
        (json!({"name": "n", "prefix": "-a"}), "prefix: found"),
        (
            json!({"name": "n", "period": "hourly"}),
            "total, daily, weekly or monthly",
        ),
        (
            json!({"name": "n", "group": "none"}),
            "the id or name of a group",
        ),
        (
            json!({"name": "n", "token_limt": 5}),
            "did you mean token_limit?",
        ),
        (json!([]), "must be a JSON object"),
        (json!("x"), "must be a JSON object"),
    ];
    for (body, expected) in cases {
        let detail = rig.send("POST", "/admin/api-keys", &body).await.detail(422);
        assert!(detail.contains(expected), "{body}: {detail}");
    }
    let raw = [
        "",
        "{",
        "nonsense",
        "{\"name\":\"a\",\"name\":\"b\"}",
        "{\"name\":\"\\ud800\"}",
    ];
    for body in raw {
        let ask = rig.ask("POST", "/admin/api-keys").bearer(TOKEN);
        ask.send(body).await.detail(422);
    }
    assert_eq!(rig.get("/admin/api-keys").await.ok()["total"], 0);
    assert!(rig.store.audit_entries().await.is_empty());
}

#[tokio::test]
async fn a_body_has_a_bound() {
    let rig = Rig::new();
    let body = format!(r#"{{"name":"{}"}}"#, "x".repeat(1024 * 1024));
    let ask = rig.ask("POST", "/admin/api-keys").bearer(TOKEN);
    ask.send(body).await.detail(413);
}

#[tokio::test]
async fn a_list_has_pages() {
    let rig = Rig::new();
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(rig.key(json!({"name": format!("k{n}")})).await.0);
    }
    let off = format!("/admin/api-keys/{}/disable", ids[1]);
    rig.send("POST", &off, &json!({})).await.ok();
    let page = rig.get("/admin/api-keys?skip=1&limit=2").await.ok();
    assert_eq!(names(&page), ["items", "limit", "skip", "total"]);
    let shown: Vec<_> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| &i["name"])
        .collect();
    assert_eq!(shown, ["k1", "k2"]);
    assert_eq!(
        (&page["total"], &page["skip"], &page["limit"]),
        (&json!(5), &json!(1), &json!(2))
    );
    let active = rig.get("/admin/api-keys?active_only=true").await.ok();
    assert_eq!(active["total"], 4);
    for bad in [
        "limit=0",
        "limit=1001",
        "skip=-1",
        "limit=abc",
        "active_only=maybe",
    ] {
        rig.get(&format!("/admin/api-keys?{bad}")).await.detail(422);
    }
}

#[tokio::test]
async fn a_change_touches_what_it_names_and_null_empties() {
    let rig = Rig::new();
    let body = json!({"name": "n", "description": "d", "expires_in_days": 3, "usd_limit": 5,
        "allowed_models": ["gpt-*"]});
    let (id, _) = rig.key(body).await;
    let uri = format!("/admin/api-keys/{id}");
    let body = json!({"token_limit": 5, "description": null, "expires_in_days": null});
    let item = rig.send("PATCH", &uri, &body).await.ok();
    assert_eq!(item["token_limit"], 5);
    assert_eq!(item["description"], Value::Null);
    assert_eq!(item["expires_at"], Value::Null);
    assert_eq!(item["name"], "n");
    assert_eq!(item["usd_limit"], 5.0);
    assert_eq!(item["allowed_models"], json!(["gpt-*"]));
    for bad in [
        json!({"name": null}),
        json!({"prefix": "x"}),
        json!({"token_limit": -2}),
    ] {
        rig.send("PATCH", &uri, &bad).await.detail(422);
    }
    let item = rig
        .send("PATCH", &uri, &json!({"is_active": false}))
        .await
        .ok();
    assert_eq!(item["is_active"], false);
}

#[tokio::test]
async fn changes_at_the_same_time_are_applied_one_after_the_other() {
    let rig = Rig::new();
    let (id, _) = rig.key(json!({"name": "n"})).await;
    let uri = format!("/admin/api-keys/{id}");
    rig.store.race(3);
    rig.send("PATCH", &uri, &json!({"name": "m"})).await.ok();
    rig.store.race(99);
    rig.send("PATCH", &uri, &json!({"name": "o"}))
        .await
        .detail(409);
}

#[tokio::test]
async fn figures_of_a_used_key() {
    let rig = Rig::new();
    let (id, _) = rig.key(json!({"name": "n", "token_limit": 1000})).await;
    rig.store.book(key_id(&id), 1200, 75_000, START).await;
    let uri = format!("/admin/api-keys/{id}");
    let stats = rig.get(&format!("{uri}/stats")).await.ok();
    assert_eq!(stats["token_used"], 1200);
    assert_eq!(stats["token_remaining"], 0);
    assert_eq!(stats["usage_percentage"], 120.0);
    assert_eq!(stats["is_expired"], false);
    rig.send("POST", &format!("{uri}/reset"), &json!({}))
        .await
        .ok();
    let item = rig.get(&uri).await.ok();
    assert_eq!(item["token_used"], 0);
    assert_eq!(item["token_remaining"], 1000);
    let last = rig.store.audit_entries().await.remove(0);
    assert_eq!(last.what, "reset key");
    assert_eq!(last.before.unwrap()["used"]["tokens"], 1200);
}

#[tokio::test]
async fn deleting_softly_and_for_good() {
    let rig = Rig::new();
    let (id, secret) = rig.key(json!({"name": "n"})).await;
    let uri = format!("/admin/api-keys/{id}");
    let gone = rig.send("DELETE", &uri, &json!({})).await.ok();
    assert_eq!(names(&gone), ["message"]);
    rig.get(&uri).await.detail(404);
    rig.send("DELETE", &uri, &json!({})).await.detail(404);
    rig.send("POST", &format!("{uri}/enable"), &json!({}))
        .await
        .detail(404);
    rig.ask("GET", "/api/usage/quota")
        .bearer(&secret)
        .send("")
        .await
        .detail(401);
    rig.send("DELETE", &format!("{uri}?hard_delete=true"), &json!({}))
        .await
        .ok();
    rig.send("DELETE", &format!("{uri}?hard_delete=true"), &json!({}))
        .await
        .detail(404);
}

#[tokio::test]
async fn rotating_shows_a_new_secret_and_keeps_the_old_one_for_a_while() {
    let rig = Rig::new();
    let (id, old) = rig.key(json!({"name": "n"})).await;
    let uri = format!("/admin/api-keys/{id}/rotate");
    let ask = rig.ask("POST", &uri).bearer(TOKEN);
    let rotated = ask.send(Body::empty()).await.ok();
    assert_ne!(rotated["api_key"], old.as_str());
    let until = START.plus_ms(86_400_000).to_rfc3339();
    assert_eq!(rotated["previous_valid_until"], until);
    let rotated = rig
        .send("POST", &uri, &json!({"grace_seconds": 0}))
        .await
        .ok();
    assert_eq!(rotated["previous_valid_until"], Value::Null);
    let new = rotated["api_key"].as_str().unwrap();
    rig.ask("GET", "/api/usage/quota")
        .bearer(new)
        .send("")
        .await
        .ok();
    for bad in [json!({"grace_seconds": -1}), json!({"grace": 5})] {
        rig.send("POST", &uri, &bad).await.detail(422);
    }
}

#[tokio::test]
async fn ids_that_are_none_are_not_found() {
    let rig = Rig::new();
    let none = Uuid::nil().to_string();
    for id in [
        none.as_str(),
        "x",
        "%00",
        "%FF",
        "%2e%2e",
        "..",
        "1",
        "a%2Fb",
        "%E4%BD%A0",
        "%",
    ] {
        for (method, tail) in [
            ("GET", ""),
            ("PATCH", ""),
            ("DELETE", ""),
            ("GET", "/stats"),
            ("POST", "/disable"),
            ("POST", "/rotate"),
            ("POST", "/reset"),
        ] {
            for family in ["api-keys", "groups"] {
                let uri = format!("/admin/{family}/{id}{tail}");
                let reply = rig.send(method, &uri, &json!({})).await;
                reply.detail(404);
            }
        }
    }
    rig.send("PUT", "/admin/api-keys", &json!({}))
        .await
        .detail(405);
    rig.get("/admin/nothing").await.detail(404);
}

#[tokio::test]
async fn every_change_is_audited_without_secrets() {
    let rig = Rig::new();
    let (id, secret) = rig.key(json!({"name": "n"})).await;
    let uri = format!("/admin/api-keys/{id}");
    rig.send("POST", &format!("{uri}/disable"), &json!({}))
        .await
        .ok();
    rig.send("PATCH", &uri, &json!({"name": "m"})).await.ok();
    rig.send("POST", &format!("{uri}/rotate"), &json!({}))
        .await
        .ok();
    rig.send("DELETE", &uri, &json!({})).await.ok();
    let page = rig.get("/admin/audit?limit=3").await.ok();
    assert_eq!(page["total"], 5);
    let whats: Vec<_> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["what"])
        .collect();
    assert_eq!(whats, ["delete key", "rotate key", "change key"]);
    let change = &page["items"][2];
    assert_eq!(change["who"], "token");
    assert_eq!(change["subject"], id.as_str());
    assert_eq!(change["at"], START.to_rfc3339());
    assert_eq!(
        (&change["before"]["name"], &change["after"]["name"]),
        (&json!("n"), &json!("m"))
    );
    let text = page.to_string();
    assert!(
        !text.contains(&secret[9..]) && !text.contains("hash"),
        "{text}"
    );
}

#[tokio::test]
async fn groups_have_quotas_and_count_their_keys() {
    let rig = Rig::new();
    let body = json!({"name": "team", "allowed_models": ["gpt-*"],
        "quotas": {"tokens": {"limit": 5000, "period": "monthly"}, "usd": {"limit": 2.5}}});
    let group = rig.send("POST", "/admin/groups", &body).await.ok();
    assert_eq!(
        group["quotas"]["tokens"],
        json!({"limit": 5000, "period": "monthly"})
    );
    assert_eq!(
        group["quotas"]["usd"],
        json!({"limit": 2.5, "period": "total"})
    );
    rig.send("POST", "/admin/groups", &body).await.detail(409);
    let id = group["id"].as_str().unwrap();
    let uri = format!("/admin/groups/{id}");
    rig.key(json!({"name": "by name", "group": "team"})).await;
    let (key, _) = rig.key(json!({"name": "by id", "group": id})).await;
    assert_eq!(rig.get(&uri).await.ok()["key_count"], 2);
    assert!(
        rig.send("DELETE", &uri, &json!({}))
            .await
            .detail(409)
            .contains("2 keys")
    );
    let body = json!({"quotas": {"tokens": null, "usd": {"period": "daily"}}});
    let group = rig.send("PATCH", &uri, &body).await.ok();
    assert_eq!(
        group["quotas"]["tokens"],
        json!({"limit": 0, "period": "total"})
    );
    assert_eq!(
        group["quotas"]["usd"],
        json!({"limit": 2.5, "period": "daily"})
    );
    rig.send(
        "PATCH",
        &format!("/admin/api-keys/{key}"),
        &json!({"group": null}),
    )
    .await
    .ok();
    assert_eq!(rig.get("/admin/groups").await.ok()[0]["key_count"], 1);
    for (bad, expected) in [
        (
            json!({"name": "x", "quotas": {"tokens": {"limit": -1}}}),
            "quotas.tokens.limit: found -1",
        ),
        (
            json!({"name": "x", "quotas": {"token": {}}}),
            "quotas.token: unknown field, did you mean tokens?",
        ),
        (json!({"quotas": {}}), "name: is required"),
        (json!({"name": "x", "quotas": 5}), "quotas: "),
    ] {
        let detail = rig.send("POST", "/admin/groups", &bad).await.detail(422);
        assert!(detail.contains(expected), "{detail}");
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_503_and_a_broken_one_says_nothing_of_itself() {
    let rig = Rig::new();
    rig.store
        .fail(Some(StoreError::Unavailable(String::from("at 10.0.0.5"))));
    let reply = rig.get("/admin/api-keys").await;
    assert_eq!(reply.headers["retry-after"], "1");
    assert!(!reply.detail(503).contains("10.0.0.5"));
    rig.store
        .fail(Some(StoreError::Fault(String::from("secret thing"))));
    assert!(
        !rig.get("/admin/api-keys")
            .await
            .detail(500)
            .contains("secret thing")
    );
    // Metrics do not need it.
    assert_eq!(rig.ask("GET", "/metrics").send("").await.status, 200);
}

#[test]
fn no_body_breaks_anything() {
    use proptest::prelude::*;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rig = Rig::new();
    let (id, _) = runtime.block_on(rig.key(json!({"name": "n"})));
    let values =
        r#"null|true|-1|0|1e999|9{1,30}|"[a-z*.:/ é]{0,8}"|\[("a"|1|\[\])?\]|\{("a":1)?\}"#;
    let fields = "name|description|token_limit|usd_limit|rate_limit_tier|expires_in_days|expires_at|\
        allowed_ips|allowed_origins|allowed_models|metadata|period|prefix|group|is_active|[a-z]{0,5}";
    let bodies = proptest::collection::vec((fields, values), 0..6);
    proptest!(ProptestConfig::with_cases(300), |(body in bodies, cut in 0..200_usize)| {
        let pairs: Vec<_> = body.iter().map(|(n, v)| format!("\"{n}\":{v}")).collect();
        let mut text = format!("{{{}}}", pairs.join(","));
        if cut < text.len() && cut % 3 == 0 && text.is_char_boundary(cut) {
            text.truncate(cut);
        }
        for (method, uri) in [
            ("POST", String::from("/admin/api-keys")),
            ("PATCH", format!("/admin/api-keys/{id}")),
            ("POST", format!("/admin/api-keys/{id}/rotate")),
            ("POST", String::from("/admin/groups")),
        ] {
            let ask = rig.ask(method, &uri).bearer(TOKEN);
            let reply = runtime.block_on(ask.send(text.clone()));
            let expected = [200, 409, 422].contains(&reply.status);
            prop_assert!(expected, "{} {}: {}", method, text, reply.text);
        }
    });
}
