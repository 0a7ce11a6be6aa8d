//! Who may use the admin port, and what it tells to whom.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::rig::{Rig, START, TOKEN};
use argon2::Argon2;
use argon2::password_hash::PasswordHasher as _;
use argon2::password_hash::phc::PasswordHash;
use axum::body::Body;
use quota_proxy::config::SecretText;
use quota_proxy::keys::KeyId;
use quota_proxy::store::StoreError;
use serde_json::{Value, json};
use uuid::Uuid;

async fn session(rig: &Rig) -> String {
    let ask = rig.ask("POST", "/admin/login").basic("admin", "a-password");
    let answer = ask.send("").await.ok();
    assert_eq!(answer["token_type"], "bearer");
    assert_eq!(answer["expires_in"], 86_400);
    answer["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn everything_but_the_listed_paths_asks_for_an_operator() {
    let rig = Rig::new();
    for open in ["/", "/health", "/healthz", "/metrics"] {
        assert_eq!(rig.ask("GET", open).send("").await.status, 200, "{open}");
    }
    for (method, path) in [
        ("GET", "/admin/api-keys"),
        ("POST", "/admin/api-keys"),
        ("DELETE", "/admin/api-keys/x"),
        ("GET", "/admin/audit"),
        ("GET", "/admin/groups"),
        ("GET", "/nothing"),
        ("GET", "//metrics"),
        ("GET", "/metrics/"),
        ("GET", "/%6detrics"),
        ("PUT", "/admin/api-keys"),
        ("GET", "/admin/login/x"),
        ("OPTIONS", "/admin/api-keys"),
    ] {
        let reply = rig.ask(method, path).send("{}").await;
        assert_eq!(reply.headers["www-authenticate"], "Bearer", "{path}");
        assert_eq!(reply.headers["cache-control"], "no-store", "{path}");
        reply.detail(401);
    }
}

#[tokio::test]
async fn a_session_opens_the_doors_until_it_ends() {
    let rig = Rig::new();
    let token = session(&rig).await;
    let ask = async || {
        rig.ask("GET", "/admin/api-keys")
            .bearer(&token)
            .send("")
            .await
    };
    ask().await.ok();
    rig.advance(Duration::from_secs(86_400));
    assert!(ask().await.detail(401).contains("is over"));
    // Its holder is not taken for someone who guesses.
    for _ in 0..20 {
        ask().await.detail(401);
    }
}

#[tokio::test]
async fn who_signed_in_stands_in_the_audit_log() {
    let rig = Rig::new();
    let token = session(&rig).await;
    let ask = rig.ask("POST", "/admin/api-keys").bearer(&token);
    ask.send(json!({"name": "n"}).to_string()).await.ok();
    assert_eq!(rig.store.audit_entries().await[0].who, "admin");
}

#[tokio::test]
async fn without_a_credential_the_api_is_locked_and_never_open() {
    let rig = Rig::with(|admin| {
        admin.password = None;
        admin.token = None;
    });
    let locked = rig.ask("GET", "/admin/api-keys").bearer("").send("").await;
    assert!(locked.detail(403).contains("locked"));
    rig.get("/admin/api-keys").await.detail(403);
    let login = rig
        .ask("POST", "/admin/login")
        .basic("admin", "")
        .send("")
        .await;
    login.detail(403);
    assert_eq!(rig.ask("GET", "/healthz").send("").await.status, 200);
}

#[tokio::test]
async fn with_a_token_only_nobody_signs_in_by_password() {
    let rig = Rig::with(|admin| admin.password = None);
    rig.get("/admin/api-keys").await.ok();
    let login = rig
        .ask("POST", "/admin/login")
        .basic("admin", "")
        .send("")
        .await;
    assert!(login.detail(403).contains("password is off"));
}

#[tokio::test]
async fn wrong_credentials_are_refused() {
    let rig = Rig::new();
    for (n, (user, password)) in [
        ("admin", ""),
        ("admin", "a-passwor"),
        ("root", "a-password"),
    ]
    .into_iter()
    .enumerate()
    {
        let ask = rig.ask("POST", "/admin/login").basic(user, password);
        let reply = ask.from(&format!("192.0.2.{n}")).send("").await;
        assert!(reply.detail(401).contains("wrong"));
    }
    for header in [
        "",
        "Basic",
        "Basic !!!",
        "Basic YWRtaW4=",
        "Bearer x",
        "basic",
    ] {
        let ask = rig
            .ask("POST", "/admin/login")
            .header("authorization", header);
        ask.send("").await.detail(401);
    }
    for (n, token) in ["x", "an-admin-toke", "a.b.c", "eyJhbGciOiJub25lIn0.e30."]
        .iter()
        .enumerate()
    {
        let ask = rig.ask("GET", "/admin/audit").bearer(token);
        ask.from(&format!("192.0.2.{n}")).send("").await.detail(401);
    }
    // Two headers: which one was meant cannot be known.
    let ask = rig.ask("GET", "/admin/audit").bearer(TOKEN).bearer("x");
    ask.send("").await.detail(401);
}

#[tokio::test]
async fn guessing_is_slowed_for_the_guesser_alone() {
    let rig = Rig::new();
    let guess = async |ip: &str, password: &str| {
        let ask = rig.ask("POST", "/admin/login").basic("admin", password);
        ask.from(ip).send("").await
    };
    for _ in 0..5 {
        guess("192.0.2.1", "x").await.detail(401);
    }
    let locked = guess("192.0.2.1", "a-password").await;
    assert_eq!(locked.headers["retry-after"], "1");
    locked.detail(429);
    guess("192.0.2.2", "a-password").await.ok();
    rig.advance(Duration::from_secs(1));
    guess("192.0.2.1", "x").await.detail(401);
    let locked = guess("192.0.2.1", "a-password").await;
    assert_eq!(locked.headers["retry-after"], "2");
    rig.advance(Duration::from_secs(2));
    guess("192.0.2.1", "a-password").await.ok();
    // Forgiven: the next failures are free again.
    guess("192.0.2.1", "x").await.detail(401);
    guess("192.0.2.1", "a-password").await.ok();
    let metrics = rig.ask("GET", "/metrics").send("").await.text;
    assert!(
        metrics.contains("admin_login_failures_total 7"),
        "{metrics}"
    );
}

#[tokio::test]
async fn guessing_tokens_is_slowed_and_sessions_are_not_kept_out() {
    let rig = Rig::new();
    let token = session(&rig).await;
    for _ in 0..5 {
        rig.ask("GET", "/admin/audit")
            .bearer("guess")
            .send("")
            .await
            .detail(401);
    }
    rig.get("/admin/audit").await.detail(429);
    rig.ask("GET", "/admin/audit")
        .bearer(&token)
        .send("")
        .await
        .ok();
}

#[tokio::test]
async fn a_password_hash_does_as_well() {
    let cheap = argon2::Params::new(8, 1, 1, None).unwrap();
    let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, cheap);
    let hash: PasswordHash = argon2
        .hash_password_with_salt(b"a-password", b"salt-of-16-bytes")
        .unwrap();
    let rig = Rig::with(|admin| {
        admin.password = None;
        admin.password_hash = Some(SecretText::new(hash.to_string()));
    });
    let ask = rig.ask("POST", "/admin/login").basic("admin", "a-passwort");
    ask.send("").await.detail(401);
    session(&rig).await;
}

