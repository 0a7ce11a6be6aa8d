//! A redis-server as a child process: its own folder, its own port on loopback, ended with its owner.
//!
//! ```ignore
//! let redis = RedisServer::start_with(&["--appendonly", "yes"]);
//! redis.command(&["SET", "a", "1"]);
//! redis.kill();
//! redis.restart();
//! assert_eq!(redis.ask::<String>(&["GET", "a"]), "1");
//! ```
//!
//! It needs no runtime, so tests of every kind use it; its calls block for some milliseconds. The
//! tests' own commands go through a Unix socket: they are heard whatever is done to the port.

use std::fmt::Debug;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use redis::{Client, Connection, ConnectionInfo, FromRedisValue, IntoConnectionInfo as _};
use redis::{RedisResult, Value};
use tokio::net::TcpSocket;

/// Longer than any machine needs; only a hang or a fault waits for all of it.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);
/// How long a command of the test may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// With `start_acl` the test's own commands come from this user.
const OPERATOR: (&str, &str) = ("operator", "of-the-test");

/// What a server is started with, beside the defaults: no persistence, loopback, a free port.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// As on redis-server's command line: `["--appendonly", "yes"]`.
    pub arguments: Vec<String>,
    /// TLS only, with a certificate for `localhost` and `127.0.0.1`.
    pub is_tls: bool,
    /// The only user that gets in.
    pub user: Option<User>,
    /// Makes it a sentinel, with these lines of configuration.
    pub sentinel: Option<String>,
}

/// An ACL user.
#[derive(Clone, Debug)]
pub struct User {
    pub name: String,
    pub password: String,
    /// As for `ACL SETUSER`: `["~*", "&*", "+@all"]`.
    pub rules: Vec<String>,
}

