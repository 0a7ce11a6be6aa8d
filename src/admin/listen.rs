//! The admin router on a listener of Pingora: hyper serves HTTP/1.1 over each accepted stream, so
//! that the admin port is drained and handed over like the edge's.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
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
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep};
use tower::ServiceExt as _;

/// A head must be whole after this time; an idle connection is closed after it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// For how long an idle connection stays open after the end of the service: a request may be on its way
/// over it. The answer says that it is the last.
const LAST_REQUEST: Duration = Duration::from_secs(2);
/// What is written must have been taken after this time.
const LONGEST_WRITE: Duration = Duration::from_secs(30);
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
    let mut service = Service::new(String::from("admin"), AdminApp::new(router));
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
            .serve_connection(TokioIo::new(Prompt::new(stream)), service);
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
    fn new(router: Router) -> Self {
        AdminApp {
            router,
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        }
    }

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

/// A connection that ends where its client does not take what is written: else those who ask and never
/// read would keep all connections for themselves.
struct Prompt {
    stream: Stream,
    /// When what is written since the last flush must have been taken.
    ends: Option<Pin<Box<Sleep>>>,
}

impl Prompt {
    fn new(stream: Stream) -> Self {
        Prompt { stream, ends: None }
    }

    fn write_in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let ends = self
            .ends
            .get_or_insert_with(|| Box::pin(sleep(LONGEST_WRITE)));
        if ends.as_mut().poll(cx).is_ready() {
            let why = "the client does not take its answer";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        write(Pin::new(&mut self.stream), cx)
    }
}

impl AsyncRead for Prompt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Prompt {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write_in_time(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.write_in_time(cx, |stream, cx| stream.poll_flush(cx));
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.ends = None;
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write_in_time(cx, |stream, cx| stream.poll_shutdown(cx))
    }
}

/// A stream is never given back: hyper keeps it alive for as long as it is good.
fn close(ended: hyper::Result<()>) -> Option<Stream> {
    if let Err(error) = ended {
        log::debug!("admin connection: {error}");
    }
    None
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::sync::watch;
    use tokio::time::Instant;

    use super::*;

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    const LENGTH: usize = 100_000;

    /// A connection that asks once; the time it is served for, while its client does this.
    async fn served(client: impl AsyncFnOnce(&mut DuplexStream)) -> Duration {
        let router = Router::new().route("/", get(async || "x".repeat(LENGTH)));
        let app = Arc::new(AdminApp::new(router));
        let (near, mut far) = duplex(1_024);
        let (_end, ends) = watch::channel(false);
        far.write_all(ASK).await.unwrap();
        let begun = Instant::now();
        let serving = async {
            assert!(app.process_new(Box::new(near), &ends).await.is_none());
            begun.elapsed()
        };
        tokio::join!(serving, client(&mut far)).0
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_its_answer_is_closed_in_time() {
        let took = served(async |_| ()).await;
        assert_eq!(took.as_secs(), LONGEST_WRITE.as_secs());
        // Nor who reads a little now and then.
        let took = served(async |far| {
            for _ in 0..60 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                far.read_u8().await.ok();
            }
        });
        assert_eq!(took.await.as_secs(), LONGEST_WRITE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_its_answer_keeps_the_connection() {
        let took = served(async |far| {
            for _ in 0..2 {
                let mut answer = Vec::new();
                while !answer.ends_with(&[b'x'; LENGTH]) {
                    far.read_buf(&mut answer).await.unwrap();
                }
                tokio::time::sleep(HEAD_TIMEOUT / 2).await;
                far.write_all(ASK).await.unwrap();
            }
            tokio::time::sleep(LONGEST_WRITE * 2).await;
        });
        // The third answer is not read.
        assert_eq!(took.await, HEAD_TIMEOUT + LONGEST_WRITE);
    }
}
