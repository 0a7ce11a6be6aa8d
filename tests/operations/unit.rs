//! The systemd unit, what the process tells its manager, and the rotation of its log.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::command::{BINARY, repository, run, silent};
use super::support::rig::{CHAT, Rig, chat};
use super::support::wait::{PATIENCE, eventually, that};

fn unit() -> String {
    std::fs::read_to_string(repository("systemd/quota-proxy.service")).unwrap()
}

#[test]
fn systemd_finds_no_fault_and_little_exposure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quota-proxy.service");
    std::fs::write(&path, unit().replace("/usr/bin/quota-proxy", BINARY)).unwrap();
    silent(
        Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&path),
    );
    let mut security = Command::new("systemd-analyze");
    // Tenths: 2.0 of 10 at most.
    security.args(["security", "--no-pager", "--offline=true", "--threshold=20"]);
    let output = run(security.arg(&path));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Overall exposure level"), "{said}");
}

#[test]
fn systemd_waits_longer_than_streams_may_take() {
    let unit = unit();
    let waits = unit
        .lines()
        .find_map(|line| line.strip_prefix("TimeoutStopSec="));
    let waits: u64 = waits.unwrap().parse().unwrap();
    let defaults = quota_proxy::config::parse("", "none", &repository("conf"), &|_| None);
    let grace = defaults.unwrap().config.server.grace_period;
    // And the last settlements take up to 5 s.
    assert!(Duration::from_secs(waits) > grace + Duration::from_secs(5));
}

#[tokio::test]
async fn the_manager_hears_of_start_reload_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let heard = async || {
        eventually(PATIENCE, || async {
            let mut text = [0; 512];
            let length = socket.recv(&mut text)?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&text[..length]).into_owned())
        })
        .await
    };
    let name = path.display().to_string();
    let mut rig = Rig::builder().env("NOTIFY_SOCKET", &name).start().await;
    let pid = rig.process().pid();
    assert_eq!(
        heard().await,
        format!("READY=1\nMAINPID={pid}\nSTATUS=serving")
    );
    rig.process().signal("HUP");
    assert!(heard().await.starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(heard().await, "READY=1\nSTATUS=serving");
    std::fs::write(rig.config_path(), "pools: [").unwrap();
    rig.process().signal("HUP");
    assert!(heard().await.starts_with("RELOADING=1\n"));
    let refused = heard().await;
    assert!(
        refused.starts_with("READY=1\n") && refused.contains("refused"),
        "{refused}"
    );
    assert!(rig.term().await.success());
    assert_eq!(
        heard().await,
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=20000000\nSTATUS=draining"
    );
}

/// A `systemctl` that does to this process what `systemctl kill` does to the unit's.
fn systemctl(path: &std::path::Path, pid: u32) {
    let script = format!(
        "#!/bin/sh\n[ \"$*\" = 'kill --kill-who=main --signal=USR2 quota-proxy.service' ] && kill -USR2 {pid}\n"
    );
    std::fs::write(path, script).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn a_rotation_loses_no_line() {
    let rig = Rig::builder()
        .set("log.access", json!("access.jsonl"))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    let serve = async || {
        let answer = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap();
    };
    let lines = |name: &str| {
        let text = std::fs::read_to_string(rig.folder().join(name)).unwrap_or_default();
        text.lines().count()
    };
    serve().await;
    eventually(PATIENCE, || async {
        that(lines("access.jsonl"), |&n| n == 1)
    })
    .await;

    let folder = tempfile::tempdir().unwrap();
    systemctl(&folder.path().join("systemctl"), rig.process().pid());
    let rules = std::fs::read_to_string(repository("systemd/quota-proxy.logrotate")).unwrap();
    let rules = rules
        .replace("/var/log/quota-proxy", &rig.folder().display().to_string())
        .replace("/run/systemd/system", &folder.path().display().to_string());
    let config = folder.path().join("logrotate.conf");
    std::fs::write(&config, rules).unwrap();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o644)).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}:/usr/sbin", folder.path().display());
    let mut logrotate = Command::new("logrotate");
    logrotate.env("PATH", path).arg("--force").arg("--state");
    silent(logrotate.arg(folder.path().join("state")).arg(&config));

    assert_eq!(lines("access.jsonl.1"), 1);
    let new = rig.folder().join("access.jsonl");
    eventually(PATIENCE, || async { that(new.exists(), |&there| there) }).await;
    serve().await;
    eventually(PATIENCE, || async {
        that(lines("access.jsonl"), |&n| n == 1)
    })
    .await;
    assert_eq!(lines("access.jsonl.1"), 1);
    rig.end().await;
}
