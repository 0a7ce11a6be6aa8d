//! `quota-proxy demo --redis`: two edges on one Redis, one set of books.
//!
//! ```text
//!   demo ─┬─ edge 1, in this process ─┐
//!         ├─ edge 2, a child ─────────┼─▶ Redis: given, found, or a child
//!         └─ fake LLM ◀───────────────┘
//! ```

use std::ffi::OsStr;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::companion::{Companion, lines_until};
use crate::store::{Store, StoreError};

/// By this name both edges are told where Redis is: a URL may hold a password, which is written
/// nowhere and seen in no list of processes.
pub(super) const URL_VARIABLE: &str = "QUOTA_PROXY_DEMO_REDIS";
/// `store` of both edges.
pub(super) const STORE: &str =
    "{kind: redis, path: quota.db, redis: {urls: [\"${QUOTA_PROXY_DEMO_REDIS}\"]}}";
/// Read where `--redis` names none.
const GIVEN_VARIABLE: &str = "REDIS_URL";

/// Where a Redis is looked for.
const USUAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6379);
/// One attempt to reach a Redis.
const PING_TIMEOUT: Duration = Duration::from_millis(300);
/// How long Redis may take to start, or to answer the store for the first time.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
/// Another program may take the port that was free a moment ago.
const ATTEMPTS: usize = 3;

/// A Redis for the demo.
#[derive(Debug)]
pub(super) struct Redis {
    pub(super) url: String,
    /// In the words of the story, without a password.
    pub(super) told: String,
    _server: Option<Companion>,
}

impl Redis {
    /// `wish` is what follows `--redis`: a URL, `new`, or nothing. Then `$REDIS_URL`, the usual port
    /// where something answers there, and a server of our own are tried in this order.
    ///
    /// # Errors
    /// A text for the person at the terminal: none is installed, or it does not start.
    pub(super) fn find(wish: &str, scratch: &Path) -> Result<Redis, String> {
        let given = |url: String, told: &str| Redis {
            url,
            told: told.to_owned(),
            _server: None,
        };
        match wish {
            "" => {}
            "new" => return start(scratch),
            url => return Ok(given(url.to_owned(), "the Redis that --redis names")),
        }
        let variable = std::env::var(GIVEN_VARIABLE).ok();
        if let Some(url) = variable.filter(|url| !url.is_empty()) {
            return Ok(given(url, "the Redis that $REDIS_URL names"));
        }
        if answers_ping(USUAL) {
            let told = format!(
                "redis://{USUAL}/0, which was there (what the demo writes stays, under qp1:*; --redis new starts another)"
            );
            return Ok(given(format!("redis://{USUAL}/0"), &told));
        }
        start(scratch)
    }
}

/// A server of our own on a free port. It keeps its file in the scratch folder and ends with the demo.
fn start(scratch: &Path) -> Result<Redis, String> {
    let program = installed().ok_or(
        "no Redis answers at 127.0.0.1:6379, and neither redis-server nor valkey-server is on the PATH\n\
         Install one: sudo apt-get install redis-server, or name one: quota-proxy demo --redis redis://host:6379/0",
    )?;
    let folder = scratch.join("redis");
    let made = DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&folder);
    made.map_err(|fault| fault.to_string())?;
    let mut said = String::new();
    for _ in 0..ATTEMPTS {
        let port = free_port().map_err(|fault| fault.to_string())?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let number = port.to_string();
        let words = [
            "--port",
            &number,
            "--bind",
            "127.0.0.1",
            "--appendonly",
            "yes",
        ];
        let words = words.into_iter().chain(["--save", "", "--daemonize", "no"]);
        let words: Vec<&OsStr> = words
            .chain(["--logfile", "redis.log", "--dir"])
            .map(OsStr::new)
            .chain([folder.as_os_str()])
            .collect();
        let started = Companion::start(OsStr::new(program), &words, &[]);
        let (mut server, mut stderr) = started.map_err(|fault| fault.to_string())?;
        if wait_for_ping(&mut server, address) {
            return Ok(Redis {
                url: format!("redis://{address}/0"),
                told: format!(
                    "redis://{address}/0, a {program} of this demo (redis-cli -p {port} --scan --pattern 'qp1:*')"
                ),
                _server: Some(server),
            });
        }
        drop(server);
        said.clear();
        // It has ended: there is no more to come.
        let _ = stderr.read_to_string(&mut said);
    }
    let log = std::fs::read_to_string(folder.join("redis.log")).unwrap_or_default();
    Err(format!("{program} does not start:\n{said}{log}"))
}

