//! What an operator does to a running process: reloads its configuration, moves its log away, fills its
//! disk up.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::process::Command;

use serde_json::{Value, json};

use crate::support::admin::Key;
use crate::support::rig::{CHAT, Rig, chat, chat_stream};
use crate::support::wait::{PATIENCE, eventually, that};

async fn says(rig: &Rig, what: &str) {
    eventually(PATIENCE, || async {
        that(rig.process().output(), |said| said.contains(what))
    })
    .await;
}

/// `quota-proxy reload`: its exit code, and what it says.
async fn reload(rig: &Rig) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quota-proxy"));
    command.arg("reload").arg("--config").arg(rig.config_path());
    let run = move || command.output().unwrap();
    let said = tokio::task::spawn_blocking(run).await.unwrap();
    let text = [said.stdout, said.stderr].concat();
    (said.status.code(), String::from_utf8(text).unwrap())
}

async fn status(rig: &Rig, key: &Key, model: &str) -> u16 {
    let answer = rig.post(CHAT, &key.secret, &chat(model)).await;
    let status = answer.status().as_u16();
    answer.bytes().await.unwrap();
    status
}

async fn status_is(rig: &Rig, key: &Key, model: &str, expected: u16) {
    eventually(PATIENCE, || async {
        that(status(rig, key, model).await, |&s| s == expected)
    })
    .await;
}

#[tokio::test]
async fn a_reload_changes_pools_prices_and_tiers_and_cuts_no_stream() {
    let rig = Rig::start().await;
    let body = json!({"name": "k", "token_limit": 0, "usd_limit": 1000, "rate_limit_tier": "own"});
    let mut config = rig.config();
    config["tiers"] = json!({"own": {"requests_per_minute": 1_000_000}});
    rig.write_config(&config);
    rig.process().signal("HUP");
    says(&rig, "reloaded").await;
    let key = rig.admin().create(body).await;
    assert_eq!(status(&rig, &key, "new-model").await, 404);
    let running = rig.request(reqwest::Method::POST, CHAT, &key.secret);
    let running = running.header("x-fake", "tokens=100,interval=10ms");
    let mut running = running.json(&chat_stream("gpt-4o")).send().await.unwrap();
    running.chunk().await.unwrap().unwrap();

    let prices = "models: {gpt-4o: {input: 0, output: 7}, new-model: {input: 1000, output: 0}}\n";
    std::fs::write(rig.folder().join("prices.yaml"), prices).unwrap();
    config["pricing"] = json!({"file": "prices.yaml"});
    config["pools"][2]["models"] = json!(["gpt-*", "new-*"]);
    rig.write_config(&config);
    rig.process().signal("HUP");
    status_is(&rig, &key, "new-model", 200).await;
    rig.admin().settled().await;
    let event = rig
        .admin()
        .usage_logs(&key)
        .await
        .into_iter()
        .find(|e| e["model"] == "new-model" && e["is_error"] == false);
    let event = event.unwrap();
    let cost = event["prompt_tokens"].as_f64().unwrap() * 1e-3;
    assert!(
        (event["total_cost"].as_f64().unwrap() - cost).abs() < 1e-9,
        "{event:#}"
    );
    // The stream that ran meanwhile ends whole.
    let mut text = String::new();
    while let Some(chunk) = running.chunk().await.unwrap() {
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");

    config["tiers"]["own"] = json!({"requests_per_minute": 1});
    rig.write_config(&config);
    rig.process().signal("HUP");
    status_is(&rig, &key, "gpt-4o", 429).await;
    rig.end().await;
}

#[tokio::test]
async fn a_bad_file_is_refused_and_the_old_one_stays() {
    let rig = Rig::start().await;
    let key = rig.admin().key(0).await;
    let config = rig.config();
    let mut bad = config.clone();
    bad["pools"][2]["models"] = json!(["other-*"]);
    bad["quota"] = json!({"admision": "strict"});
    rig.write_config(&bad);
    rig.process().signal("HUP");
    says(&rig, "admision").await;
    assert_eq!(status(&rig, &key, "gpt-4o").await, 200);
    std::fs::write(rig.config_path(), "pools: [").unwrap();
    rig.process().signal("HUP");
    eventually(PATIENCE, || async {
        that(rig.process().output(), |said| {
            said.matches("ERROR").count() >= 2
        })
    })
    .await;
    std::fs::remove_file(rig.config_path()).unwrap();
    rig.process().signal("HUP");
    eventually(PATIENCE, || async {
        that(rig.process().output(), |said| {
            said.matches("ERROR").count() >= 3
        })
    })
    .await;
    assert_eq!(status(&rig, &key, "gpt-4o").await, 200);
    rig.end().await;
}

#[tokio::test]
async fn the_command_tells_the_verdict() {
    let mut rig = Rig::start().await;
    eventually(PATIENCE, || async {
        std::fs::metadata(rig.folder().join("upgrade.sock")).map_err(|fault| fault.to_string())
    })
    .await;
    let key = rig.admin().key(0).await;
    let gauge = async || {
        let name = "quota_proxy_config_last_reload_successful";
        rig.admin().metric(name).await
    };
    let mut config = rig.config();
    config["pools"][2]["models"] = json!(["gpt-*", "new-*"]);
    config["quota"]["reservation_ttl"] = json!("77m");
    rig.write_config(&config);
    assert_eq!(status(&rig, &key, "new-model").await, 404);
    let (code, said) = reload(&rig).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("holds") && said.contains("quota has changed"),
        "{said}"
    );
    // It has returned: the new configuration holds.
    assert_eq!(status(&rig, &key, "new-model").await, 200);

    config["pools"][2]["models"] = json!(["other-*"]);
    config["quota"] = json!({"admision": "strict"});
    rig.write_config(&config);
    let (code, said) = reload(&rig).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("admision") && said.contains("goes on"),
        "{said}"
    );
    assert_eq!(gauge().await, 0.0);
    assert_eq!(status(&rig, &key, "new-model").await, 200);

    config["quota"] = json!({});
    rig.write_config(&config);
    assert_eq!(reload(&rig).await.0, Some(0));
    assert_eq!(gauge().await, 1.0);
    assert_eq!(status(&rig, &key, "new-model").await, 404);
    assert!(rig.term().await.success());
    let (code, said) = reload(&rig).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no running server"), "{said}");
}

