//! RELIABILITY 18: a new process takes over from a running one, and no request notices; one that cannot
//! take over leaves the running one as it was.
#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

mod background;
mod changed;
mod crowd;
mod deaths;
mod ends;
mod goes_well;
mod halves;
mod protocol;
mod refused;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::json;

use crate::support::admin::Key;
use crate::support::chance::Chance;
use crate::support::rig::{Builder, CHAT, Rig, chat};
use crate::support::soak::soak;
use crate::support::wait::{PATIENCE, eventually};

pub const BINARY: &str = env!("CARGO_BIN_EXE_quota-proxy");

/// A proxy, and the processes that took over from it. Those are nobody's children: they end with this.
pub struct Succession {
    pub rig: Rig,
    pub later: Later,
}

/// Processes that were started by others.
#[derive(Default)]
pub struct Later(pub Vec<u32>);

impl Succession {
    pub async fn start(builder: Builder) -> Self {
        let builder = builder.set("server.upgrade_sock", json!("run/upgrade.sock"));
        let rig = builder.start().await;
        let socket = rig.folder().join("run/upgrade.sock");
        eventually(PATIENCE, || async {
            std::fs::metadata(&socket).map_err(|fault| fault.to_string())
        })
        .await;
        Succession {
            rig,
            later: Later::default(),
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.rig.folder().join("run/upgrade.sock")
    }

    /// The process that serves.
    pub fn pid(&self) -> u32 {
        *self.later.0.last().unwrap_or(&self.rig.process().pid())
    }

    /// `quota-proxy upgrade` with these arguments.
    pub async fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command
            .arg("upgrade")
            .arg("--config")
            .arg(self.rig.config_path());
        command.args(arguments);
        output(command).await
    }

    /// One upgrade that must go well.
    pub async fn upgrade(&mut self) {
        let said = self.ask(&[]).await;
        let (out, err) = texts(&said);
        assert!(
            said.status.success(),
            "{out}{err}{}",
            self.rig.process().output()
        );
        self.took_over(&said);
    }

    /// Notes who serves by now.
    pub fn took_over(&mut self, said: &Output) {
        let (out, _) = texts(said);
        let last = out.lines().last().unwrap();
        let pid = last
            .strip_prefix("process ")
            .and_then(|rest| rest.split(' ').next());
        let pid = pid.and_then(|pid| pid.parse().ok());
        self.later.0.push(pid.unwrap_or_else(|| panic!("{out}")));
    }

    /// An upgrade that must not happen; answers why, in the words of the command.
    pub async fn refused(&self, arguments: &[&str]) -> String {
        let before = self.pid();
        let said = self.ask(arguments).await;
        let (out, err) = texts(&said);
        assert!(!said.status.success(), "{out}{err}");
        assert!(err.contains("goes on as it was"), "{err}");
        assert!(is_alive(before), "{out}{err}");
        err
    }

    /// One request that must be answered, and the admin service too.
    pub async fn serves(&self, key: &Key) {
        let answer = self.rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
        assert_eq!(answer.status(), 200, "{}", self.rig.process().output());
        self.rig.admin().show(key).await;
    }

    /// Every process but the last has ended by itself, then that one ends by SIGTERM; none panicked.
    pub async fn end(mut self) -> Rig {
        self.rig.admin().settled().await;
        let last = self.pid();
        for pid in self.later.0.iter().filter(|pid| **pid != last) {
            gone(*pid).await;
        }
        let first = self.rig.process_mut().exited(PATIENCE).await;
        assert!(first.success(), "{first}");
        signal(last, "TERM");
        gone(last).await;
        let said = self.rig.process().output();
        assert!(
            !said.contains("panicked") && !said.contains(" ERROR "),
            "{said}"
        );
        self.rig
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        for pid in self.0.iter().filter(|pid| is_alive(**pid)) {
            let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
            killed.unwrap();
        }
    }
}

pub fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

pub async fn output(mut command: Command) -> Output {
    let run = move || command.output().unwrap();
    tokio::task::spawn_blocking(run).await.unwrap()
}

pub fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status();
    assert!(sent.unwrap().success(), "kill -s {name} {pid}");
}

pub async fn gone(pid: u32) {
    eventually(PATIENCE, || async {
        if is_alive(pid) { Err("alive") } else { Ok(()) }
    })
    .await;
}

/// A file that is run in place of the new binary.
pub fn script(folder: &Path, name: &str, shell: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{shell}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// The same, after it has found the configuration good.
pub fn server(folder: &Path, name: &str, shell: &str) -> String {
    let shell = format!("[ \"$1\" = check ] && exec {BINARY} \"$@\"\n{shell}");
    script(folder, name, &shell)
}
