//! The admin router on a listener of Pingora: hyper serves HTTP/1.1 over each accepted stream, so
//! that the admin port is drained and handed over like the edge's.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::response::Response;
use http::HeaderValue;
use http::header::CONNECTION;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use pingora::services::listening::Service;
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

/// A head must be whole after this time; an idle connection is closed after it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// For how long an idle connection stays open after the end of the service: a request may be on its way
/// over it. The answer says that it is the last.
const LAST_REQUEST: Duration = Duration::from_secs(2);
const MAX_HEADERS: usize = 64;
/// Bytes of a request head at most.
const MAX_HEAD: usize = 32 * 1024;
/// Connections at once. Operators are few; what comes beyond is closed.
const MAX_CONNECTIONS: usize = 256;

/// Where a request came from: an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddr(pub Option<IpAddr>);

/// Serves a router over streams.
#[derive(Debug)]
pub struct AdminApp {
    router: Router,
    connections: Arc<Semaphore>,
}

/// The admin service at an address, for `Server::add_service`. Its socket is bound by the caller or
/// comes from an old process.
pub fn service(router: Router, endpoint: &str) -> Service<AdminApp> {
    let app = AdminApp {
        router,
        connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
    };
    let mut service = Service::new(String::from("admin"), app);
    service.add_tcp(endpoint);
    // Operators need no parallelism; the edge does.
    service.threads = Some(1);
    service
}

#[async_trait]
impl ServerApp for AdminApp {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let Ok(_permit) = self.connections.try_acquire() else {
            log::warn!("admin connection closed: {MAX_CONNECTIONS} are open");
            return None;
        };
        let digest = stream.get_socket_digest();
        let peer = digest.and_then(|d| d.peer_addr().and_then(|a| a.as_inet().map(|a| a.ip())));
        let client = ClientAddr(peer.map(|ip| ip.to_canonical()));
        let ends = shutdown.clone();
        let service = service_fn(|request| self.answer(request, client, *ends.borrow()));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let mut shutdown = shutdown.clone();
        let over = async {
            // A service that has gone is over too.
            drop(shutdown.wait_for(|down| *down).await);
            tokio::time::sleep(LAST_REQUEST).await;
        };
        tokio::select! {
            ended = connection.as_mut() => return close(ended),
            () = over => connection.as_mut().graceful_shutdown(),
        }
        close(connection.await)
    }
}

impl AdminApp {
    async fn answer(
        &self,
        mut request: http::Request<Incoming>,
        client: ClientAddr,
        last: bool,
    ) -> Result<Response, Infallible> {
        request.extensions_mut().insert(client);
        let mut answer = self.router.clone().oneshot(request).await?;
        if last {
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
        }
        Ok(answer)
    }
}

/// A stream is never given back: hyper keeps it alive for as long as it is good.
fn close(ended: hyper::Result<()>) -> Option<Stream> {
    if let Err(error) = ended {
        log::debug!("admin connection: {error}");
    }
    None
}
