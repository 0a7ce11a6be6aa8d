//! A client's connection under a watch: what it must have done by when, however it spreads its bytes.
//!
//! Pingora bounds single reads and writes, and some of these not at all. Here every read and write of a
//! connection fails once its time is over, whichever layer waits for it: the look for HTTP/2's preface,
//! the head, the body, the client that is only listened to while it is answered, the answer.
//!
//! ```text
//!   nothing of a head ──first byte──▶ a head ──the edge has read it──▶ a request ──answered──▶ nothing …
//!        └───────────────────────────────┴──HTTP/2's preface──▶ streams, each with its own deadline
//! ```

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::protocols::http::ServerSession;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use pingora::{Error, ErrorType, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

/// What a client that speaks HTTP/2 says first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// For how much longer than it may be read from a connection may be written to: a client that was too
/// slow is told so.
pub const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a connection must have done by when.
#[derive(Debug)]
pub struct Watch {
    /// A head's longest time, from its first byte to its last.
    head: Duration,
    phase: Mutex<Phase>,
    ran_out: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// A head is to be whole by then; `None` between two requests, before any of it has come.
    Head(Option<Instant>),
    /// A request is to be read by then.
    Request(Instant),
    /// HTTP/2.
    Streams,
}

impl Watch {
    /// Of a connection that was accepted now: its first head has begun.
    pub fn new(head: Duration) -> Arc<Self> {
        Arc::new(Watch {
            head,
            phase: Mutex::new(Phase::Head(Some(Instant::now() + head))),
            ran_out: AtomicBool::new(false),
        })
    }

    /// Of an HTTP/2 stream whose head has just come.
    pub fn of_stream(longest: Duration) -> Arc<Self> {
        Arc::new(Watch {
            head: Duration::ZERO,
            phase: Mutex::new(Phase::Request(Instant::now() + longest)),
            ran_out: AtomicBool::new(false),
        })
    }

    /// Waits for something that a client sends, no longer than is right. As cancel safe as that is.
    ///
    /// # Errors
    /// Its own, or that the client is too slow.
    pub async fn read<T>(&self, read: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(by) = self.read_by() else {
            return read.await;
        };
        timeout_at(by, read).await.unwrap_or_else(|_| {
            self.ran_out.store(true, Ordering::Relaxed);
            let why = "the client is too slow";
            Error::e_explain(ErrorType::ReadError, why).map_err(Error::into_down)
        })
    }

    /// The same for what a client must take.
    ///
    /// # Errors
    /// Its own, or that the client is too slow.
    pub async fn write<T>(&self, write: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(by) = self.read_by() else {
            return write.await;
        };
        let written = timeout_at(by + LAST_WORDS, write).await;
        written.unwrap_or_else(|_| {
            let why = "the client takes its answer too slowly";
            Error::e_explain(ErrorType::WriteTimedout, why).map_err(Error::into_down)
        })
    }

    /// A head was read: what follows it must be read by then.
    pub fn request_until(&self, by: std::time::Instant) {
        *self.phase.lock() = Phase::Request(by.into());
    }

    /// A request is over.
    pub fn request_ended(&self) {
        *self.phase.lock() = Phase::Head(None);
    }

    /// Whether a read was ended by this watch, and not by the client.
    pub fn ran_out(&self) -> bool {
        self.ran_out.load(Ordering::Relaxed)
    }

    fn read_by(&self) -> Option<Instant> {
        match *self.phase.lock() {
            Phase::Head(by) => by,
            Phase::Request(by) => Some(by),
            Phase::Streams => None,
        }
    }

    fn came(&self) {
        let mut phase = self.phase.lock();
        if matches!(*phase, Phase::Head(None)) {
            *phase = Phase::Head(Some(Instant::now() + self.head));
        }
    }

    fn speaks_http2(&self) {
        *self.phase.lock() = Phase::Streams;
    }
}

/// The watch of a client's session; `None` for an inner request's.
pub fn watch(session: &ServerSession) -> Option<&Watch> {
    match session {
        ServerSession::H1(session) => {
            let stream = (**session.stream()).as_any().downcast_ref::<Watched>()?;
            Some(&stream.watch)
        }
        ServerSession::Custom(stream) => {
            let watch = stream.req_header().extensions.get::<Arc<Watch>>()?;
            Some(watch)
        }
        ServerSession::H2(_) | ServerSession::Subrequest(_) => None,
    }
}

/// A connection and its watch.
#[derive(Debug)]
pub struct Watched {
    stream: Stream,
    watch: Arc<Watch>,
    read_ends: Option<Pin<Box<Sleep>>>,
    write_ends: Option<Pin<Box<Sleep>>>,
    /// Of an HTTP/2 connection by ALPN: what is missing of its preface.
    preface_left: usize,
}

impl Watched {
    pub fn new(stream: Stream, watch: Arc<Watch>) -> Self {
        let is_http2 = matches!(stream.selected_alpn_proto(), Some(ALPN::H2));
        Watched {
            stream,
            watch,
            read_ends: None,
            write_ends: None,
            preface_left: if is_http2 { PREFACE.len() } else { 0 },
        }
    }

    /// Writes, as long as there is time for it.
    fn poll_in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let by = self.watch.read_by().map(|by| by + LAST_WORDS);
        if by.is_none_or(|by| Instant::now() < by)
            && let ready @ Poll::Ready(_) = write(Pin::new(&mut self.stream), cx)
        {
            return ready;
        }
        poll_end(&mut self.write_ends, by, cx).map(Err)
    }
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client is too slow")
}

