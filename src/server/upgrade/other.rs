//! The process at the other end of a connection, held fast: the number of one that has ended may come to
//! mean another, a descriptor of it (pidfd_open(2)) never does.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;

/// How often it is looked whether a process lives.
const LOOK: Duration = Duration::from_millis(20);

/// Another process of this user.
#[derive(Debug)]
pub struct Other {
    pid: i32,
    /// `None` where the system has no such descriptors.
    handle: Option<OwnedFd>,
}

impl Other {
    /// The process that connected, or listens.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn of(connection: &UnixStream) -> io::Result<Other> {
        let pid = connection.peer_cred()?.pid().unwrap_or_default();
        let handle = Pid::from_raw(pid).and_then(hold);
        Ok(Other { pid, handle })
    }

    /// Its number, for people.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether a signal reaches this process or none. Where it is false, a signal is safe only while a
    /// connection to it is open.
    pub fn is_held(&self) -> bool {
        self.handle.is_some()
    }

    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match (&self.handle, Pid::from_raw(self.pid)) {
            #[cfg(target_os = "linux")]
            (Some(handle), _) => Ok(rustix::process::pidfd_send_signal(handle, signal)?),
            (_, Some(pid)) => Ok(kill_process(pid, signal)?),
            (_, None) => Err(io::Error::from(io::ErrorKind::Unsupported)),
        }
    }

    /// Whether it has ended, or does so in time. Cancel safe.
    pub async fn ends_within(&self, patience: Duration) -> bool {
        let ended = async {
            while self.lives() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(patience, ended).await.is_ok()
    }

    /// One that nobody has waited for yet has ended, too.
    fn lives(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
        status.is_ok_and(|status| !status.contains("State:\tZ"))
    }
}

#[cfg(target_os = "linux")]
fn hold(pid: Pid) -> Option<OwnedFd> {
    use rustix::process::{PidfdFlags, pidfd_open};
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

#[cfg(not(target_os = "linux"))]
fn hold(_: Pid) -> Option<OwnedFd> {
    None
}

/// The process that this one has taken over from, for as long as it lives: what this one is told concerns
/// its exchanges too.
#[derive(Debug, Default)]
pub struct Before(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    process: Option<Other>,
    /// That the end was asked for, before it was known whom to tell.
    last: Option<Signal>,
}

impl Before {
    /// From here on it is told; also what it should have been told before.
    pub fn is(&self, process: Other) {
        let mut told = self.0.lock();
        if let Some(signal) = told.last {
            send(&process, signal);
        }
        told.process = Some(process);
    }

    /// It has ended.
    pub fn is_over(&self) {
        self.0.lock().process = None;
    }

    /// Has it end as this process ends: `signal` is one of [`super::END_TOO`] and SIGINT.
    pub fn end(&self, signal: Signal) {
        let mut told = self.0.lock();
        told.last = Some(signal);
        if let Some(process) = &told.process {
            send(process, signal);
        }
    }

    /// Passes on what is nothing to one that comes later.
    pub fn tell(&self, signal: Signal) {
        if let Some(process) = &self.0.lock().process {
            send(process, signal);
        }
    }
}

fn send(process: &Other, signal: Signal) {
    if let Err(fault) = process.signal(signal) {
        log::debug!("process {} did not hear {signal:?}: {fault}", process.pid());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_lives_is_held_and_its_end_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let connect = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); time.sleep(600)";
        let mut child = std::process::Command::new("python3")
            .args(["-c", connect])
            .arg(&path)
            .spawn()
            .unwrap();
        let (connection, _) = listener.accept().await.unwrap();
        let other = Other::of(&connection).unwrap();
        assert_eq!(other.pid(), i32::try_from(child.id()).unwrap());
        assert!(!other.ends_within(Duration::from_millis(20)).await);
        other.signal(Signal::KILL).unwrap();
        assert!(other.ends_within(Duration::from_secs(20)).await);
        // It lies there until it is waited for.
        child.wait().unwrap();
        // It is nobody's number any more, or another's: nobody is told.
        assert!(other.is_held() && other.signal(Signal::KILL).is_err());
    }
}
