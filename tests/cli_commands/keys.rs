//! `quota-proxy key create / list / show / disable / enable / reset / rotate / delete`.

use http::StatusCode;
use serde_json::{Value, json};

use crate::command::{Done, golden, mode, run, run_in, word};
use crate::service::Service;
use crate::support::admin::TOKEN;
use crate::support::rig::{CHAT, Rig, chat};

/// What differs from run to run, made alike; spaces before a word go with it.
fn steady(text: &str) -> String {
    let steady = |line: &str| {
        let words = line.split_whitespace().map(|word| {
            let is_id = uuid::Uuid::try_parse(word.trim_matches(['(', ')', ':'])).is_ok();
            let is_day = word.len() == 10 && word.starts_with("20") && word.as_bytes()[4] == b'-';
            let is_time = word.len() == 5 && word.as_bytes()[2] == b':';
            let is_key = word.starts_with("roc_") || word.starts_with("sk-proxy_");
            match (is_id, is_day, is_time, is_key) {
                (true, ..) => "ID",
                (_, true, ..) => "DAY",
                (_, _, true, _) => "TIME",
                (.., true) => "KEY",
                _ => word,
            }
        });
        words.collect::<Vec<_>>().join(" ") + "\n"
    };
    text.lines().map(steady).collect()
}