/// `Pending` until then; for ever where there is no end.
fn poll_end(
    sleep: &mut Option<Pin<Box<Sleep>>>,
    by: Option<Instant>,
    cx: &mut Context<'_>,
) -> Poll<io::Error> {
    let Some(by) = by else {
        return Poll::Pending;
    };
    let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(by)));
    if sleep.deadline() != by {
        sleep.as_mut().reset(by);
    }
    sleep.as_mut().poll(cx).map(|()| too_slow())
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        let by = me.watch.read_by();
        let before = buf.filled().len();
        let is_over = by.is_some_and(|by| by <= Instant::now());
        if !is_over && let Poll::Ready(read) = Pin::new(&mut me.stream).poll_read(cx, buf) {
            let came = buf.filled().len() - before;
            if came > 0 {
                me.watch.came();
                if me.preface_left > 0 {
                    me.preface_left = me.preface_left.saturating_sub(came);
                    if me.preface_left == 0 {
                        me.watch.speaks_http2();
                    }
                }
            }
            return Poll::Ready(read);
        }
        let end = poll_end(&mut me.read_ends, by, cx);
        end.map(|slow| {
            me.watch.ran_out.store(true, Ordering::Relaxed);
            Err(slow)
        })
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_in_time(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_in_time(cx, |stream, cx| stream.poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_in_time(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_in_time(cx, |stream, cx| stream.poll_shutdown(cx))
    }
}

#[async_trait]
impl Peek for Watched {
    /// Over plain TCP Pingora looks here for HTTP/2's preface.
    async fn try_peek(&mut self, bytes: &mut [u8]) -> io::Result<bool> {
        let peek = self.stream.try_peek(bytes);
        let peeked = match self.watch.read_by() {
            Some(by) => timeout_at(by, peek).await.map_err(|_| too_slow())??,
            None => peek.await?,
        };
        if peeked && bytes == PREFACE {
            self.watch.speaks_http2();
        }
        Ok(peeked)
    }
}

#[async_trait]
impl Shutdown for Watched {
    async fn shutdown(&mut self) {
        let by = Instant::now() + LAST_WORDS;
        if timeout_at(by, self.stream.shutdown()).await.is_err() {
            log::debug!("a client did not let its connection be shut down");
        }
    }
}

impl UniqueID for Watched {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for Watched {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.stream.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl GetTimingDigest for Watched {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.stream.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.stream.get_write_pending_time()
    }
}

impl GetProxyDigest for Watched {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }

    fn set_proxy_digest(&mut self, digest: ProxyDigest) {
        self.stream.set_proxy_digest(digest);
    }
}

impl GetSocketDigest for Watched {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.stream.set_socket_digest(digest);
    }
}
