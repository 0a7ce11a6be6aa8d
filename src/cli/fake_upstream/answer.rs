//! An answer on its way out: steps made one by one, paced, coded, counted, and broken where asked.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::control::Coding;
use super::ledger::Record;

/// How long a broken answer waits for what it already made to reach the client.
const SETTLE: Duration = Duration::from_millis(20);

/// One write: some bytes, and the output tokens they carry.
#[derive(Clone, Debug, Default)]
pub struct Step {
    pub bytes: Bytes,
    pub tokens: u32,
    /// Word chunks wait for the chunk interval; all else goes at once.
    pub is_word: bool,
}

impl Step {
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Step {
            bytes: bytes.into(),
            ..Step::default()
        }
    }

    /// A step that carries one visible word.
    pub fn word(bytes: impl Into<Bytes>) -> Self {
        Step {
            bytes: bytes.into(),
            tokens: 1,
            is_word: true,
        }
    }

    pub fn with_tokens(mut self, tokens: u32) -> Self {
        self.tokens = tokens;
        self
    }
}

/// The steps of an answer, made when they are due.
pub type Steps = Box<dyn Iterator<Item = Step> + Send>;

/// What happens behind the last step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    #[default]
    Whole,
    /// The connection is closed with the body unfinished.
    Truncate,
    /// The connection is reset.
    Reset,
}

/// Why a body ends early; hyper closes the connection on it.
#[derive(Debug, thiserror::Error)]
#[error("cut short, as asked")]
pub struct Cut;

/// How an answer is sent.
#[derive(Debug, Default)]
pub struct Manner {
    /// Pause before each word.
    pub interval: Duration,
    /// Pause before the first byte.
    pub first_byte_delay: Duration,
    pub ending: Ending,
    pub coding: Option<Coding>,
    /// Set on a reset; the connection looks at it when it is dropped.
    pub reset: Arc<AtomicBool>,
}

/// A response body made of [`Steps`].
pub struct Answer {
    steps: Steps,
    /// Length of the body where it is known before it is made.
    length: Option<u64>,
    /// A word whose pause is running.
    waiting: Option<Step>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// When the last word was due; the next one is due an interval later.
    due: Option<Instant>,
    manner: Manner,
    coder: Option<Coder>,
    phase: Phase,
    record: Arc<Record>,
}

/// `Steps → Whole → Done`, or `Steps → Breaking`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Steps,
    /// Nothing but the coder's last bytes is left.
    Whole,
    /// Waits until what was made is written, then breaks.
    Breaking,
    Done,
}

type Framed = Result<Frame<Piece>, Cut>;

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("manner", &self.manner)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

impl Answer {
    /// A body that is sent at once, with its length.
    pub fn whole(step: Step, record: Arc<Record>) -> Self {
        let length = Some(step.bytes.len() as u64);
        let steps = Box::new(std::iter::once(step));
        let mut answer = Answer::steps(steps, Manner::default(), record);
        answer.length = length;
        answer
    }

    /// A body of unknown length, sent in the given manner.
    pub fn steps(steps: Steps, manner: Manner, record: Arc<Record>) -> Self {
        let delay = manner.first_byte_delay;
        Answer {
            steps,
            length: None,
            waiting: None,
            sleep: (!delay.is_zero()).then(|| Box::pin(sleep_until(Instant::now() + delay))),
            due: None,
            coder: manner.coding.and_then(Coder::new),
            manner,
            phase: Phase::Steps,
            record,
        }
    }

    /// The next step, unless it has to wait first.
    fn next_step(&mut self) -> Option<Step> {
        if let Some(step) = self.waiting.take() {
            return Some(step);
        }
        let Some(step) = self.steps.next() else {
            self.phase = match self.manner.ending {
                Ending::Whole => Phase::Whole,
                Ending::Truncate | Ending::Reset => self.settle(),
            };
            return None;
        };
        if !step.is_word || self.manner.interval.is_zero() {
            return Some(step);
        }
        let last = self.due.replace(Instant::now());
        let Some(last) = last else {
            return Some(step);
        };
        let due = last + self.manner.interval;
        self.due = Some(due);
        self.sleep = Some(Box::pin(sleep_until(due)));
        self.waiting = Some(step);
        None
    }

