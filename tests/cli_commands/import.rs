//! `quota-proxy key import`: foreign formats as recorded, and keys that clients go on with.

use std::path::{Path, PathBuf};

use http::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::command::{golden, run, run_in, word};
use crate::service::Service;
use crate::support::rig::{CHAT, Rig, chat};

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/cli")
        .join(name)
}

#[tokio::test]
async fn every_format_is_shown_without_a_secret() {
    for (format, file, secrets) in [
        ("csv", "keys.csv", &["sk-client-key-number-one"][..]),
        ("litellm", "litellm_key_list.json", &[]),
        (
            "litellm",
            "litellm_key_info.json",
            &["sk-litellm-key-of-a-client"],
        ),
        (
            "new-api",
            "new_api_tokens.json",
            &["Jd3kd9Fh2lq8Zx7c", "sk-clientform0000000"],
        ),
        ("new-api", "one_api_tokens.json", &["Nd3kd9Fh2lq8Zx7c"]),
    ] {
        let path = sample(file);
        let words = ["key", "import", "--from", format, "--dry-run", word(&path)];
        let done = run_in(&[], &words).await.ok();
        let shown = format!("{}{}", done.out, done.err);
        golden(&format!("{file}.dry_run.txt"), &shown);
        for secret in secrets {
            assert!(!shown.contains(secret), "{file} shows {secret}");
        }
    }
}

/// What would be sent, by a service that takes it.
async fn sent(format: &str, file: &str) -> Vec<Value> {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let service = Service::start(move |_, _, body| {
        tell.send(serde_json::from_slice::<Vec<Value>>(body).unwrap())
            .unwrap();
        (
            StatusCode::OK,
            json!({"items": [], "refused": []}).to_string(),
        )
    })
    .await;
    let path = sample(file);
    run(
        service.address,
        &["key", "import", "--from", format, word(&path)],
    )
    .await
    .ok();
    told.recv().await.unwrap()
}

#[tokio::test]
async fn what_is_sent_says_all_that_the_file_says() {
    let litellm = sent("litellm", "litellm_key_list.json").await;
    golden(
        "litellm_key_list.json.sent.json",
        &format!("{:#}\n", json!(litellm)),
    );
    let new_api = sent("new-api", "new_api_tokens.json").await;
    golden(
        "new_api_tokens.json.sent.json",
        &format!("{:#}\n", json!(new_api)),
    );
    let one_api = sent("new-api", "one_api_tokens.json").await;
    golden(
        "one_api_tokens.json.sent.json",
        &format!("{:#}\n", json!(one_api)),
    );
}

#[tokio::test]
async fn clients_keep_their_keys_and_what_they_have_used() {
    let rig = Rig::start().await;
    let at = rig.process().admin;
    let (first, second) = ("sk-client-key-number-one", "sk-client-key-number-two");
    let hash: String = Sha256::digest(second)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let path = rig.folder().join("keys.csv");
    let text = format!(
        "name,key,key_sha256,token_limit,request_limit,usd_limit,used_tokens,used_requests,used_usd\n\
         first,{first},,1000000,500,25,1200,30,1.25\n\
         second,,{hash},0,0,0,0,0,0\n\
         in debt,sk-client-key-number-three,,100,0,0,150,0,0\n"
    );
    std::fs::write(&path, text).unwrap();
    let words = ["key", "import", "--from", "csv", word(&path)];
    let done = run(at, &words).await.ok();
    assert_eq!(done.out, "3 keys imported\n");
    for secret in [first, second] {
        assert_eq!(rig.post(CHAT, secret, &chat("gpt-4o")).await.status(), 200);
    }
    let debt = rig
        .post(CHAT, "sk-client-key-number-three", &chat("gpt-4o"))
        .await;
    assert_eq!(debt.status(), 429);
    rig.admin().settled().await;
    let shown = run(at, &["key", "show", "first", "--json"])
        .await
        .ok()
        .json();
    assert_eq!(shown["request_used"], json!(31));
    assert!(shown["token_used"].as_i64().unwrap() > 1_200);
    assert!(shown["usd_used"].as_f64().unwrap() >= 1.25);
    assert_eq!(shown["usd_limit"], json!(25.0));
    let second = run(at, &["key", "show", "second", "--json"])
        .await
        .ok()
        .json();
    assert_eq!(
        (&second["key_prefix"], &second["token_limit"]),
        (&json!("…"), &json!(0))
    );
    let again = run(at, &words).await.ok();
    assert_eq!(again.out, "0 keys imported; 3 were there already\n");
    rig.end().await;
}

