//! `quota-proxy store export` and `store import`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::command::{golden, mode, run_in, word};
use crate::support::admin::Key;
use crate::support::books::Books;
use crate::support::redis_server::RedisServer;
use crate::support::rig::{CHAT, Rig, chat};

/// A server that has served two keys, one of them in a group, and refused one request.
async fn served() -> (Rig, Vec<Key>) {
    let rig = Rig::start().await;
    let admin = rig.admin();
    let group = json!({"name": "vip", "quotas": {"tokens": {"limit": 1_000_000}}});
    admin
        .ok(reqwest::Method::POST, "/admin/groups", Some(&group))
        .await;
    let mut keys = Vec::new();
    for body in [
        json!({"name": "first", "request_limit": 5, "usd_limit": 3, "metadata": {"a": [1]}}),
        json!({"name": "second", "group": "vip", "period": "monthly"}),
        json!({"name": "gone"}),
    ] {
        keys.push(admin.create(body).await);
    }
    for key in [&keys[0], &keys[0], &keys[1], &keys[2]] {
        assert_eq!(
            rig.post(CHAT, &key.secret, &chat("gpt-4o")).await.status(),
            200
        );
    }
    admin.settled().await;
    admin.delete(&keys[2], true).await;
    (rig, keys)
}

async fn export(config: &Path, to: &Path) {
    let words = [
        "store",
        "export",
        "--config",
        word(config),
        "--output",
        word(to),
    ];
    run_in(&[], &words).await.ok();
}

/// A configuration beside the rig's, with another store.
fn config_with(rig: &Rig, name: &str, store: Value) -> PathBuf {
    let mut config = rig.config();
    config["store"] = store;
    let path = rig.folder().join(name);
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

/// What both servers tell alike of their keys and what was used.
async fn told(rig: &Rig, keys: &[Key]) -> Value {
    let admin = rig.admin();
    let listed = admin.get("/admin/api-keys").await;
    let groups = admin.get("/admin/groups").await;
    let logs = [
        admin.usage_logs(&keys[0]).await,
        admin.usage_logs(&keys[1]).await,
    ];
    json!({"keys": listed, "groups": groups, "logs": logs})
}

/// Exports while a server runs, imports, and serves from the copy.
async fn moves_to(store: impl Fn(&Rig) -> Value) {
    let (mut rig, keys) = served().await;
    let before = told(&rig, &keys).await;
    let file = rig.folder().join("backup.jsonl");
    export(&rig.config_path(), &file).await;
    assert_eq!(mode(&file), 0o600);
    let config = config_with(&rig, "copy.yaml", store(&rig));
    let words = ["store", "import", "--config", word(&config), word(&file)];
    let done = run_in(&[], &words).await.ok();
    golden("store_import.txt", &done.out);
    run_in(&[], &words)
        .await
        .failed(1, "the store has 2 keys already");
    let merged = [&words[..], &["--merge"]].concat();
    assert_eq!(run_in(&[], &merged).await.ok().out, done.out);

    let original = rig.config();
    rig.write_config(&serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap());
    rig.restart().await;
    assert_eq!(told(&rig, &keys).await, before);
    assert_eq!(
        rig.post(CHAT, &keys[0].secret, &chat("gpt-4o"))
            .await
            .status(),
        200
    );
    assert_eq!(
        rig.post(CHAT, &keys[2].secret, &chat("gpt-4o"))
            .await
            .status(),
        401
    );
    let fresh = rig.admin().create(json!({"name": "fresh"})).await;
    assert_eq!(
        rig.admin().show(&fresh).await["seq"],
        json!(4),
        "numbers are never given twice"
    );
    rig.admin().settled().await;
    rig.kill9();
    rig.write_config(&original);
}

#[tokio::test]
async fn an_export_moves_into_a_new_file() {
    moves_to(|_| json!({"kind": "embedded", "path": "copy.db"})).await;
}

#[tokio::test]
async fn the_copy_s_books_balance() {
    let (rig, _) = served().await;
    let file = rig.folder().join("backup.jsonl");
    export(&rig.config_path(), &file).await;
    let copy = rig.folder().join("copy.db");
    let config = config_with(
        &rig,
        "copy.yaml",
        json!({"kind": "embedded", "path": "copy.db"}),
    );
    run_in(
        &[],
        &["store", "import", "--config", word(&config), word(&file)],
    )
    .await
    .ok();
    Books::copy(&copy).assert_balanced();
    // Back again: the same records, but for when they were written.
    let again = rig.folder().join("again.jsonl");
    export(&config, &again).await;
    let lines = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(&again), lines(&file));
}