/// A running redis-server. Killed when dropped; then, in a failed test, its log is shown.
#[derive(Debug)]
pub struct RedisServer {
    port: Port,
    setup: Setup,
    folder: tempfile::TempDir,
    child: Mutex<Child>,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::launch(Port::free(), Setup::default())
    }

    /// With more arguments, as on its command line; they win over the defaults.
    pub fn start_with(arguments: &[&str]) -> Self {
        let arguments = owned(arguments);
        let setup = Setup {
            arguments,
            ..Setup::default()
        };
        Self::launch(Port::free(), setup)
    }

    /// Speaks TLS only; clients must trust [`RedisServer::ca_path`].
    pub fn start_tls() -> Self {
        let setup = Setup {
            is_tls: true,
            ..Setup::default()
        };
        Self::launch(Port::free(), setup)
    }

    /// Nobody gets in but this user; `rules` as for `ACL SETUSER`.
    pub fn start_acl(name: &str, password: &str, rules: &[&str]) -> Self {
        let user = User {
            name: name.to_owned(),
            password: password.to_owned(),
            rules: owned(rules),
        };
        let setup = Setup {
            user: Some(user),
            ..Setup::default()
        };
        Self::launch(Port::free(), setup)
    }

    /// Starts it on that port, and waits until it answers.
    ///
    /// # Panics
    /// It is not installed (`make test-tools` does that), or does not answer; with its log.
    pub fn launch(port: Port, setup: Setup) -> Self {
        let folder = tempfile::Builder::new().prefix("redis-").tempdir().unwrap();
        if setup.is_tls {
            make_certificates(folder.path());
        }
        if let Some(lines) = &setup.sentinel {
            fs::write(folder.path().join("sentinel.conf"), lines).unwrap();
        }
        let child = Mutex::new(spawn(&port, &setup, folder.path()));
        let server = RedisServer {
            port,
            setup,
            folder,
            child,
        };
        server.wait_until_ready();
        server
    }

    /// For a client: with user and password where there is one, `rediss` where it speaks TLS.
    pub fn url(&self) -> String {
        self.url_at(self.address())
    }

    /// The same by way of another address, such as a fault proxy's.
    pub fn url_at(&self, address: SocketAddr) -> String {
        let scheme = if self.setup.is_tls { "rediss" } else { "redis" };
        let user = self.setup.user.as_ref();
        let user = user.map(|user| format!("{}:{}@", user.name, user.password));
        format!("{scheme}://{}{address}", user.unwrap_or_default())
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address
    }

    pub fn port(&self) -> u16 {
        self.port.address.port()
    }

    /// The certificate (PEM) that a client of a TLS server must trust.
    pub fn ca_path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// SIGKILL, and waits until the process is gone. Its port refuses connections from then on.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        // It may be gone already.
        child.kill().unwrap_or_default();
        child.wait().unwrap();
    }

    /// Starts it again with the same port, folder and arguments; kills it first if it runs.
    pub fn restart(&self) {
        self.kill();
        let child = spawn(&self.port, &self.setup, self.folder.path());
        *self.child.lock().unwrap() = child;
        self.wait_until_ready();
    }

    /// SIGSTOP: the kernel still accepts connections and bytes for it, and nobody answers.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    pub fn is_running(&self) -> bool {
        let status = self.child.lock().unwrap().try_wait().unwrap();
        status.is_none()
    }

    fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success(), "kill -s {name} {pid}");
    }

    /// Runs one command of the test's.
    ///
    /// # Panics
    /// It fails; see [`RedisServer::attempt`].
    pub fn command(&self, words: &[&str]) -> Value {
        self.ask(words)
    }

    /// [`RedisServer::command`], its answer read as `T`.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let answer = self.attempt(words);
        answer.unwrap_or_else(|e| panic!("{words:?} at port {}: {e}", self.port()))
    }

    /// Runs one command of the test's, which may fail.
    pub fn attempt<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(word);
        }
        command.query(&mut self.connect()?)
    }

    /// One field of `INFO`, such as `used_memory` or `cmdstat_evalsha`, if it is there and the server
    /// answers.
    pub fn info(&self, field: &str) -> Option<String> {
        let all: String = self.attempt(&["INFO", "everything"]).ok()?;
        let mut lines = all.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(name, _)| *name == field)?;
        Some(value.trim_end().to_owned())
    }

    /// Waits until its replicas, one at least, have all that was written until now. (`WAIT` speaks of
    /// what its own connection wrote; each of our commands has its own.)
    pub fn wait_until_replicated(&self) {
        let written = self.info("master_repl_offset");
        let written: u64 = written.and_then(|offset| offset.parse().ok()).unwrap();
        soon("its replicas have all", || {
            let all: String = self.ask(&["INFO", "replication"]);
            let replicas = all.lines().filter(|line| line.starts_with("slave"));
            let offsets: Vec<Option<u64>> = replicas.map(replica_offset).collect();
            let has_all = |offset: &Option<u64>| offset.is_some_and(|offset| offset >= written);
            let is_so = !offsets.is_empty() && offsets.iter().all(has_all);
            if is_so { Ok(()) } else { Err(all) }
        });
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("redis.log")).unwrap_or_default()
    }

    /// Through the Unix socket, as the operator where users are asked for.
    fn connect(&self) -> RedisResult<Connection> {
        let socket = self.folder.path().join("redis.sock");
        let address = redis::ConnectionAddr::Unix(socket);
        let info: ConnectionInfo = address.into_connection_info()?;
        let mut settings = info.redis_settings().clone().set_skip_set_lib_name();
        if self.setup.user.is_some() {
            let (name, password) = OPERATOR;
            settings = settings.set_username(name).set_password(password);
        }
        let connection = Client::open(info.set_redis_settings(settings))?.get_connection()?;
        connection.set_read_timeout(Some(COMMAND_TIMEOUT))?;
        Ok(connection)
    }

    fn wait_until_ready(&self) {
        soon("redis-server answers", || {
            let log = || self.log();
            assert!(self.is_running(), "redis-server ended:\n{}", log());
            self.attempt::<String>(&["PING"])
                .map_err(|e| (e, self.log()))
        });
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        let child = child.unwrap_or_else(std::sync::PoisonError::into_inner);
        child.kill().unwrap_or_default();
        child.wait().ok();
        if std::thread::panicking() {
            println!("--- redis at {}:\n{}---", self.address(), self.log());
        }
    }
}

