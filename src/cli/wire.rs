//! One HTTP request over a connection of its own, with or without TLS.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer at most: a page of a thousand full records is far below it.
const MAX_ANSWER: usize = 256 << 20;

/// Where a service listens.
#[derive(Clone, Debug)]
pub struct Address {
    is_tls: bool,
    host: String,
    port: u16,
    authority: HeaderValue,
    /// What stands before the paths of the service: empty, or `/quota`.
    pub base: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Lost {
    /// Nothing was asked.
    NotReached(String),
    TimedOut,
    BrokeOff(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        let authority = self.authority.to_str().unwrap_or_default();
        write!(f, "{scheme}://{authority}{}", self.base)
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Address {
    /// Of an `http` or `https` URL without a query. `None` where it is none.
    pub fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let is_tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host();
        let fits = !host.is_empty() && uri.query().is_none();
        let usual = if is_tls { 443 } else { 80 };
        fits.then_some(Address {
            is_tls,
            host: host.trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(usual),
            authority: HeaderValue::from_str(authority.as_str()).ok()?,
            base: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Sends a request, whose target is a path, and reads the answer whole. Redirections are not
    /// followed: what the request carries is for this service alone. Wants a time-out around it.
    ///
    /// # Errors
    /// [`Lost`].
    pub async fn ask(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), Lost> {
        request.headers_mut().insert(HOST, self.authority.clone());
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await;
        let connected = connected.unwrap_or_else(|_| {
            let why = format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        });
        let stream = connected.map_err(|fault| Lost::NotReached(fault.to_string()))?;
        let broke_off = |fault: hyper::Error| Lost::BrokeOff(fault.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broke_off)?;
        // Ends with the sender. What goes wrong on it, the request is told.
        let talking = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(broke_off)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        talking.abort();
        let body = body.map_err(|fault| Lost::BrokeOff(fault.to_string()))?;
        Ok((status, body.to_bytes()))
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await?;
        socket.set_nodelay(true)?;
        if !self.is_tls {
            return Ok(Box::new(socket));
        }
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        // The system's certificates, or those that $SSL_CERT_FILE and $SSL_CERT_DIR name.
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Box::new(tls.connect(name, socket).await?))
    }
}
