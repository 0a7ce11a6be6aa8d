//! A question of our own to a peer: a list of models, a health check. It goes the way an exchange goes,
//! with the peer's credential, headers and certificates, over a connection of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{Uri, Version, header};
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::{Error, ErrorType, OrErr as _, Result};

use super::addresses::Addresses;
use super::{headers, peer};
use crate::config::PoolConfig;
use crate::metering::Dialect;
use crate::upstream::{Peer, Ways};

/// Asks peers. It belongs to the runtime that asks first: its connections live there.
pub struct Asker {
    connector: Connector,
    addresses: Addresses,
    trust: peer::Trust,
}

/// A `GET`, and how long and how much of its answer is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Below the peer's own base path.
    pub path: &'a str,
    /// For all of it, from the name's look-up to the last byte.
    pub patience: Duration,
    /// Bytes of the body.
    pub most: usize,
}

/// A peer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: Bytes,
    /// False where the body is longer than was asked for.
    pub is_whole: bool,
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asker").finish_non_exhaustive()
    }
}

impl Default for Asker {
    fn default() -> Self {
        Asker {
            connector: Connector::new(None),
            addresses: Addresses::default(),
            trust: peer::Trust::default(),
        }
    }
}

impl Asker {
    /// # Errors
    /// No answer in time, or one that breaks off: then the next question goes to another address of the
    /// peer, where it has one. Cancel safe: the connection is closed.
    pub async fn ask(
        &self,
        pool: &PoolConfig,
        peer: &Peer,
        question: Question<'_>,
    ) -> Result<Answer> {
        let mut reached = None;
        let asked = self.exchange(pool, peer, question, &mut reached);
        let answer = match tokio::time::timeout(question.patience, asked).await {
            Ok(answer) => answer,
            Err(_) => Error::e_explain(ErrorType::ReadTimedout, "no answer in time"),
        };
        if let (Err(_), Some(address)) = (&answer, reached) {
            self.addresses.unreachable(peer, address);
        }
        answer
    }

    /// By the first of the peer's addresses that can be reached. Nobody else gets the connection: one
    /// that has died in silence would answer no question after it either.
    async fn connect(
        &self,
        pool: &PoolConfig,
        upstream: &Peer,
        patience: Duration,
    ) -> Result<(HttpSession, SocketAddr)> {
        let connect = pool.timeouts.connect.min(patience);
        let until = Instant::now() + connect;
        let addresses = self.addresses.of(upstream, connect).await;
        let addresses =
            addresses.map_err(|fault| Error::explain(ErrorType::ConnectNoRoute, fault.0))?;
        let mut ways = Ways::new(addresses, until);
        loop {
            let Some((address, connect)) = ways.next(Instant::now()) else {
                return Error::e_explain(ErrorType::ConnectNoRoute, "no address is left");
            };
            let mut settings = self
                .trust
                .http_peer(upstream, pool, address, connect, patience);
            settings.options.max_h2_streams = 1;
            match self.connector.get_http_session(&settings).await {
                Ok((connection, _)) => return Ok((connection, address)),
                Err(fault) => {
                    self.addresses.unreachable(upstream, address);
                    if !ways.is_another(Instant::now()) {
                        return Err(fault);
                    }
                }
            }
        }
    }

    async fn exchange(
        &self,
        pool: &PoolConfig,
        upstream: &Peer,
        question: Question<'_>,
        reached: &mut Option<SocketAddr>,
    ) -> Result<Answer> {
        let (mut connection, address) = self.connect(pool, upstream, question.patience).await?;
        *reached = Some(address);
        let mut head = RequestHeader::build("GET", question.path.as_bytes(), None)?;
        headers::to_upstream(&mut head, upstream, pool.dialect, None, None)?;
        if pool.dialect == Dialect::Anthropic {
            head.insert_header("anthropic-version", "2023-06-01")?;
        }
        if connection.as_http2().is_some() {
            name_authority(&mut head, upstream.config.tls)?;
        }
        connection.write_request_header(Box::new(head)).await?;
        connection.finish_request_body().await?;
        connection.read_response_header().await?;
        let status = connection.response_header().map(|head| head.status);
        let mut body = BytesMut::new();
        let mut is_whole = true;
        while let Some(piece) = connection.read_response_body().await? {
            body.extend_from_slice(&piece);
            if body.len() > question.most {
                is_whole = false;
                break;
            }
        }
        connection.shutdown().await;
        Ok(Answer {
            status: status.map_or(0, |status| status.as_u16()),
            body: body.freeze(),
            is_whole,
        })
    }
}

/// HTTP/2 has scheme and authority in the target (RFC 9113 section 8.3.1).
fn name_authority(head: &mut RequestHeader, tls: bool) -> Result<()> {
    let host = head.remove_header(&header::HOST);
    let authority = host.as_ref().map_or(&b""[..], |host| host.as_bytes());
    let target = head
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let uri = Uri::builder()
        .scheme(if tls { "https" } else { "http" })
        .authority(authority)
        .path_and_query(target);
    let uri = uri
        .build()
        .or_err(ErrorType::InvalidHTTPHeader, "no target for HTTP/2")?;
    head.set_uri(uri);
    head.set_version(Version::HTTP_2);
    Ok(())
}
