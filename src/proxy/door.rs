//! The door of the edge: every connection comes in under a watch, and within bounds.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use pingora::services::listening::Service;

use super::Edge;
use super::h2_stream::WatchedStream;
use super::watch::{Watch, Watched};
use crate::exchange::Desk;

/// Longest time for a head, from its first byte (or from the accept) to its last.
const LONGEST_HEAD: Duration = Duration::from_secs(30);

/// An HTTP/2 connection without a stream is closed after this time.
const IDLE: Duration = Duration::from_secs(120);

/// What an HTTP/2 stream may have in the send buffer of its connection, in bytes: a client that grants
/// a huge window and never reads fills no more. By default it is 400 KiB, a hundred times over.
const SEND_BUFFER: usize = 64 * 1024;

/// The edge as a service, without its endpoints.
pub fn service(conf: &Arc<ServerConf>, edge: Edge) -> Service<Door> {
    let desk = Arc::clone(&edge.desk);
    let mut proxy = HttpProxy::new(edge, Arc::clone(conf));
    proxy.server_options = Some(server_options());
    proxy.h2_options = Some(h2_options());
    proxy.handle_init_modules();
    let streams = Arc::new(Streams {
        proxy: Arc::new(proxy),
        desk: Arc::clone(&desk),
    });
    Service::new("edge".into(), Door { streams, desk })
}

fn server_options() -> HttpServerOptions {
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    options.h2_idle_timeout = Some(IDLE);
    options
}

/// Pingora's own bounds (100 streams, 64 KiB of headers), and the send buffer's. Resets in a row are
/// bounded by the h2 library (CVE-2023-44487): 20 that are not accepted yet, 1,024 of our own.
fn h2_options() -> H2Options {
    let mut options = default_h2_options();
    options.max_send_buffer_size(SEND_BUFFER);
    options
}

/// Puts each connection under its watch.
pub struct Door {
    streams: Arc<Streams>,
    desk: Arc<Desk>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

#[async_trait]
impl ServerApp for Door {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let longest = self.desk.live.load().config.edge.request_timeout;
        let watch = Watch::new(longest.min(LONGEST_HEAD));
        let stream = Box::new(Watched::new(stream, watch));
        self.streams.process_new(stream, shutdown).await
    }

    async fn cleanup(&self) {
        self.streams.http_cleanup().await;
    }
}

/// Puts each HTTP/2 stream under a watch of its own.
struct Streams {
    proxy: Arc<HttpProxy<Edge>>,
    desk: Arc<Desk>,
}

#[async_trait]
impl HttpServerApp for Streams {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let session = match session {
            ServerSession::H2(stream) => {
                let longest = self.desk.live.load().config.edge.request_timeout;
                WatchedStream::session(stream, longest)
            }
            session => session,
        };
        self.proxy.process_new_http(session, shutdown).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.proxy.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.proxy.server_options()
    }

    async fn http_cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}