#[tokio::test]
async fn a_fleet_shares_its_signing_key_by_the_store() {
    let rig = Rig::new();
    let token = session(&rig).await;
    let stored = quota_proxy::store::Store::setting_or_insert(&*rig.store, "secret_key", "x");
    assert!(stored.await.unwrap().len() >= 43);
    let other = Rig::with(|admin| admin.secret_key = Some(SecretText::new("another")));
    other
        .ask("GET", "/admin/audit")
        .bearer(&token)
        .send("")
        .await
        .detail(401);
}

#[tokio::test]
async fn health_says_what_is() {
    let rig = Rig::new();
    let health = async |status: u16| {
        let reply = rig.ask("GET", "/healthz").send("").await;
        assert_eq!(reply.status, status);
        reply.json()
    };
    let ok = health(200).await;
    let version = env!("CARGO_PKG_VERSION");
    let expected = json!({"status": "ok", "service": "quota-proxy", "version": version, "environment": "test"});
    assert_eq!(ok, expected);
    rig.store.fail(Some(StoreError::Unavailable(String::new())));
    assert_eq!(health(503).await["status"], "unavailable");
    rig.store.fail(None);
    rig.draining.store(true, Ordering::SeqCst);
    assert_eq!(health(503).await["status"], "draining");
    let root = rig.ask("GET", "/").send("").await.ok();
    let expected = json!({"service": "quota-proxy", "version": version, "status": "running", "documentation": "/admin/docs"});
    assert_eq!(root, expected);
}

