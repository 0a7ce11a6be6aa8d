//! The processes under measurement: started on their cores, sampled through `/proc`, killed at the end.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{self, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Outcome, bare};

const BINARY: &str = env!("CARGO_BIN_EXE_quota-proxy");
const ADMIN_TOKEN: &str = "bench-admin-token-0123456789";
/// How long a child may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running process. Killed when dropped.
#[derive(Debug)]
pub struct Child {
    process: process::Child,
    pub address: SocketAddr,
    admin: Option<SocketAddr>,
    _folder: Option<tempfile::TempDir>,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    at: Instant,
    /// On a core, user and system, all threads that live.
    cpu_ns: u64,
    pub resident_kib: u64,
    pub peak_kib: u64,
}

/// What it used between two samples.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    pub elapsed: Duration,
    pub cpu: Duration,
}

impl Sample {
    pub fn since(&self, before: &Sample) -> Used {
        Used {
            elapsed: self.at - before.at,
            cpu: Duration::from_nanos(self.cpu_ns.saturating_sub(before.cpu_ns)),
        }
    }
}

impl Child {
    /// The fake provider, on core 1, as fast as it goes.
    pub fn provider() -> Outcome<Self> {
        let mut command = pinned(1, BINARY);
        command.args(["fake-upstream", "--listen", "127.0.0.1:0"]);
        command.args(["--latency", "0ms", "--chunk-interval", "0ms"]);
        command.stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let said = process.stdout.take().ok_or("no output")?;
        let addresses = listening(said, 1)?;
        Ok(Child {
            process,
            address: addresses[0],
            admin: None,
            _folder: None,
        })
    }

    /// The bare forwarder, on core 0: this binary once more.
    pub fn bare(upstream: SocketAddr) -> Outcome<Self> {
        let own = std::env::current_exe()?;
        let mut command = pinned(0, &own.display().to_string());
        command.arg(bare::COMMAND).arg(upstream.to_string());
        command.stderr(Stdio::piped());
        let mut process = command.spawn()?;
        let said = process.stderr.take().ok_or("no output")?;
        let addresses = listening(said, 1)?;
        let child = Child {
            process,
            address: addresses[0],
            admin: None,
            _folder: None,
        };
        child.wait_for_accept()?;
        Ok(child)
    }

    /// quota-proxy on core 0, one thread, the embedded store with its defaults.
    pub fn quota(upstream: SocketAddr) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let config = json!({
            "server": {"threads": 1},
            "edge": {"listen": ["127.0.0.1:0"]},
            "admin": {"listen": "127.0.0.1:0", "token": ADMIN_TOKEN},
            "store": {"path": folder.path().join("quota.db")},
            "log": {"level": "warn", "access": folder.path().join("access.jsonl")},
            "pools": [{
                "name": "openai", "dialect": "openai", "models": ["gpt-*"],
                "peers": [{"url": format!("http://{upstream}"), "credential": "sk-upstream"}],
            }],
        });
        // A JSON text is a YAML text too.
        let file = folder.path().join("quota-proxy.yaml");
        fs::write(&file, config.to_string())?;
        let mut command = pinned(0, BINARY);
        command.arg("serve").arg("--config").arg(file);
        command.stderr(Stdio::piped());
        let mut process = command.spawn()?;
        let said = process.stderr.take().ok_or("no output")?;
        let addresses = listening(said, 2)?;
        let child = Child {
            process,
            address: addresses[0],
            admin: Some(addresses[1]),
            _folder: Some(folder),
        };
        child.wait_for_accept()?;
        Ok(child)
    }

    /// A key with every kind of quota, none of which will be used up.
    pub async fn make_key(&self) -> Outcome<String> {
        let admin = self.admin.ok_or("only quota-proxy has keys")?;
        let body = json!({
            "name": "bench", "rate_limit_tier": "unlimited", "token_limit": 1_000_000_000_000_u64,
            "request_limit": 1_000_000_000_000_u64, "usd_limit": 1_000_000,
        });
        let client = reqwest::Client::builder().no_proxy().build()?;
        let request = client.post(format!("http://{admin}/admin/api-keys"));
        let answer = request.bearer_auth(ADMIN_TOKEN).json(&body).send().await?;
        let answer: Value = answer.json().await?;
        let key = answer["api_key"].as_str().map(str::to_owned);
        key.ok_or_else(|| format!("no key: {answer}").into())
    }

    pub fn sample(&self) -> Outcome<Sample> {
        let pid = self.process.id();
        let mut cpu_ns = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end between the listing and the reading.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
                continue;
            };
            let on_core = text.split(' ').next().unwrap_or_default();
            cpu_ns += on_core.parse::<u64>()?;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = |name: &str| -> Outcome<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            Ok(number.ok_or("no such line in status")?.parse()?)
        };
        Ok(Sample {
            at: Instant::now(),
            cpu_ns,
            resident_kib: kib("VmRSS:")?,
            peak_kib: kib("VmHWM:")?,
        })
    }

    fn wait_for_accept(&self) -> Outcome<()> {
        let start = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            if start.elapsed() > PATIENCE {
                return Err(format!("nobody listens at {}", self.address).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.process.kill().unwrap_or_default();
        self.process.wait().ok();
    }
}

/// The addresses in the first `count` lines that name one. The rest of the output is read and dropped.
fn listening(said: impl Read + Send + 'static, count: usize) -> Outcome<Vec<SocketAddr>> {
    let mut lines = BufReader::new(said).lines();
    let mut addresses = Vec::new();
    let mut heard = String::new();
    while addresses.len() < count {
        let line = lines
            .next()
            .ok_or_else(|| format!("ended before it listened:\n{heard}"))??;
        let address = line.split_once("listening on http://");
        let address = address.and_then(|(_, rest)| rest.split(' ').next());
        if let Some(address) = address {
            addresses.push(address.parse()?);
        }
        heard.push_str(&line);
        heard.push('\n');
    }
    std::thread::spawn(move || lines.for_each(drop));
    Ok(addresses)
}

fn pinned(core: u32, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &core.to_string(), program]);
    command.stdin(Stdio::null());
    command
}

/// Puts this process and the threads it will start on one core.
pub fn pin_self(core: u32) -> Outcome<()> {
    let own = process::id().to_string();
    let pinned = Command::new("taskset")
        .args(["--cpu-list", "--pid", &core.to_string(), &own])
        .stdout(Stdio::null())
        .status()?;
    if !pinned.success() {
        return Err("taskset failed: this bench needs two cores".into());
    }
    Ok(())
}

/// Room for the open streams, here and in the children.
pub fn raise_file_limit() -> Outcome<()> {
    let own = process::id().to_string();
    let raised = Command::new("prlimit")
        .args(["--pid", &own, "--nofile=8192"])
        .status()?;
    if !raised.success() {
        return Err("prlimit failed: this bench needs 8192 open files".into());
    }
    Ok(())
}