fn installed() -> Option<&'static str> {
    let runs = |program: &&str| {
        let mut command = Command::new(program);
        let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
        quiet.arg("--version").status().is_ok()
    };
    ["redis-server", "valkey-server"].into_iter().find(runs)
}

fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

fn wait_for_ping(server: &mut Companion, address: SocketAddr) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < START_TIMEOUT && !server.has_ended() {
        if answers_ping(address) {
            return true;
        }
        std::thread::sleep(PAUSE);
    }
    false
}

/// Whether a Redis listens there that asks for no password.
fn answers_ping(address: SocketAddr) -> bool {
    let ping = || -> io::Result<[u8; 5]> {
        let mut stream = TcpStream::connect_timeout(&address, PING_TIMEOUT)?;
        stream.set_read_timeout(Some(PING_TIMEOUT))?;
        stream.set_write_timeout(Some(PING_TIMEOUT))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    ping().is_ok_and(|answer| &answer == b"+PONG")
}

/// Waits until the store answers.
///
/// # Errors
/// What it says at last.
pub(super) async fn reachable(store: &dyn Store) -> Result<(), StoreError> {
    let begin = Instant::now();
    loop {
        match store.ping().await {
            Err(StoreError::Unavailable(_)) if begin.elapsed() < START_TIMEOUT => {
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// All that runs beside edge 1. Dropped, it ends in this order: edge 2 still writes to Redis then.
#[derive(Debug)]
pub(super) struct Fleet {
    /// The URLs of edge 2.
    pub(super) edge: String,
    pub(super) admin: String,
    _second: Companion,
    pub(super) redis: Redis,
}

impl Fleet {
    /// Starts edge 2 from this configuration, and waits until it listens.
    ///
    /// # Errors
    /// What edge 2 says: a taken port above all.
    pub(super) fn start(redis: Redis, yaml: &str, scratch: &Path) -> Result<Self, String> {
        let text = |fault: io::Error| fault.to_string();
        let config = scratch.join("edge-2.yaml");
        // It holds the admin token.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&config);
        file.and_then(|mut file| file.write_all(yaml.as_bytes()))
            .map_err(text)?;
        let program = std::env::current_exe().map_err(text)?;
        let words = ["serve".as_ref(), "--config".as_ref(), config.as_os_str()];
        let environment = [(URL_VARIABLE, redis.url.as_str())];
        let (second, mut stderr) =
            Companion::start(program.as_os_str(), &words, &environment).map_err(text)?;
        let lines = lines_until(&mut stderr, "(admin)").map_err(|said| {
            format!(
                "edge 2 does not start:\n{said}\nOther ports: quota-proxy demo --redis --second-edge 127.0.0.1:8807 --second-admin 127.0.0.1:8808"
            )
        })?;
        // From here on its warnings are ours.
        std::thread::Builder::new()
            .name("edge-2-says".into())
            .spawn(move || io::copy(&mut stderr, &mut io::stderr()))
            .map_err(text)?;
        let listening = |what: &str| {
            let line = lines.iter().find_map(|line| line.strip_suffix(what));
            let address = line.and_then(|line| line.split_once("listening on "));
            address.map(|(_, url)| url.to_owned()).unwrap_or_default()
        };
        Ok(Fleet {
            edge: listening(" (edge)"),
            admin: listening(" (admin)"),
            _second: second,
            redis,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_answers_a_ping_is_a_redis() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let answer = std::thread::spawn(move || {
            for answer in ["-NOAUTH Authentication required.\r\n", "+PONG\r\n"] {
                let (mut client, _) = listener.accept().unwrap();
                let mut asked = [0; 6];
                client.read_exact(&mut asked).unwrap();
                assert_eq!(&asked, b"PING\r\n");
                client.write_all(answer.as_bytes()).unwrap();
            }
        });
        assert!(!answers_ping(address), "it asks for a password");
        assert!(answers_ping(address));
        answer.join().unwrap();
        assert!(!answers_ping(address), "nobody is there");
    }

    #[test]
    fn a_url_is_taken_as_it_is_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let redis = Redis::find("redis://:secret@h/0", folder.path()).unwrap();
        assert_eq!(redis.url, "redis://:secret@h/0");
        assert!(!redis.told.contains("secret"));
        assert!(redis._server.is_none());
    }
}
