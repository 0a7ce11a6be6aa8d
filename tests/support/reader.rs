//! Other servers behind the proxy: other readers of our framing, which say what they read.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tokio::net::{TcpSocket, TcpStream};

use super::sdk::PYTHON;
use super::wait::{PATIENCE, eventually, that};

/// Where Debian puts it; not every `PATH` has it.
const HAPROXY: &str = "/usr/sbin/haproxy";

/// A server that prints a line for each request. Killed when dropped.
#[derive(Debug)]
pub struct Reader {
    pub url: String,
    lines: Arc<Mutex<Vec<String>>>,
    child: Child,
    /// Keeps the port ours; haproxy listens beside it.
    _port: Option<TcpSocket>,
    _folder: Option<tempfile::TempDir>,
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/upstreams")
        .join(name)
}

impl Reader {
    /// Node's own HTTP server.
    pub async fn node() -> Self {
        let mut command = Command::new("node");
        command.arg(script("node.mjs"));
        Self::announced(command).await
    }

    /// A server over h11.
    pub async fn h11() -> Self {
        Self::python("h11_server.py").await
    }

    /// A realtime API over `websockets`.
    pub async fn sockets() -> Self {
        Self::python("socket_server.py").await
    }

    async fn python(name: &str) -> Self {
        let python = tokio::task::spawn_blocking(|| PYTHON.installed().join("venv/bin/python"));
        let mut command = Command::new(python.await.unwrap());
        command.arg(script(name));
        Self::announced(command).await
    }

    /// haproxy before `upstream`.
    ///
    /// # Panics
    /// It is not installed (`make test-tools` does that), or does not start.
    pub async fn haproxy(upstream: &str) -> Self {
        let port = TcpSocket::new_v4().unwrap();
        port.set_reuseport(true).unwrap();
        port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = port.local_addr().unwrap();
        let server = upstream.trim_start_matches("http://");
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "global
    log stdout format raw local0 info
defaults
    mode http
    log global
    option dontlognull
    log-format \"%ST %HM %HU\"
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    http-reuse always
frontend front
    bind {address}
    default_backend back
backend back
    server fake {server}
"
        );
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(HAPROXY);
        command.arg("-db").arg("-f").arg(&file);
        let mut reader = Self::start(command);
        reader.url = format!("http://{address}");
        (reader._port, reader._folder) = (Some(port), Some(folder));
        eventually(PATIENCE, || TcpStream::connect(address)).await;
        reader
    }

    async fn announced(command: Command) -> Self {
        let mut reader = Self::start(command);
        let announced = |lines: &Vec<String>| !lines.is_empty();
        let lines = eventually(PATIENCE, || async { that(reader.said(), announced) }).await;
        let port = lines[0].strip_prefix("listening ").unwrap();
        reader.url = format!("http://127.0.0.1:{port}");
        reader
    }

    fn start(mut command: Command) -> Self {
        let program = command.get_program().to_owned();
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{program:?}: {e}; see make test-tools"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let said = BufReader::new(child.stdout.take().unwrap());
        let heard = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                heard.lock().unwrap().push(line);
            }
        });
        Reader {
            url: String::new(),
            lines,
            child,
            _port: None,
            _folder: None,
        }
    }

    /// Everything it has printed.
    pub fn said(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// A line for each request it has read, and for each that it could not.
    pub fn requests(&self) -> Vec<String> {
        let mut lines = self.said();
        lines.retain(|line| !line.starts_with("listening"));
        lines
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().ok();
    }
}
