//! The real binary as a child process.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::wait::{PATIENCE, eventually};

/// A running `quota-proxy serve`. Killed when dropped; then, in a failed test, its output is shown.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    pub edge: SocketAddr,
    /// Where the edge listens with TLS, in the order of its configuration.
    pub tls: Vec<SocketAddr>,
    pub admin: SocketAddr,
}

impl Process {
    /// Starts the binary, after a few words of shell, and waits until it says where it listens.
    ///
    /// # Panics
    /// It ends before that, or says nothing for half a minute; with all it said.
    pub async fn serve(config: &Path, envs: &[(String, String)], prelude: &str) -> Self {
        let script = format!("{prelude}\nexec \"$0\" serve \"$@\"");
        let mut child = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_quota-proxy")])
            .arg("--config")
            .arg(config)
            .envs(envs.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn({
            let lines = Arc::clone(&lines);
            move || {
                let mut line = Vec::new();
                while stderr.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                    lines.lock().unwrap().push(text);
                    line.clear();
                }
            }
        });
        let none = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut process = Process {
            child,
            lines,
            edge: none,
            tls: Vec::new(),
            admin: none,
        };
        let start = Instant::now();
        while process.edge == none || process.admin == none {
            let exit = process.child.try_wait().unwrap();
            let said = || process.output();
            assert!(
                exit.is_none(),
                "it ended with {exit:?} and said:\n{}",
                said()
            );
            assert!(
                start.elapsed() < PATIENCE,
                "not listening; it said:\n{}",
                said()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
            let first = |found: Vec<SocketAddr>| found.first().copied().unwrap_or(none);
            process.edge = first(process.listening("http", "edge"));
            process.tls = process.listening("https", "edge");
            // It says this last.
            process.admin = first(process.listening("http", "admin"));
        }
        process
    }

    /// Everything it wrote to stderr.
    pub fn output(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its short name, such as `TERM`, `HUP` or `STOP`.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success(), "kill -s {name} {pid}");
    }

    /// Bytes of it that are in memory.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that were in memory at once, since [`Self::forget_peak`].
    pub fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The peak begins anew, at what is in memory now (proc_pid_clear_refs(5)).
    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").unwrap();
    }

    fn memory(&self, which: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(which));
        let kilobytes = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kilobytes.parse::<u64>().unwrap() << 10
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// How it ended, once it has.
    pub async fn exited(&mut self, patience: Duration) -> ExitStatus {
        let child = std::cell::RefCell::new(&mut self.child);
        eventually(patience, || async {
            let status = child.borrow_mut().try_wait().unwrap();
            status.ok_or("still running")
        })
        .await
    }

    /// From lines as `listening on http://127.0.0.1:PORT (edge)`.
    fn listening(&self, scheme: &str, what: &str) -> Vec<SocketAddr> {
        let (beginning, ending) = (format!("listening on {scheme}://"), format!(" ({what})"));
        let lines = self.lines.lock().unwrap();
        let address = |line: &String| {
            let (_, address) = line.split_once(&beginning)?;
            address.strip_suffix(&ending)?.parse().ok()
        };
        lines.iter().filter_map(address).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().unwrap_or_default();
        self.child.wait().ok();
        if std::thread::panicking() {
            println!("--- the proxy said:\n{}\n---", self.output());
        }
    }
}