#[tokio::test]
async fn a_past_is_not_charged_to_the_group_and_rules_from_then_on() {
    let rig = Rig::start().await;
    let at = rig.process().admin;
    let group = json!({"name": "vip", "quotas": {"usd": {"limit": 1}}});
    rig.admin()
        .ok(reqwest::Method::POST, "/admin/groups", Some(&group))
        .await;
    let items = json!([
        {"name": "a", "api_key": "sk-client-key-number-one", "usd_limit": 9, "used_usd": 4, "group": "vip"},
    ]);
    let done = rig
        .admin()
        .ok(
            reqwest::Method::POST,
            "/admin/api-keys/import",
            Some(&items),
        )
        .await;
    assert_eq!(
        (&done["refused"], &done["items"][0]["seq"]),
        (&json!([]), &json!(1))
    );
    let shown = run(at, &["key", "show", "a", "--json"]).await.ok().json();
    assert_eq!(
        (&shown["usd_used"], &shown["is_active"]),
        (&json!(4.0), &json!(true))
    );
    assert!(shown["group"].is_string());
    let answer = rig
        .post(CHAT, "sk-client-key-number-one", &chat("gpt-4o"))
        .await;
    assert_eq!(answer.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn a_fault_refuses_all_and_repeats_no_secret() {
    let rig = Rig::start().await;
    let post = async |items: &Value| {
        let path = "/admin/api-keys/import";
        let answer = rig
            .admin()
            .call(reqwest::Method::POST, path, Some(items))
            .await;
        (answer.status(), answer.json::<Value>().await.unwrap())
    };
    let hash = "ab".repeat(32);
    let items = json!([
        {"name": "fine", "api_key": "sk-client-key-number-one"},
        {"name": "short", "api_key": "sk-secret"},
        {"name": "both", "api_key": "sk-client-key-number-two", "api_key_sha256": hash},
        {"name": "neither"},
        {"name": "no hash", "api_key_sha256": "sk-secret-in-the-wrong-place"},
        {"name": "negative", "api_key_sha256": hash, "used_tokens": -1},
        {"api_key_sha256": hash, "quota": 1},
        {"name": "group", "api_key_sha256": hash, "group": "nobody"},
        7,
    ]);
    let (status, body) = post(&items).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let detail = body["detail"].as_str().unwrap();
    for place in [
        "[1].api_key: ",
        "[2].api_key: ",
        "[3].api_key: ",
        "[4].api_key: ",
        "[5].used_tokens: ",
        "[6].name: ",
        "[6].quota: ",
        "[7].group: ",
        "[8]: ",
    ] {
        assert!(detail.contains(place), "{place} is not in {detail}");
    }
    assert!(!detail.contains("sk-"), "{detail}");
    let keys = rig.admin().get("/admin/api-keys").await;
    assert_eq!(keys["total"], json!(0));
    let (status, _) = post(&json!({"name": "a"})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let many: Vec<Value> = (0..1_001).map(|_| json!({})).collect();
    let (status, body) = post(&json!(many)).await;
    assert_eq!(
        (
            status,
            body["detail"].as_str().unwrap().contains("1001 keys")
        ),
        (StatusCode::UNPROCESSABLE_ENTITY, true)
    );
    assert_eq!(
        post(&json!([])).await.1,
        json!({"items": [], "refused": []})
    );
}

#[tokio::test]
async fn files_that_are_something_else_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let masked = r#"{"data": [{"id": 1, "key": "abcd**********wxyz", "name": "a"}]}"#;
    for (format, text, why) in [
        (
            "litellm",
            r#"{"keys": ["88dc28d0"], "total_count": 1}"#,
            "return_full_object=true",
        ),
        ("litellm", r#"{"keys": []}"#, "holds no keys"),
        ("litellm", r#"{"data": []}"#, "is no answer of LiteLLM's"),
        (
            "litellm",
            r#"[{"token": "xyz-secret", "spend": 1}]"#,
            "key 1: token: expected",
        ),
        ("litellm", "<html>", "is no JSON"),
        ("new-api", masked, "token 1: its key is masked"),
        (
            "new-api",
            r#"{"success": false, "message": "no"}"#,
            "it has no `data`",
        ),
        (
            "new-api",
            r#"[{"key": 7}]"#,
            "a field is not what it should be",
        ),
        ("csv", "name\nx\n", "expected headings, name and key"),
    ] {
        std::fs::write(&path, text).unwrap();
        let words = ["key", "import", "--from", format, "--dry-run", word(&path)];
        let done = run_in(&[], &words).await.failed(1, why);
        assert!(!done.err.contains("secret"), "{}", done.err);
    }
    let nowhere = folder.path().join("nowhere");
    let words = [
        "key",
        "import",
        "--from",
        "csv",
        "--dry-run",
        word(&nowhere),
    ];
    run_in(&[], &words).await.failed(1, "No such file");
}