fn secret_of(done: &Done) -> String {
    done.json()[0]["api_key"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_key_is_made_listed_changed_and_deleted() {
    let rig = Rig::start().await;
    let at = rig.process().admin;
    let made = [
        "key",
        "create",
        "--prefix",
        "roc",
        "--quota",
        "1000",
        "--expires",
        "2099-12-31",
        "--usd",
        "12.5",
        "--period",
        "monthly",
        "--json",
    ];
    let secret = secret_of(&run(at, &made).await.ok());
    assert!(secret.starts_with("roc_"));
    assert_eq!(rig.post(CHAT, &secret, &chat("gpt-4o")).await.status(), 200);
    rig.admin().settled().await;
    run(at, &["key", "create", "--name", "搜索组"]).await.ok();

    let listed = run(at, &["key", "list"]).await.ok();
    let shown = run(at, &["key", "show", "roc"]).await.ok();
    golden("key_list.txt", &steady(&listed.out));
    golden("key_show.txt", &steady(&shown.out));
    assert!(!listed.out.contains(&secret) && !shown.out.contains('\x1b'));
    let items = run(at, &["key", "list", "--json"]).await.ok().json();
    let (first, second) = (&items[0], &items[1]);
    assert_eq!(first["usd_limit"], json!(12.5));
    assert_eq!(
        (&second["token_limit"], &second["seq"]),
        (&json!(0), &json!(2))
    );
    let id = first["id"].as_str().unwrap();

    let said = run(at, &["key", "disable", "1", "搜索组"]).await.ok().out;
    assert_eq!(
        steady(&said),
        "roc ID API key disabled\n搜索组 ID API key disabled\n"
    );
    let none = run(at, &["key", "list", "--active"]).await.ok();
    assert_eq!(
        (none.out.as_str(), none.err.contains("no keys")),
        ("", true)
    );
    assert_eq!(rig.post(CHAT, &secret, &chat("gpt-4o")).await.status(), 403);
    run(at, &["key", "enable", id]).await.ok();
    run(at, &["key", "reset", "roc"]).await.ok();
    let roc = run(at, &["key", "show", "roc", "--json"]).await.ok().json();
    assert_eq!(
        (&roc["request_used"], &roc["is_active"]),
        (&json!(0), &json!(true))
    );

    let rotated = run(at, &["key", "rotate", "roc", "--grace", "0s", "--json"])
        .await
        .ok();
    let fresh = secret_of(&rotated);
    assert_eq!(rig.post(CHAT, &secret, &chat("gpt-4o")).await.status(), 401);
    assert_eq!(rig.post(CHAT, &fresh, &chat("gpt-4o")).await.status(), 200);
    run(at, &["key", "delete", "roc"]).await.ok();
    assert_eq!(rig.post(CHAT, &fresh, &chat("gpt-4o")).await.status(), 401);
    run(at, &["key", "show", id]).await.failed(1, "not found");
    run(at, &["key", "delete", "--hard", id]).await.ok();
    run(at, &["key", "show", "roc"])
        .await
        .failed(1, "no key has the id, number or name \"roc\"");
    rig.admin().settled().await;
}

#[tokio::test]
async fn a_name_of_two_keys_is_asked_about_and_nothing_is_done() {
    let rig = Rig::start().await;
    let at = rig.process().admin;
    for _ in 0..2 {
        run(at, &["key", "create", "--name", "twin"]).await.ok();
    }
    run(at, &["key", "create", "--name", "single"]).await.ok();
    let done = run(at, &["key", "disable", "single", "twin"]).await;
    done.failed(
        1,
        "2 keys have the name \"twin\": say which by number: 1, 2",
    );
    let keys = run(at, &["key", "list", "--active", "--json"])
        .await
        .ok()
        .json();
    assert_eq!(keys.as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn many_keys_go_to_a_file_for_its_owner() {
    let rig = Rig::start().await;
    let at = rig.process().admin;
    let file = rig.folder().join("keys.json");
    let words = [
        "key",
        "create",
        "--prefix",
        "roc",
        "--quota",
        "1000",
        "--expires",
        "2099-12-31",
        "--count",
        "5",
        "--output",
        word(&file),
    ];
    let done = run(at, &words).await.ok();
    assert_eq!((done.out.as_str(), mode(&file)), ("", 0o600));
    assert!(done.err.contains("5 keys written to "), "{}", done.err);
    let read = || serde_json::from_slice::<Vec<Value>>(&std::fs::read(&file).unwrap()).unwrap();
    let keys = read();
    assert_eq!(keys.len(), 5);
    for (at, key) in keys.iter().enumerate() {
        let secret = key["api_key"].as_str().unwrap();
        assert_eq!(key["name"], format!("roc-{}", at + 1));
        assert_eq!(key["expires_at"], "2099-12-31T23:59:59.999Z");
        assert_eq!(rig.post(CHAT, secret, &chat("gpt-4o")).await.status(), 200);
    }
    run(at, &words)
        .await
        .failed(1, "is there already; --force replaces it");
    assert_eq!(read(), keys);
    let again = [&words[..], &["--force"]].concat();
    run(at, &again).await.ok();
    assert_eq!(read().len(), 5);
    assert_ne!(read(), keys);
    let missing = rig.folder().join("none/keys.json");
    run(at, &["key", "create", "--output", word(&missing)])
        .await
        .failed(1, "No such file");
    let count = run(at, &["key", "list", "--json"]).await.ok().json();
    assert_eq!(
        count.as_array().unwrap().len(),
        10,
        "nothing is made that cannot be kept"
    );
    rig.admin().settled().await;
}

#[tokio::test]
async fn what_was_made_before_a_failure_is_in_the_file() {
    let service = Service::start(|number, _, body| {
        let wanted: Value = serde_json::from_slice(body).unwrap();
        match number {
            3 => (
                StatusCode::SERVICE_UNAVAILABLE,
                json!({"detail": "the store is away"}).to_string(),
            ),
            _ => (
                StatusCode::OK,
                json!({"api_key": format!("sk-{number}"), "name": wanted["name"]}).to_string(),
            ),
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let words = ["key", "create", "--count", "5", "--output", word(&file)];
    let done = run(service.address, &words).await;
    done.failed(1, "3 of 5 keys were made, then: the store is away");
    let keys: Vec<Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(keys.len(), 3);
    assert_eq!(
        (&keys[2]["api_key"], &keys[2]["name"]),
        (&json!("sk-2"), &json!("key-3"))
    );
    assert_eq!((mode(&file), service.asked().len()), (0o600, 4));

    let nothing = folder.path().join("nothing.json");
    let refusing = Service::start(|_, _, _| {
        (
            StatusCode::UNPROCESSABLE_ENTITY,
            json!({"detail": "rate_limit_tier: found"}).to_string(),
        )
    })
    .await;
    let words = ["key", "create", "--tier", "x", "--output", word(&nothing)];
    run(refusing.address, &words)
        .await
        .failed(1, "rate_limit_tier: found");
    assert!(!nothing.exists());
}

#[tokio::test]
async fn tokens_and_addresses_that_are_wrong_are_told_apart() {
    let rig = Rig::start().await;
    let url = format!("http://{}", rig.process().admin);
    let list = ["key", "list", "--admin", &url];
    run_in(&[], &list)
        .await
        .failed(1, "no admin token: $ADMIN_TOKEN is empty");
    let wrong = [("ADMIN_TOKEN", "wrong-token-that-nobody-may-see")];
    let done = run_in(&wrong, &list)
        .await
        .failed(1, "does not know the token of $ADMIN_TOKEN");
    assert!(!done.err.contains("wrong-token"), "{}", done.err);
    let file = rig.folder().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let by_file = [&list[..], &["--token-file", word(&file)]].concat();
    run_in(&[], &by_file).await.ok();

    // The edge is no admin service, and must not be taken for one.
    run(rig.edge(), &["key", "list"])
        .await
        .failed(1, "Is this the port of the edge");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let done = run(address, &["key", "list"])
        .await
        .failed(1, "no admin service at ");
    for hint in [address.to_string().as_str(), "quota-proxy serve", "--admin"] {
        assert!(done.err.contains(hint), "{}", done.err);
    }
    let elsewhere = Service::start(|_, _, _| (StatusCode::OK, String::from("<html>"))).await;
    run(elsewhere.address, &["key", "list"])
        .await
        .failed(1, "is no admin service of quota-proxy");
    run_in(
        &[("ADMIN_TOKEN", TOKEN)],
        &["key", "list", "--admin", "http://me:hidden@h"],
    )
    .await
    .failed(1, "--token-file");
}

#[tokio::test]
async fn a_locked_service_says_so() {
    let rig = Rig::builder()
        .set("admin", json!({"listen": "127.0.0.1:0"}))
        .start()
        .await;
    let done = run(rig.process().admin, &["key", "list"]).await;
    done.failed(1, "the admin API is locked: set admin.password");
}

#[tokio::test]
async fn what_cannot_be_meant_is_a_usage_error() {
    for words in [
        &["key", "create", "--usd", "-1"][..],
        &["key", "create", "--quota", "-1"],
        &["key", "create", "--expires", "yesterday"],
        &["key", "create", "--count", "0"],
        &["key", "create", "--force"],
        &["key", "disable"],
        &["key"],
        &["usage", "--since", "soon"],
        &["usage", "--json", "--csv"],
    ] {
        run_in(&[], words).await.failed(2, "--help");
    }
}
