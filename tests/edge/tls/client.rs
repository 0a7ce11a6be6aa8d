//! A client of our own over TLS, for what no finished one shows: which handshake it was, streams of one
//! connection that are reset.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, SupportedProtocolVersion,
};

use crate::support::tls::Certificates;

pub const BOTH_VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// Trusts `ca.pem` and keeps its sessions for the next connection.
pub struct Client {
    config: Arc<ClientConfig>,
}

/// One connection, as it was negotiated.
#[derive(Clone)]
pub struct Connection {
    sender: Arc<tokio::sync::Mutex<Sender>>,
    host: String,
    pub handshake: Option<HandshakeKind>,
    /// The server's own certificate, DER.
    pub certificate: Vec<u8>,
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    /// Offers `h2` or `http/1.1`, and shows the certificate of this name.
    pub fn new(certificates: &Certificates, protocol: &str, own: Option<&str>) -> Self {
        Self::with(certificates, protocol, own, &BOTH_VERSIONS)
    }

    pub fn with(
        certificates: &Certificates,
        protocol: &str,
        own: Option<&str>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(pem(certificates, "ca.pem").remove(0)).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            Some(name) => {
                let chain = pem(certificates, &format!("{name}.pem"));
                let key = certificates.path(&format!("{name}.key"));
                let key = PrivateKeyDer::from_pem_file(key).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Client {
            config: Arc::new(config),
        }
    }

    /// A connection on which nothing was said yet.
    pub async fn raw(&self, address: SocketAddr, host: &str) -> io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        connector.connect(name(host), tcp).await
    }

    /// What a client says first.
    pub fn hello(&self, host: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut client = ClientConnection::new(Arc::clone(&self.config), name(host)).unwrap();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    pub async fn connect(&self, address: SocketAddr, host: &str) -> io::Result<Connection> {
        let stream = self.raw(address, host).await?;
        let tls = stream.get_ref().1;
        let handshake = tls.handshake_kind();
        let certificate = tls.peer_certificates().unwrap()[0].to_vec();
        let is_http2 = tls.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        let sender = if is_http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io)
                .await
                .map_err(io::Error::other)?;
            tokio::spawn(connection);
            Sender::Two(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
            tokio::spawn(connection);
            Sender::One(sender)
        };
        Ok(Connection {
            sender: Arc::new(tokio::sync::Mutex::new(sender)),
            host: host.to_owned(),
            handshake,
            certificate,
        })
    }
}

fn name(host: &str) -> ServerName<'static> {
    ServerName::try_from(host.to_owned()).unwrap()
}

fn pem(certificates: &Certificates, name: &str) -> Vec<CertificateDer<'static>> {
    let found = CertificateDer::pem_file_iter(certificates.path(name)).unwrap();
    found.map(Result::unwrap).collect()
}

impl Connection {
    /// Posts a body and answers with the head; the body is read by [`text`].
    pub async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> hyper::Result<Response<Incoming>> {
        let mut request = Request::post(path)
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()))
            .unwrap();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request.headers_mut().append(name, value);
        }
        // Only sending is one after the other: many answers may be awaited.
        let mut sender = self.sender.lock().await;
        match &mut *sender {
            Sender::One(one) => {
                let host = self.host.parse().unwrap();
                request.headers_mut().insert("host", host);
                one.ready().await?;
                let sent = one.send_request(request);
                drop(sender);
                sent.await
            }
            Sender::Two(two) => {
                *request.uri_mut() = format!("https://{}{path}", self.host).parse().unwrap();
                two.ready().await?;
                let sent = two.send_request(request);
                drop(sender);
                sent.await
            }
        }
    }
}

/// The whole body of an answer, as text.
pub async fn text(answer: Response<Incoming>) -> String {
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}