fn spawn(port: &Port, setup: &Setup, folder: &Path) -> Child {
    let mut command = Command::new("redis-server");
    if setup.sentinel.is_some() {
        command.args(["sentinel.conf", "--sentinel"]);
    }
    let number = port.address.port().to_string();
    if setup.is_tls {
        command.args(["--port", "0", "--tls-port", &number]);
        command.args(["--tls-cert-file", "server.pem", "--tls-key-file"]);
        command.args(["server.key", "--tls-ca-cert-file", "ca.pem"]);
        command.args(["--tls-auth-clients", "no", "--tls-replication", "yes"]);
    } else {
        command.args(["--port", &number]);
    }
    command.args(["--bind", "127.0.0.1", "--unixsocket", "redis.sock"]);
    command.args(["--logfile", "redis.log", "--save", ""]);
    command.args(["--appendonly", "no", "--repl-diskless-sync-delay", "0"]);
    if let Some(user) = &setup.user {
        command.args(["--user", "default", "off"]);
        let (name, password) = OPERATOR;
        command.args(["--user", name, "on", &format!(">{password}")]);
        command.args(["~*", "&*", "+@all"]);
        command.args(["--user", &user.name, "on", &format!(">{}", user.password)]);
        command.args(&user.rules);
    }
    command.args(&setup.arguments).current_dir(folder);
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
    quiet
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("redis-server: {e}; these tests need it (make test-tools)"))
}

/// A CA of its own (`ca.pem`), and from it the server's certificate (`server.pem`, `server.key`).
fn make_certificates(folder: &Path) {
    let openssl = |words: &str| {
        let mut command = Command::new("openssl");
        command.args(words.split(' ')).current_dir(folder);
        let output = command
            .output()
            .unwrap_or_else(|e| panic!("openssl: {e}; these tests need it (make test-tools)"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {words}:\n{said}");
    };
    let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    // Each its own name, so that another server's authority is an unknown one.
    let name = folder.file_name().unwrap().to_string_lossy();
    openssl(&format!(
        "{new} -keyout ca.key -out ca.pem -subj /CN=ca-of-{name}"
    ));
    openssl(&format!(
        "{new} -keyout server.key -out server.pem -subj /CN=localhost -CA ca.pem -CAkey ca.key \
         -addext basicConstraints=critical,CA:FALSE \
         -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    ));
}

/// From `slave0:ip=127.0.0.1,port=6380,state=online,offset=14,lag=0`.
fn replica_offset(line: &str) -> Option<u64> {
    let (_, offset) = line.split_once(",state=online,offset=")?;
    offset.split_once(',')?.0.parse().ok()
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A port of loopback that is ours until this is dropped, whether a server listens there or not.
///
/// The socket is bound and never listens; with `SO_REUSEADDR` on both, a server may listen beside it,
/// and the kernel gives the port to nobody else.
#[derive(Debug)]
pub struct Port {
    pub address: SocketAddr,
    _held: TcpSocket,
}

impl Port {
    pub fn free() -> Self {
        let held = TcpSocket::new_v4().unwrap();
        held.set_reuseaddr(true).unwrap();
        held.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = held.local_addr().unwrap();
        Port {
            address,
            _held: held,
        }
    }
}

/// Calls `probe` until it answers `Ok` and returns that; panics with its last `Err`. Blocks.
pub fn soon<T, E: Debug>(what: &str, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(last) if start.elapsed() > PATIENCE => {
                panic!("{what}: not within {PATIENCE:?}; last seen: {last:#?}")
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
