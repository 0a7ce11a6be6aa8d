//! A redis-server of the test's own, on a port that was free a moment ago.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(super) struct Server {
    pub(super) port: u16,
    /// Its data and its log lie here.
    folder: tempfile::TempDir,
    settings: Vec<String>,
    process: Option<Child>,
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With further settings, such as `["--requirepass", "x"]`.
    pub(super) async fn with(settings: &[&str]) -> Self {
        let mut server = Server {
            port: free_port(),
            folder: tempfile::tempdir().unwrap(),
            settings: settings.iter().map(|&text| text.to_owned()).collect(),
            process: None,
        };
        server.start_again().await;
        server
    }

    /// A node that believes another dead after this time of silence.
    pub(super) async fn cluster_node(silence: &str) -> Self {
        Self::with(&[
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            silence,
        ])
        .await
    }

    /// A sentinel with these lines of configuration.
    pub(super) async fn sentinel(lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sentinel.conf");
        std::fs::write(&file, lines).unwrap();
        let port = free_port();
        let mut command = Command::new("redis-server");
        command
            .arg(file)
            .args(["--sentinel", "--port", &port.to_string()]);
        let process = Some(spawn(&mut command));
        let server = Server {
            port,
            folder,
            settings: Vec::new(),
            process,
        };
        server.until_it_listens().await;
        server
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// On the same port, with the same data.
    pub(super) async fn start_again(&mut self) {
        assert!(self.process.is_none());
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .args(["--repl-diskless-sync-delay", "0", "--dir"])
            .arg(self.folder.path())
            .args(&self.settings);
        self.process = Some(spawn(&mut command));
        self.until_it_listens().await;
    }

    async fn until_it_listens(&self) {
        let since = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(since.elapsed() < Duration::from_secs(20), "no redis-server");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// `STOP` and `CONT` freeze it and let it go on.
    pub(super) fn signal(&self, name: &str) {
        let pid = self.process.as_ref().unwrap().id();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &pid.to_string()])
            .status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(command: &mut Command) -> Child {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server must be installed")
}

/// Bound and released: another process may take it in between, but hardly ever does.
pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}
