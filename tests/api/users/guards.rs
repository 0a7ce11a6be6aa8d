//! What strangers and members try at the admin service (RELIABILITY 23). The edge serves meanwhile.

use base64::Engine as _;
use reqwest::Method;
use serde_json::{Value, json};

use super::house::{House, PASSWORD};
use crate::reply::reply;
use crate::support::rig::{CHAT, chat};

on_both_stores!(
    guessing_is_slowed_at_every_sign_in,
    forged_tokens_are_nobodys,
    members_are_no_operators,
    a_name_is_text_and_nothing_else,
);

/// Serves a request, whatever happens at the admin port.
async fn edge_serves(house: &House) {
    let key = house.rig.admin().key(0).await;
    let answer = house.rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
    assert_eq!(answer.status(), 200);
}

async fn guessing_is_slowed_at_every_sign_in(house: House) {
    house.register("ada").await;
    // A name and its address are one thing to guess at.
    let logins = ["ada", "ada@example.com", "ADA"];
    let mut refused = 0;
    for n in 0..12 {
        let reply = house.sign_in(logins[n % 3], "a guess at it").await;
        refused += usize::from(reply.status == 429);
        if reply.status == 429 {
            assert!(
                reply.headers["retry-after"]
                    .to_str()
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
                    > 0
            );
        }
        assert!([401, 429].contains(&reply.status), "{reply:?}");
    }
    assert!(refused >= 6, "{refused}");
    // The right password is not tried meanwhile: no guesser learns from it.
    assert_eq!(house.sign_in("ada", PASSWORD).await.status, 429);
    let statuses = async |request: &dyn Fn(usize) -> reqwest::RequestBuilder| {
        let mut statuses = Vec::new();
        for n in 0..12 {
            statuses.push(reply(request(n)).await.status);
        }
        statuses
    };
    let basic = |_| {
        let request = house.request(Method::POST, "/admin/login");
        request.basic_auth("admin", Some("a guess at it"))
    };
    assert!(statuses(&basic).await.contains(&429));
    let bearer = |n| {
        let request = house.request(Method::GET, "/admin/users");
        request.bearer_auth(format!("a-guess-at-the-token-{n}"))
    };
    assert!(statuses(&bearer).await.contains(&429));
    edge_serves_without_admin(&house).await;
}

/// The admin token is being guessed at from here: the key is refused as unknown, not held up.
async fn edge_serves_without_admin(house: &House) {
    let answer = house
        .rig
        .post(CHAT, "sk-proxy_nobody", &chat("gpt-4o"))
        .await;
    assert_eq!(answer.status(), 401);
}

async fn forged_tokens_are_nobodys(house: House) {
    let good = house.member("ada").await;
    let [head, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("{good}");
    };
    let text =
        |value: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let none = text(json!({"alg": "none", "typ": "JWT"}));
    let claimed = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(claims)
        .unwrap();
    let mut claimed: Value = serde_json::from_slice(&claimed).unwrap();
    claimed["exp"] = json!(1);
    let expired = text(claimed.clone());
    claimed["exp"] = json!(i64::MAX);
    let lasting = text(claimed);
    for forged in [
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{signature}"),
        format!("{head}.{expired}.{signature}"),
        format!("{head}.{lasting}.{signature}"),
    ] {
        let reply = house.get(&forged, "/api/auth/me").await;
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
        reply.detail(401);
    }
    house.get(&good, "/api/auth/me").await.ok();
    edge_serves(&house).await;
}

async fn members_are_no_operators(house: House) {
    let ada = house.member("ada").await;
    let document = house.get(&ada, "/openapi.json").await.ok();
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let open = ["/admin/login", "/admin/logout"].contains(&path.as_str());
        if !path.starts_with("/admin/") || open {
            continue;
        }
        let path = path.replace("{id}", "7b0d0e5c-0000-4000-8000-000000000000");
        for method in item.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            let reply = house.call(&ada, &method, &path, Value::Null).await;
            assert_eq!(reply.status, 403, "{method} {path}: {}", reply.text);
            asked += 1;
        }
    }
    assert!(asked > 20, "{asked}");
    edge_serves(&house).await;
}

async fn a_name_is_text_and_nothing_else(house: House) {
    let ada = house.member("ada").await;
    let name = "<script>alert(1)</script>\" onload=x";
    let key = json!({"name": name});
    for (bearer, path, body) in [
        (ada.as_str(), "/api/v1/api-keys", key.clone()),
        (crate::support::admin::TOKEN, "/admin/api-keys", key.clone()),
        (crate::support::admin::TOKEN, "/admin/groups", key),
    ] {
        for (method, body) in [("POST", body), ("GET", Value::Null)] {
            let reply = house.call(bearer, method, path, body).await;
            assert_eq!(reply.headers["content-type"], "application/json");
            assert_eq!(reply.headers["x-content-type-options"], "nosniff");
            assert_eq!(reply.headers["cache-control"], "no-store");
            let text = reply.ok().to_string();
            assert!(text.contains("<script>"), "{text}");
        }
    }
    // No cookie signs anybody in: nothing that a foreign page sends is believed.
    let request = house.request(Method::POST, "/admin/groups");
    let request = request.header("cookie", format!("session={ada}; token={ada}"));
    reply(request.json(&json!({"name": "x"}))).await.detail(401);
    edge_serves(&house).await;
}