#[tokio::test]
async fn metrics_show_what_the_store_holds() {
    let rig = Rig::new();
    let (id, _) = rig.key(json!({"name": "n"})).await;
    let key = KeyId(Uuid::parse_str(&id).unwrap());
    rig.store.hold(key, 70).await;
    rig.store.hold(key, 7).await;
    let reply = rig.ask("GET", "/metrics").send("").await;
    assert_eq!(
        reply.headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    for line in ["quota_reservations_open 2", "quota_held_tokens 77"] {
        assert!(reply.text.lines().any(|l| l == line), "{line}");
    }
}

#[tokio::test]
async fn a_caller_sees_its_own_figures_and_events() {
    let rig = Rig::new();
    let (id, secret) = rig
        .key(json!({"name": "n", "token_limit": 100, "expires_in_days": 1}))
        .await;
    let (_, other) = rig.key(json!({"name": "o"})).await;
    let key = KeyId(Uuid::parse_str(&id).unwrap());
    rig.store.book(key, 60, 75_000, START).await;
    rig.store.book(key, 40, 0, START.plus_ms(86_400_000)).await;
    let ask = async |secret: &str, uri: &str| rig.ask("GET", uri).bearer(secret).send("").await;

    let quota = ask(&secret, "/api/usage/quota").await.ok();
    let expected = json!({"token_limit": 100, "token_used": 100, "token_remaining": 0,
        "usage_percentage": 100.0, "is_quota_exceeded": true, "rate_limit_tier": "basic",
        "is_active": true, "expires_at": START.plus_ms(86_400_000).to_rfc3339(), "is_expired": false});
    assert_eq!(quota, expected);

    let logs = ask(&secret, "/api/usage/logs").await.ok();
    assert_eq!(logs.as_array().unwrap().len(), 2);
    assert_eq!(
        logs[0]["created_at"],
        START.plus_ms(86_400_000).to_rfc3339()
    );
    assert_eq!(logs[1]["total_cost"], 0.000075);
    assert_eq!(logs[1].as_object().unwrap().len(), 30);
    let day = ask(&secret, "/api/usage/logs?end_date=2026-11-21&limit=1")
        .await
        .ok();
    assert_eq!(day[0]["created_at"], START.to_rfc3339());
    assert_eq!(
        ask(&other, "/api/usage/logs").await.ok(),
        Value::Array(Vec::new())
    );
    for bad in ["limit=0", "limit=1001", "skip=-1", "start_date=x"] {
        ask(&secret, &format!("/api/usage/logs?{bad}"))
            .await
            .detail(422);
    }
    ask(&secret, "/api/usage/nothing").await.detail(404);
}

#[tokio::test]
async fn own_figures_are_for_good_keys_only() {
    let rig = Rig::new();
    let body = json!({"name": "n", "expires_in_days": 1, "allowed_ips": ["127.0.0.1"],
        "allowed_origins": ["example.com"]});
    let (id, secret) = rig.key(body).await;
    let ask = || rig.ask("GET", "/api/usage/quota").bearer(&secret);
    ask().send("").await.ok();
    ask().header("x-api-key", &secret).send("").await.ok();
    ask()
        .header("x-api-key", "other")
        .send("")
        .await
        .detail(400);
    ask().from("192.0.2.1").send("").await.detail(403);
    ask()
        .header("origin", "https://evil.test")
        .send("")
        .await
        .detail(403);
    rig.ask("GET", "/api/usage/quota")
        .send("")
        .await
        .detail(401);
    rig.ask("GET", "/api/usage/quota")
        .bearer(TOKEN)
        .send("")
        .await
        .detail(401);
    let uri = format!("/admin/api-keys/{id}/disable");
    rig.ask("POST", &uri)
        .bearer(TOKEN)
        .send(Body::empty())
        .await
        .ok();
    ask().send("").await.detail(403);
    rig.ask("POST", &uri.replace("dis", "en"))
        .bearer(TOKEN)
        .send(Body::empty())
        .await
        .ok();
    rig.advance(Duration::from_secs(86_400));
    assert!(ask().send("").await.detail(401).contains("expired"));
}
