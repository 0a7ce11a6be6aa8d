//! Servers whose stderr is gone, or goes nowhere.
#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::Value;

use super::*;
use crate::support::admin::Admin;
use crate::support::wait::that;

/// A configuration with an admin port that is known beforehand.
struct Place {
    folder: tempfile::TempDir,
    admin: Admin,
    config: Value,
}

impl Place {
    fn new() -> Place {
        let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (edge, admin) = (port(), port());
        let [edge, admin] = [edge, admin].map(|port| port.local_addr().unwrap());
        let config = json!({
            "server": {"upgrade_sock": "upgrade.sock"},
            "edge": {"listen": [edge]},
            "admin": {"listen": admin, "token": crate::support::admin::TOKEN},
            "store": {"path": "quota.db"},
        });
        let place = Place {
            folder: tempfile::tempdir().unwrap(),
            admin: Admin::new(admin),
            config,
        };
        place.write();
        place
    }

    fn write(&self) {
        std::fs::write(self.path("q.yaml"), self.config.to_string()).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command on its configuration.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(words).arg("--config").arg(self.path("q.yaml"));
        command
    }

    /// Answers the process that serves.
    async fn upgrade(&self) -> u32 {
        let said = output(self.command(&["upgrade"])).await;
        let (out, err) = texts(&said);
        assert!(said.status.success(), "{out}{err}");
        self.admin.get("/healthz").await;
        let last = out.lines().last().unwrap();
        last.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

fn in_background(said: &str) -> u32 {
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("running in the background as process "));
    let pid = line.unwrap_or_else(|| panic!("{said}"));
    let digits: String = pid.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_stderr_is_gone_is_upgraded_all_the_same() {
    let place = Place::new();
    let mut command = place.command(&["serve"]);
    let mut server = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut later = Later(vec![server.id()]);
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    let last = lines.find(|line| line.as_ref().unwrap().ends_with("(admin)"));
    last.unwrap().unwrap();
    // Nobody reads any more.
    drop(lines);
    eventually(PATIENCE, || async {
        that(place.path("upgrade.sock").exists(), |exists| *exists)
    })
    .await;
    later.0.push(place.upgrade().await);
    later.0.push(place.upgrade().await);
    let first = tokio::task::spawn_blocking(move || server.wait().unwrap());
    assert!(first.await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_serves_logs_to_its_file_and_is_upgraded() {
    let place = Place::new();
    let log = place.path("log");
    let text = || std::fs::read_to_string(&log).unwrap();
    let mut command = place.command(&["serve", "--daemon"]);
    let status = command.stderr(File::create(&log).unwrap()).status();
    assert!(status.unwrap().success(), "{}", text());
    // It has returned: it serves, and can be upgraded.
    place.admin.get("/healthz").await;
    let first = in_background(&text());
    let mut later = Later(vec![first]);
    later.0.push(place.upgrade().await);
    gone(first).await;
    assert!(text().contains("has taken over"), "{}", text());
    // By hand it takes over too, and returns when it has.
    let mut command = place.command(&["serve", "--upgrade", "--daemon"]);
    let said = output({
        command.stdin(Stdio::null());
        command
    })
    .await;
    let (_, err) = texts(&said);
    assert!(
        said.status.success() && err.contains("goes nowhere"),
        "{err}"
    );
    let last = in_background(&err);
    later.0.push(last);
    place.admin.get("/healthz").await;
    gone(later.0[1]).await;
    // Nobody holds the pipe of the command that is over.
    later.0.push(place.upgrade().await);
    gone(last).await;
    signal(later.0[3], "TERM");
    gone(later.0[3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_cannot_start_says_why() {
    let mut place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    place.config["edge"]["listen"] = json!([taken.local_addr().unwrap()]);
    place.write();
    let said = output(place.command(&["serve", "--daemon"])).await;
    let (_, err) = texts(&said);
    assert_eq!(said.status.code(), Some(1), "{err}");
    assert!(err.contains("edge.listen"), "{err}");
    place.config["quota"] = json!({"admision": "strict"});
    place.write();
    let said = output(place.command(&["serve", "--daemon"])).await;
    let (_, err) = texts(&said);
    assert_eq!(said.status.code(), Some(1), "{err}");
    assert!(err.contains("admision"), "{err}");
}
