//! The door of the edge: every connection comes in under a watch, and within bounds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::listeners::tls::{Acceptor, TlsSettings};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::protocols::l4::stream::Stream as TcpStream;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use pingora::services::listening::Service;

use super::Edge;
use super::h2_stream::WatchedStream;
use super::places::Places;
use super::watch::Watch;
use super::watched::Watched;
use crate::exchange::Desk;

/// Longest time for a head, from its first byte (or from the accept) to its last.
const LONGEST_HEAD: Duration = Duration::from_secs(30);

/// An HTTP/2 connection without a stream is closed after this time.
const IDLE: Duration = Duration::from_secs(120);

/// What an HTTP/2 stream may have in the send buffer of its connection, in bytes: a client that grants
/// a huge window and never reads fills no more. By default it is 400 KiB, a hundred times over.
const SEND_BUFFER: usize = 64 * 1024;

/// The edge as a service at these addresses, plain and with TLS, for at most so many connections.
pub fn service(
    conf: &Arc<ServerConf>,
    edge: Edge,
    plain: &[SocketAddr],
    tls: Vec<(SocketAddr, TlsSettings)>,
    max_connections: usize,
) -> Service<Door> {
    let desk = Arc::clone(&edge.desk);
    let places = Places::new(max_connections, Arc::clone(&edge.metrics));
    let mut proxy = HttpProxy::new(edge, Arc::clone(conf));
    proxy.server_options = Some(server_options());
    proxy.h2_options = Some(h2_options());
    proxy.handle_init_modules();
    let secured = tls.into_iter().map(|(at, tls)| (at, Some(tls.build())));
    let entrances = plain.iter().map(|at| (*at, None)).chain(secured);
    let entrances: Vec<_> = entrances.collect();
    // Those with TLS too: a handshake is under the watch like all else.
    let addresses: Vec<_> = entrances.iter().map(|(at, _)| at.to_string()).collect();
    let door = Door {
        proxy: Arc::new(proxy),
        desk,
        places,
        entrances,
    };
    let mut service = Service::new("edge".into(), door);
    for address in addresses {
        service.add_tcp(&address);
    }
    service
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
    proxy: Arc<HttpProxy<Edge>>,
    desk: Arc<Desk>,
    places: Arc<Places>,
    /// Where clients come in, and who shakes hands there.
    entrances: Vec<(SocketAddr, Option<Acceptor>)>,
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
        let place = self.places.take(&watch).await?;
        let served = async {
            let stream = self.shake_hands(stream, &watch).await?;
            let streams = Arc::new(Streams {
                proxy: Arc::clone(&self.proxy),
                desk: Arc::clone(&self.desk),
                connection: Arc::clone(&watch),
            });
            let stream = Box::new(Watched::new(stream, Arc::clone(&watch)));
            streams.process_new(stream, shutdown).await
        };
        tokio::select! {
            biased;
            // Whatever of it is kept alive is served in there.
            _ = served => {}
            () = place.lost() => {}
        }
        None
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

impl Door {
    /// The stream in clear, as its client speaks; `None` where no handshake came about in time.
    async fn shake_hands(&self, stream: Stream, watch: &Watch) -> Option<Stream> {
        if self
            .entrances
            .iter()
            .all(|(_, acceptor)| acceptor.is_none())
        {
            return Some(stream);
        }
        let digest = stream.get_socket_digest();
        let local = digest.and_then(|digest| digest.local_addr()?.as_inet().copied())?;
        let came_in = |at: &SocketAddr| {
            at.port() == local.port() && (at.ip() == local.ip() || at.ip().is_unspecified())
        };
        // What came in nowhere must not be served in clear.
        let (_, acceptor) = self.entrances.iter().find(|(at, _)| came_in(at))?;
        let Some(acceptor) = acceptor else {
            return Some(stream);
        };
        let tcp = stream.into_any().downcast::<TcpStream>().ok()?;
        match watch.read(acceptor.tls_handshake(*tcp)).await {
            Ok(stream) => Some(Box::new(stream)),
            Err(fault) => {
                log::debug!("a TLS handshake failed: {fault}");
                None
            }
        }
    }
}

/// Puts each HTTP/2 stream of one connection under a watch of its own.
struct Streams {
    proxy: Arc<HttpProxy<Edge>>,
    desk: Arc<Desk>,
    connection: Arc<Watch>,
}

#[async_trait]
impl HttpServerApp for Streams {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let (session, _running) = match session {
            ServerSession::H2(stream) => {
                let longest = self.desk.live.load().config.edge.request_timeout;
                let running = self.connection.stream_begins();
                (WatchedStream::session(stream, longest), Some(running))
            }
            session => (session, None),
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
