//! nginx between the proxy and a fake: another reader of our framing.

use std::process::{Child, Command, Stdio};

use tokio::net::{TcpSocket, TcpStream};

use super::tls::Certificates;
use super::wait::{PATIENCE, eventually};

/// Where Debian puts it; not every `PATH` has it.
const BINARY: &str = "/usr/sbin/nginx";

/// A running nginx. Killed when dropped.
#[derive(Debug)]
pub struct Nginx {
    pub url: String,
    folder: tempfile::TempDir,
    child: Child,
    /// Keeps the port ours; nginx listens beside it.
    _port: TcpSocket,
}

impl Nginx {
    /// Starts an nginx that reads each request whole and passes it to `upstream`.
    ///
    /// # Panics
    /// It is not installed (`make test-tools` does that), or does not start.
    pub async fn start(upstream: &str) -> Self {
        Self::with(upstream, "", "").await
    }

    /// The same over TLS, for a host of these certificates; over HTTP/2 where that is offered.
    pub async fn tls(upstream: &str, certificates: &Certificates, http2: bool) -> Self {
        let at = |name: &str| certificates.path(name).display().to_string();
        let pair = format!(
            "ssl_certificate {}; ssl_certificate_key {};",
            at("server.pem"),
            at("server.key")
        );
        let offer = if http2 { "ssl http2" } else { "ssl" };
        let mut nginx = Self::with(upstream, offer, &pair).await;
        nginx.url = nginx.url.replace("http:", "https:");
        nginx
    }

    async fn with(upstream: &str, listen: &str, server: &str) -> Self {
        let port = TcpSocket::new_v4().unwrap();
        port.set_reuseport(true).unwrap();
        port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = port.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "daemon off; master_process off; pid nginx.pid; error_log error.log;
             events {{}}
             http {{
                 log_format line '$status $request_method $request_uri';
                 log_format protocol '$server_protocol $ssl_server_name';
                 access_log access.log line;
                 access_log protocol.log protocol;
                 client_body_temp_path body; proxy_temp_path proxy;
                 fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                 client_max_body_size 0;
                 server {{
                     listen {address} reuseport {listen};
                     {server}
                     keepalive_requests 100000;
                     location / {{ proxy_pass {upstream}; proxy_http_version 1.1; }}
                 }}
             }}"
        );
        std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
        let mut command = Command::new(BINARY);
        command.arg("-p").arg(folder.path()).arg("-e").arg("stderr");
        command.args(["-c", "nginx.conf"]).stdin(Stdio::null());
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{BINARY}: {e}; these tests need nginx (make test-tools)"));
        eventually(PATIENCE, || TcpStream::connect(address)).await;
        Nginx {
            url: format!("http://{address}"),
            folder,
            child,
            _port: port,
        }
    }

    /// The lines of its access log: status, method and target of every request it saw.
    pub fn lines(&self) -> Vec<String> {
        self.log("access.log")
    }

    /// Protocol and server name of every request it saw.
    pub fn protocols(&self) -> Vec<String> {
        self.log("protocol.log")
    }

    fn log(&self, name: &str) -> Vec<String> {
        let log = std::fs::read_to_string(self.folder.path().join(name));
        log.unwrap().lines().map(str::to_owned).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().ok();
    }
}
