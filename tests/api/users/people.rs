//! Who registers, signs in and out, and what operators do with users.

use reqwest::Method;
use serde_json::{Value, json};

use super::house::{House, OPERATOR_PASSWORD, PASSWORD};
use crate::reply::reply;
use crate::support::admin::TOKEN;
use crate::support::rig::Rig;

on_both_stores!(
    members_register_and_sign_in_and_out,
    a_registration_is_checked,
    the_operator_signs_in_like_everybody,
    operators_make_and_change_users,
    a_change_that_matters_ends_sessions,
);

async fn members_register_and_sign_in_and_out(house: House) {
    let made = house.register("ada").await;
    assert_eq!(
        (&made["username"], &made["role"]),
        (&json!("ada"), &json!("member"))
    );
    assert_eq!(made["email"], "ada@example.com");
    for login in ["ada", "ADA", "ada@example.com"] {
        let session = house.sign_in(login, PASSWORD).await.ok();
        assert_eq!(session["token_type"], "bearer");
        assert_eq!(session["expires_in"], 1_800);
        let token = session["access_token"].as_str().unwrap();
        assert_eq!(house.get(token, "/api/auth/me").await.ok(), made);
        let out = house
            .call(token, "POST", "/api/auth/logout", Value::Null)
            .await;
        assert!(out.ok()["message"].is_string());
        house.get(token, "/api/auth/me").await.detail(401);
    }
    for (login, password) in [("ada", "a wrong password"), ("nobody", PASSWORD)] {
        let why = house.sign_in(login, password).await.detail(401);
        assert_eq!(why, "the user name or the password is wrong");
    }
}

async fn a_registration_is_checked(house: House) {
    house.register("ada").await;
    let with = |name: &str, email: &str, password: &str| json!({"username": name, "email": email, "password": password});
    for (taken, why) in [
        (with("Ada", "b@example.com", PASSWORD), "taken"),
        (with("bob", "ADA@example.com", PASSWORD), "taken"),
        (with("Admin", "b@example.com", PASSWORD), "taken"),
    ] {
        let told = house
            .post_open("/api/auth/register", taken)
            .await
            .detail(409);
        assert!(told.contains(why), "{told}");
    }
    for (bad, field) in [
        (with("a", "b@example.com", PASSWORD), "username"),
        (with("bob@home", "b@example.com", PASSWORD), "username"),
        (with("bob", "example.com", PASSWORD), "email"),
        (with("bob", "b@example.com", "s3cret!"), "password"),
        (
            json!({"username": "bob"}),
            "email: is required; password: is required",
        ),
        (
            json!({"username": "bob", "role": "admin"}),
            "role: unknown field",
        ),
    ] {
        let told = house.post_open("/api/auth/register", bad).await.detail(422);
        assert!(told.contains(field) && !told.contains("s3cret!"), "{told}");
    }
}

async fn the_operator_signs_in_like_everybody(house: House) {
    let token = house.session("admin", OPERATOR_PASSWORD).await;
    let me = house.get(&token, "/api/auth/me").await.ok();
    assert_eq!(me["id"], "00000000-0000-0000-0000-000000000000");
    assert_eq!(
        (&me["username"], &me["role"]),
        (&json!("admin"), &json!("admin"))
    );
    house.get(&token, "/admin/users").await.ok();
    house
        .call(&token, "POST", "/admin/logout", Value::Null)
        .await
        .ok();
    house.get(&token, "/admin/users").await.detail(401);
    // The longer session of /admin/login ends the same way.
    let request = house.request(Method::POST, "/admin/login");
    let request = request.basic_auth("admin", Some(OPERATOR_PASSWORD));
    let session = reply(request).await.ok();
    let token = session["access_token"].as_str().unwrap();
    assert_eq!(session["expires_in"], 86_400);
    house
        .call(token, "POST", "/admin/logout", Value::Null)
        .await
        .ok();
    house.get(token, "/admin/users").await.detail(401);
    // The static token is no session.
    house
        .operate("POST", "/api/auth/logout", Value::Null)
        .await
        .ok();
    assert_eq!(house.get(TOKEN, "/api/auth/me").await.ok()["role"], "admin");
}

