//! A client's connection: every read and write of it is under its [`Watch`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::http::ServerSession;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::watch::{LAST_WORDS, Watch};

/// What a client that speaks HTTP/2 says first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes that are read of an HTTP/2 connection before others have their turn. The runtime counts reads
/// of the socket, and one of them may bring thousands of frames that are answered on the spot.
const TURN: usize = 32 * 1024;

/// A connection and its watch.
#[derive(Debug)]
pub struct Watched {
    stream: Stream,
    watch: Arc<Watch>,
    read_ends: Option<Pin<Box<Sleep>>>,
    write_ends: Option<Pin<Box<Sleep>>>,
    /// Of an HTTP/2 connection by ALPN: what is missing of its preface.
    preface_left: usize,
    /// Looked at, and to be read still.
    peeked: Vec<u8>,
    /// Bytes of HTTP/2 since others had their turn.
    at_a_stretch: usize,
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
            peeked: Vec::new(),
            at_a_stretch: 0,
        }
    }

    pub fn watch(&self) -> &Watch {
        &self.watch
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

/// The watch of a client's session; `None` for an inner request's.
pub fn watch(session: &ServerSession) -> Option<&Watch> {
    match session {
        ServerSession::H1(session) => {
            let stream = (**session.stream()).as_any().downcast_ref::<Watched>()?;
            Some(stream.watch())
        }
        ServerSession::Custom(stream) => {
            let watch = stream.req_header().extensions.get::<Arc<Watch>>()?;
            Some(watch)
        }
        ServerSession::H2(_) | ServerSession::Subrequest(_) => None,
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
        if !me.peeked.is_empty() {
            let taken = me.peeked.len().min(buf.remaining());
            buf.put_slice(&me.peeked[..taken]);
            me.peeked.drain(..taken);
            return Poll::Ready(Ok(()));
        }
        let by = me.watch.waits();
        if by.is_none() && me.at_a_stretch >= TURN {
            me.at_a_stretch = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let is_over = by.is_some_and(|by| by <= Instant::now());
        if !is_over && let Poll::Ready(read) = Pin::new(&mut me.stream).poll_read(cx, buf) {
            let came = buf.filled().len() - before;
            if came > 0 {
                me.watch.came(came);
                me.at_a_stretch += came;
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
            me.watch.has_run_out();
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
    /// Over plain TCP Pingora looks here for HTTP/2's preface. What differs from it is no preface, however
    /// little it is: a whole request of HTTP/1.0 may be shorter.
    async fn try_peek(&mut self, bytes: &mut [u8]) -> io::Result<bool> {
        let mut seen = Vec::with_capacity(PREFACE.len());
        while seen.len() < PREFACE.len() && PREFACE.starts_with(&seen) {
            let mut piece = [0; PREFACE.len()];
            let count = self.read(&mut piece[seen.len()..]).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let end = seen.len() + count;
            seen.extend_from_slice(&piece[seen.len()..end]);
        }
        if seen == PREFACE {
            self.watch.speaks_http2();
        }
        let shown = bytes.len().min(seen.len());
        bytes[..shown].copy_from_slice(&seen[..shown]);
        self.peeked = seen;
        Ok(true)
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
