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

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use pingora::{Error, ErrorType, Result};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::tempo::Tempo;

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
    /// Of an HTTP/2 connection: how many streams it has.
    streams: AtomicUsize,
    /// It is to make room for another one.
    is_dismissed: AtomicBool,
    dismissal: Notify,
}

/// A stream of an HTTP/2 connection, for as long as it runs.
#[derive(Debug)]
pub struct RunningStream {
    connection: Arc<Watch>,
}

impl Drop for RunningStream {
    fn drop(&mut self) {
        self.connection.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// A head is to be whole by then; `None` between two requests, before any of it has come.
    Head(Option<Instant>),
    /// A request is to be read by then.
    Request(Instant),
    /// A request's body is read.
    Body(Tempo),
    /// HTTP/2.
    Streams,
}

impl Watch {
    /// Of a connection that was accepted now: its first head has begun.
    pub fn new(head: Duration) -> Arc<Self> {
        Self::in_phase(head, Phase::Head(Some(Instant::now() + head)))
    }

    /// Of an HTTP/2 stream whose head has just come.
    pub fn of_stream(longest: Duration) -> Arc<Self> {
        let by = Instant::now() + longest;
        Self::in_phase(Duration::ZERO, Phase::Request(by))
    }

    fn in_phase(head: Duration, phase: Phase) -> Arc<Self> {
        Arc::new(Watch {
            head,
            phase: Mutex::new(phase),
            ran_out: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            is_dismissed: AtomicBool::new(false),
            dismissal: Notify::new(),
        })
    }

    /// A stream of this connection has begun.
    pub fn stream_begins(self: &Arc<Self>) -> RunningStream {
        self.streams.fetch_add(1, Ordering::Relaxed);
        RunningStream {
            connection: Arc::clone(self),
        }
    }

    /// Whether nothing is asked on the connection just now.
    pub fn is_idle(&self) -> bool {
        match *self.phase.lock() {
            Phase::Head(_) => true,
            Phase::Streams => self.streams.load(Ordering::Relaxed) == 0,
            Phase::Request(_) | Phase::Body(_) => false,
        }
    }

    /// Asks an idle connection to make room; false where it is busy, or was asked before.
    pub fn dismiss(&self) -> bool {
        let is_asked = self.is_idle() && !self.is_dismissed.swap(true, Ordering::Relaxed);
        if is_asked {
            self.dismissal.notify_one();
        }
        is_asked
    }

    /// It was asked.
    pub async fn dismissed(&self) {
        self.dismissal.notified().await;
    }

    /// It has become busy, and may be asked again.
    pub fn stays(&self) {
        self.is_dismissed.store(false, Ordering::Relaxed);
    }

    /// Waits for something that a client sends, no longer than is right. As cancel safe as that is.
    ///
    /// # Errors
    /// Its own, or that the client is too slow.
    pub async fn read<T>(&self, read: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(by) = self.waits() else {
            return read.await;
        };
        timeout_at(by, read).await.unwrap_or_else(|_| {
            self.has_run_out();
            let why = "the client is too slow";
            Error::e_explain(ErrorType::ReadError, why).map_err(Error::into_down)
        })
    }

    /// The same for a piece of a body.
    ///
    /// # Errors
    /// Its own, or that the client is too slow.
    pub async fn read_piece(
        &self,
        read: impl Future<Output = Result<Option<Bytes>>>,
    ) -> Result<Option<Bytes>> {
        let read = self.read(read).await;
        if let Ok(Some(piece)) = &read {
            self.came(piece.len());
        }
        read
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

    /// Its body is waited for, at the most for `most` at a stretch and until `last` in all.
    pub fn body_until(&self, most: Duration, last: std::time::Instant) {
        let mut phase = self.phase.lock();
        if !matches!(*phase, Phase::Body(_)) {
            *phase = Phase::Body(Tempo::new(most, last.into()));
        }
    }

    /// Whether a body is waited for that should be here.
    pub fn is_body_overdue(&self) -> bool {
        let now = Instant::now();
        matches!(&*self.phase.lock(), Phase::Body(tempo) if tempo.due(now) <= now)
    }

    /// A request is over.
    pub fn request_ended(&self) {
        *self.phase.lock() = Phase::Head(None);
    }

    /// A read is ended because the client is too slow.
    pub fn has_run_out(&self) {
        self.ran_out.store(true, Ordering::Relaxed);
    }

    /// Whether a read was ended by this watch, and not by the client.
    pub fn ran_out(&self) -> bool {
        self.ran_out.load(Ordering::Relaxed)
    }

    pub fn read_by(&self) -> Option<Instant> {
        match *self.phase.lock() {
            Phase::Head(by) => by,
            Phase::Request(by) => Some(by),
            Phase::Body(tempo) => Some(tempo.due(Instant::now())),
            Phase::Streams => None,
        }
    }

    /// The client is listened to: until when.
    pub fn waits(&self) -> Option<Instant> {
        if let Phase::Body(tempo) = &mut *self.phase.lock() {
            tempo.waits(Instant::now());
        }
        self.read_by()
    }

    pub fn came(&self, bytes: usize) {
        match &mut *self.phase.lock() {
            Phase::Head(by @ None) => *by = Some(Instant::now() + self.head),
            Phase::Body(tempo) => tempo.came(Instant::now(), bytes),
            _ => {}
        }
    }

    pub fn speaks_http2(&self) {
        *self.phase.lock() = Phase::Streams;
    }
}