#[tokio::test]
async fn an_export_moves_into_redis() {
    let redis = RedisServer::start();
    let url = redis.url();
    moves_to(|_| json!({"kind": "redis", "redis": {"urls": [url]}})).await;
}

#[tokio::test]
async fn an_export_that_is_not_whole_is_refused_before_anything_is_taken_in() {
    let (rig, _) = served().await;
    let file = rig.folder().join("backup.jsonl");
    export(&rig.config_path(), &file).await;
    let whole = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let (last, rest) = lines.split_last().unwrap();
    let config = config_with(
        &rig,
        "copy.yaml",
        json!({"kind": "embedded", "path": "copy.db"}),
    );
    let with = |lines: &[&str]| lines.join("\n") + "\n";
    let at = |line: usize| format!("backup.jsonl:{line}: ");
    let count = lines.len();
    let fewer = [&rest[..count - 2], &[*last]].concat();
    let newer = whole.replacen("\"version\":1", "\"version\":99", 1);
    let wrong = whole.replacen("\"type\":\"key\"", "\"type\":\"quay\"", 1);
    let place = lines
        .iter()
        .position(|line| line.contains("\"type\":\"key\""))
        .unwrap()
        + 1;
    for (text, why) in [
        (with(rest), at(count) + "the export ends here"),
        (
            with(&fewer),
            at(count - 1) + &format!("{} records came before", count - 2),
        ),
        (
            whole[..whole.len() - 5].to_owned(),
            at(count) + "the export breaks off",
        ),
        (newer, at(1) + "an export of version 99"),
        (wrong, at(place) + "no record of an export"),
        (with(rest.get(1..).unwrap()), at(1) + "not the first line"),
        (
            format!("{whole}{whole}"),
            at(count + 1) + "more stands after",
        ),
        (String::new(), at(1) + "not the first line"),
    ] {
        std::fs::write(&file, text).unwrap();
        let words = ["store", "import", "--config", word(&config), word(&file)];
        let done = run_in(&[], &words).await;
        done.failed(1, &why);
        assert!(!rig.folder().join("copy.db").exists());
    }
}

#[tokio::test]
async fn a_store_that_serves_is_exported_to_standard_output_and_not_imported_into() {
    let (rig, _) = served().await;
    let config = rig.config_path();
    let done = run_in(&[], &["store", "export", "--config", word(&config)])
        .await
        .ok();
    let first: Value = serde_json::from_str(done.out.lines().next().unwrap()).unwrap();
    let last: Value = serde_json::from_str(done.out.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&first["type"], &last["type"]),
        (&json!("backup"), &json!("end"))
    );
    let file = rig.folder().join("backup.jsonl");
    std::fs::write(&file, &done.out).unwrap();
    let words = [
        "store",
        "import",
        "--merge",
        "--config",
        word(&config),
        word(&file),
    ];
    run_in(&[], &words).await.failed(1, "another process");
    let none = config_with(
        &rig,
        "none.yaml",
        json!({"kind": "embedded", "path": "none.db"}),
    );
    let output = rig.folder().join("none.jsonl");
    let words = [
        "store",
        "export",
        "--config",
        word(&none),
        "--output",
        word(&output),
    ];
    run_in(&[], &words).await.failed(1, "");
    assert!(!output.exists());
    let parts = std::fs::read_dir(rig.folder()).unwrap();
    let left = parts.filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains(".part")
    });
    assert_eq!(left.count(), 0);
}
