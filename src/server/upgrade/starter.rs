//! Starts a new binary that is to take over, for `quota-proxy upgrade`: in this process's own place,
//! with its rights and its environment, and only after the binary has checked the configuration.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt as _;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::UnixStream;

use super::giver::Successor;
use super::{Giver, Said};
use crate::store::movable::frame;

/// Longest wait for a binary to check the configuration.
const CHECK: Duration = Duration::from_secs(30);
/// Bytes of what it says that are told: a configuration with many faults.
const MOST_SAID: u64 = 64 * 1024;
/// How often it is looked at whether the new process still lives.
const LOOK: Duration = Duration::from_millis(50);

impl Giver {
    /// Answers one `quota-proxy upgrade`. `patience` is what a step of the new process may take.
    pub(super) async fn start(
        &self,
        binary: PathBuf,
        patience: Duration,
        mut connection: UnixStream,
    ) {
        let upgraded = self.upgrade_to(&binary, patience, &mut connection).await;
        let said = match upgraded {
            Ok(successor) => Said::Done {
                pid: successor.pid,
                release: successor.release,
            },
            Err(why) => {
                log::warn!("no upgrade to {}: {why}", binary.display());
                Said::Refused(why)
            }
        };
        // Where nobody waits for it the log has it.
        drop(frame::send(&mut connection, &said).await);
    }

    async fn upgrade_to(
        &self,
        binary: &Path,
        patience: Duration,
        connection: &mut UnixStream,
    ) -> Result<Successor, String> {
        let Ok(_turn) = self.starting.try_lock() else {
            return Err(String::from("another upgrade is under way"));
        };
        let checked = check(binary, self.source.as_deref()).await?;
        say(connection, checked).await;
        self.failure.lock().take();
        if let Some(successor) = &*self.taken.borrow() {
            return Err(format!("process {} has taken over already", successor.pid));
        }
        let mut child = serve(binary, self.source.as_deref(), self.path())
            .map_err(|fault| format!("{} does not start: {fault}", binary.display()))?;
        say(connection, format!("process {} is starting", child.id())).await;
        let usual = std::mem::replace(&mut *self.patience.lock(), patience);
        let done = self.wait_for(&mut child, patience).await;
        *self.patience.lock() = usual;
        done
    }

    /// Until the new process has taken over, or has not.
    async fn wait_for(&self, child: &mut Child, patience: Duration) -> Result<Successor, String> {
        let mut taken = self.taken.subscribe();
        let longest = 2 * patience;
        let give_up_at = Instant::now() + longest;
        loop {
            if let Some(successor) = taken.borrow_and_update().clone() {
                return Ok(successor);
            }
            if let Ok(Some(status)) = child.try_wait() {
                // What it has left undone is put in order first.
                let _turn = self.taking.lock().await;
                if let Some(successor) = taken.borrow_and_update().clone() {
                    return Ok(successor);
                }
                let why = self.failure.lock().take();
                let why = why.unwrap_or_else(|| String::from("its log says why"));
                return Err(format!("the new process has ended ({status}): {why}"));
            }
            // One that is taking over is given the time that each of its steps may take.
            if Instant::now() > give_up_at
                && let Ok(_turn) = self.taking.try_lock()
                && taken.borrow().is_none()
            {
                end(child);
                let seconds = longest.as_secs();
                return Err(format!("the new process did nothing for {seconds} s"));
            }
            // A time-out is a reason to look again, no more.
            drop(tokio::time::timeout(LOOK, taken.changed()).await);
        }
    }
}

async fn say(connection: &mut UnixStream, words: String) {
    log::info!("upgrade: {words}");
    // Whoever asked may have gone: it goes on all the same.
    drop(frame::send(connection, &Said::Progress(words)).await);
}

/// Has the binary check the configuration that it will load.
async fn check(binary: &Path, source: Option<&Path>) -> Result<String, String> {
    let mut command = Command::new(binary);
    let done = match source {
        Some(source) => {
            command.arg("check").arg("--config").arg(source);
            format!("{} finds {} good", binary.display(), source.display())
        }
        None => {
            command.arg("--version");
            format!("{} answers", binary.display())
        }
    };
    let checked = checked(command)
        .await
        .map_err(|fault| format!("{}: {fault}", binary.display()))?;
    match checked {
        (status, _) if status.success() => Ok(done),
        (status, said) => Err(format!(
            "{} does not accept the configuration ({status}): {}",
            binary.display(),
            said.trim()
        )),
    }
}

/// Runs a command to its end, or to the end of patience: how it ended and the beginning of what it said.
async fn checked(mut command: Command) -> Result<(ExitStatus, String), String> {
    let text = |fault: std::io::Error| fault.to_string();
    let (said, say) = std::io::pipe().map_err(text)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(say.try_clone().map_err(text)?)
        .stderr(say)
        .process_group(0)
        .spawn()
        .map_err(text)?;
    // It holds the other ends of the pipe.
    drop(command);
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let wait = move || {
        let mut bytes = Vec::new();
        let read = said.take(MOST_SAID).read_to_end(&mut bytes);
        // One that says more finds nobody to read it.
        let status = read.and_then(|_| child.wait());
        status.map(|status| (status, String::from_utf8_lossy(&bytes).into_owned()))
    };
    let waited = tokio::time::timeout(CHECK, tokio::task::spawn_blocking(wait)).await;
    match waited {
        Ok(Ok(ended)) => ended.map_err(text),
        Ok(Err(fault)) => Err(fault.to_string()),
        Err(_) => {
            let killed = group.map(|group| kill_process_group(group, Signal::KILL));
            log::debug!("a check that hung was ended: {killed:?}");
            Err(format!("no answer to a check for {} s", CHECK.as_secs()))
        }
    }
}

/// In a process group of its own: a terminal's Ctrl-C for this process is none for that one. It learns where
/// this one listens: the configuration may have changed that since.
fn serve(binary: &Path, source: Option<&Path>, socket: &Path) -> std::io::Result<Child> {
    let mut command = Command::new(binary);
    command.args(["serve", "--upgrade", "--socket"]).arg(socket);
    if let Some(source) = source {
        command.arg("--config").arg(source);
    }
    command.stdin(Stdio::null()).process_group(0).spawn()
}

fn end(child: &mut Child) {
    if let Err(fault) = child.kill().and_then(|()| child.wait()) {
        log::warn!("the new process could not be ended: {fault}");
    }
}