#[tokio::test]
async fn a_moved_access_log_is_opened_anew() {
    let rig = Rig::builder()
        .set("log.access", json!("access.jsonl"))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    let log = rig.folder().join("access.jsonl");
    let moved = rig.folder().join("access.jsonl.1");
    let lines = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect::<Vec<Value>>()
    };
    let has = async |path: &std::path::Path, count: usize| {
        eventually(PATIENCE, || async {
            that(lines(path), |lines| lines.len() == count)
        })
        .await
    };
    assert_eq!(status(&rig, &key, "gpt-4o").await, 200);
    has(&log, 1).await;
    std::fs::rename(&log, &moved).unwrap();
    assert_eq!(status(&rig, &key, "gpt-4o").await, 200);
    has(&moved, 2).await;
    rig.process().signal("USR2");
    eventually(PATIENCE, || async { that(log.exists(), |&there| there) }).await;
    assert_eq!(status(&rig, &key, "gpt-4o").await, 200);
    let line = has(&log, 1).await.remove(0);
    assert_eq!(
        (&line["status"], &line["path"]),
        (&json!(200), &json!(CHAT)),
        "{line:#}"
    );
    assert_eq!(lines(&moved).len(), 2);
    let text = std::fs::read_to_string(&moved).unwrap();
    assert!(!text.contains(&key.secret));
    rig.end().await;
}

/// Sets the most bytes that a file of the process may grow to.
fn limit_files(rig: &Rig, bytes: &str) {
    let pid = rig.process().pid().to_string();
    let set = std::process::Command::new("prlimit")
        .args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")])
        .status();
    assert!(set.unwrap().success());
}

#[tokio::test]
async fn a_full_disk_refuses_requests_and_passes() {
    // A process that is not asked dies of the signal that comes with the limit; a disk sends none.
    let rig = Rig::builder().prelude("trap '' XFSZ").start().await;
    let key = rig.admin().key(1_000_000).await;
    assert_eq!(status(&rig, &key, "gpt-4o").await, 200);
    rig.admin().settled().await;
    limit_files(&rig, "1");
    let refused = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    let refused: Value = refused.json().await.unwrap();
    assert_eq!(refused["error"]["code"], "store_unavailable", "{refused}");
    assert_eq!(
        rig.fake().ledger().await.requests,
        1,
        "nothing was forwarded"
    );
    limit_files(&rig, "unlimited");
    status_is(&rig, &key, "gpt-4o", 200).await;
    rig.admin().settled().await;
    let shown = rig.admin().show(&key).await;
    assert_eq!(shown["request_count"], 2);
    rig.end().await;
}

#[tokio::test]
async fn a_disk_that_fills_up_under_a_stream_loses_none_of_its_usage() {
    let rig = Rig::builder().prelude("trap '' XFSZ").start().await;
    let key = rig.admin().key(1_000_000).await;
    let request = rig.request(reqwest::Method::POST, CHAT, &key.secret);
    let request = request.header("x-fake", "tokens=30,interval=20ms");
    let mut answer = request.json(&chat_stream("gpt-4o")).send().await.unwrap();
    answer.chunk().await.unwrap().unwrap();
    limit_files(&rig, "1");
    let mut text = String::new();
    while let Some(chunk) = answer.chunk().await.unwrap() {
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    says(&rig, "the books could not be written").await;
    limit_files(&rig, "unlimited");
    let logs = rig.admin().usage_logs_when(&key, 1).await;
    assert_eq!(logs[0]["completion_tokens"], 30, "{:#}", logs[0]);
    rig.end().await;
}