    fn settle(&mut self) -> Phase {
        self.sleep = Some(Box::pin(sleep_until(Instant::now() + SETTLE)));
        Phase::Breaking
    }

    fn frame(&self, bytes: Bytes, tokens: u32) -> Framed {
        self.record.made(bytes.len());
        Ok(Frame::data(Piece {
            bytes,
            tokens,
            record: Arc::clone(&self.record),
        }))
    }

    /// What comes behind the last step; `None` means look again.
    fn ending(&mut self) -> Option<Option<Framed>> {
        match self.phase {
            Phase::Steps => None,
            Phase::Whole => {
                if let Some(coder) = self.coder.take() {
                    return Some(Some(self.frame(coder.finish(), 0)));
                }
                self.phase = Phase::Done;
                self.record.end();
                None
            }
            Phase::Breaking if self.record.is_flushed() => {
                self.phase = Phase::Done;
                let reset = self.manner.ending == Ending::Reset;
                self.manner.reset.store(reset, Relaxed);
                Some(Some(Err(Cut)))
            }
            Phase::Breaking => {
                self.settle();
                None
            }
            Phase::Done => Some(None),
        }
    }
}

impl Body for Answer {
    type Data = Piece;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Framed>> {
        let this = self.get_mut();
        loop {
            if let Some(sleep) = &mut this.sleep {
                ready!(sleep.as_mut().poll(cx));
                this.sleep = None;
            }
            if this.phase == Phase::Steps {
                if let Some(step) = this.next_step() {
                    let bytes = match &mut this.coder {
                        Some(coder) => coder.push(&step.bytes),
                        None => step.bytes,
                    };
                    return Poll::Ready(Some(this.frame(bytes, step.tokens)));
                }
            } else if let Some(end) = this.ending() {
                return Poll::Ready(end);
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // hyper does not ask a body of known length for its end.
        let is_complete = self.length.is_some() && self.steps.size_hint().1 == Some(0);
        match self.phase {
            Phase::Done => {}
            _ if is_complete => self.record.end(),
            _ => self.record.lost_client(),
        }
    }
}

/// Bytes on their way to the socket. They count as sent when the connection has taken all of them.
#[derive(Debug)]
pub struct Piece {
    bytes: Bytes,
    tokens: u32,
    record: Arc<Record>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if self.bytes.is_empty() && self.tokens > 0 {
            self.record.wrote_tokens(std::mem::take(&mut self.tokens));
        }
        self.record.wrote(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if self.bytes.has_remaining() {
            self.record.lost_client();
        }
    }
}

/// A content coder whose output is flushed behind every step, as a streaming server does it.
enum Coder {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Coder {
    fn new(coding: Coding) -> Option<Self> {
        let level = flate2::Compression::fast();
        match coding {
            Coding::Gzip => Some(Coder::Gzip(flate2::write::GzEncoder::new(
                Vec::new(),
                level,
            ))),
            Coding::Brotli => {
                let writer = brotli::CompressorWriter::new(Vec::new(), 4096, 3, 20);
                Some(Coder::Brotli(Box::new(writer)))
            }
            Coding::Zstd => {
                let encoder = zstd::stream::write::Encoder::new(Vec::new(), 1);
                encoder.ok().map(Coder::Zstd)
            }
        }
    }

    /// Writing into memory does not fail.
    fn push(&mut self, bytes: &[u8]) -> Bytes {
        let written = match self {
            Coder::Gzip(to) => flush(to, bytes).map(|()| std::mem::take(to.get_mut())),
            Coder::Brotli(to) => flush(to, bytes).map(|()| std::mem::take(to.get_mut())),
            Coder::Zstd(to) => flush(to, bytes).map(|()| std::mem::take(to.get_mut())),
        };
        written.unwrap_or_default().into()
    }

    fn finish(self) -> Bytes {
        match self {
            Coder::Gzip(to) => to.finish().unwrap_or_default().into(),
            Coder::Brotli(to) => to.into_inner().into(),
            Coder::Zstd(to) => to.finish().unwrap_or_default().into(),
        }
    }
}

fn flush(to: &mut impl io::Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}