async fn operators_make_and_change_users(house: House) {
    house
        .operate("POST", "/admin/groups", json!({"name": "team"}))
        .await
        .ok();
    let body = json!({
        "username": "grace", "email": "grace@example.com", "password": PASSWORD,
        "role": "admin", "groups": ["team"],
    });
    let made = house
        .operate("POST", "/admin/users", body.clone())
        .await
        .ok();
    assert_eq!(
        (&made["role"], &made["active"]),
        (&json!("admin"), &json!(true))
    );
    assert_eq!(made["groups"].as_array().unwrap().len(), 1);
    house
        .operate("POST", "/admin/users", body)
        .await
        .detail(409);
    let grace = house.session("grace", PASSWORD).await;
    house.register("hopper").await;
    let page = house.get(&grace, "/admin/users?limit=1").await.ok();
    assert_eq!((&page["total"], &page["items"][0]), (&json!(2), &made));
    let uri = format!("/admin/users/{}", made["id"].as_str().unwrap());
    assert_eq!(house.get(&grace, &uri).await.ok(), made);
    // The session goes on with other rights.
    let changed = house
        .operate("PATCH", &uri, json!({"role": "member", "groups": null}))
        .await;
    let changed = changed.ok();
    assert_eq!(
        (&changed["role"], &changed["groups"]),
        (&json!("member"), &json!([]))
    );
    house.get(&grace, "/admin/users").await.detail(403);
    let taken = json!({"email": "hopper@example.com"});
    house.operate("PATCH", &uri, taken).await.detail(409);
    for (bad, field) in [
        (json!({"role": "owner"}), "role"),
        (json!({"groups": ["none"]}), "groups"),
        (json!({"username": "new"}), "username"),
    ] {
        let told = house.operate("PATCH", &uri, bad).await.detail(422);
        assert!(told.contains(field), "{told}");
    }
    house.operate("DELETE", &uri, Value::Null).await.ok();
    house.get(&grace, "/api/auth/me").await.detail(401);
    for method in ["GET", "PATCH", "DELETE"] {
        house.operate(method, &uri, json!({})).await.detail(404);
    }
    house
        .operate("GET", "/admin/users/none", Value::Null)
        .await
        .detail(404);
    let log = house.operate("GET", "/admin/audit", Value::Null).await.ok();
    let whats: Vec<&str> = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|entry| entry["what"].as_str())
        .collect();
    let expected = [
        "delete user",
        "change user",
        "register user",
        "create user",
        "create group",
    ];
    assert_eq!(whats, expected);
    let text = log.to_string();
    assert!(
        !text.contains("argon2") && !text.contains(PASSWORD),
        "{text}"
    );
}

async fn a_change_that_matters_ends_sessions(house: House) {
    let first = house.member("ada").await;
    let id = house.get(&first, "/api/auth/me").await.ok()["id"].clone();
    let uri = format!("/admin/users/{}", id.as_str().unwrap());
    house
        .operate("PATCH", &uri, json!({"email": "new@example.com"}))
        .await
        .ok();
    house.get(&first, "/api/auth/me").await.ok();
    house
        .operate("PATCH", &uri, json!({"password": "another password"}))
        .await
        .ok();
    house.get(&first, "/api/auth/me").await.detail(401);
    house.sign_in("ada", PASSWORD).await.detail(401);
    let second = house.session("ada", "another password").await;
    house
        .operate("PATCH", &uri, json!({"active": false}))
        .await
        .ok();
    house.get(&second, "/api/auth/me").await.detail(401);
    house.sign_in("ada", "another password").await.detail(403);
    house
        .operate("PATCH", &uri, json!({"active": true}))
        .await
        .ok();
    house.session("ada", "another password").await;
}

#[tokio::test]
async fn registration_is_off_by_default() {
    let rig = Rig::start().await;
    let url = format!("http://{}/api/auth/register", rig.process().admin);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let body = json!({"username": "ada", "email": "a@example.com", "password": PASSWORD});
    let answer = http.post(url).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 403);
}
