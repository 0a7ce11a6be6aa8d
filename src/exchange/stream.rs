//! The answer passes: the meter sees every byte, and a stream that outgrows its hold takes more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Exchange;
use crate::metering::{Meter, MeterSetup, SocketMeter};
use crate::quota::{Amounts, cost_of};
use crate::store::StoreError;

/// Estimates of produced text err; a stream is cut only when it is this far beyond its hold.
const SLACK_TOKENS: i64 = 32;

/// The status of an answer that becomes a WebSocket (RFC 6455 section 1.3).
pub(super) const SWITCHED: u16 = 101;

/// How long a top-up is tried where the store does not answer, and the pause between two tries.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

/// What a running answer holds of output tokens, shared with the task that tops it up.
#[derive(Debug)]
pub(super) struct Hold {
    output: AtomicI64,
    asking: AtomicBool,
    refused: AtomicBool,
}

impl Hold {
    pub(super) fn new(output: i64) -> Self {
        Hold {
            output: AtomicI64::new(output),
            asking: AtomicBool::new(false),
            refused: AtomicBool::new(false),
        }
    }
}

/// What becomes of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forward it as it came.
    Forward,
    /// Forward these bytes in its place.
    Replace(Bytes),
    /// The quota bears no more: end the stream with the dialect's error event.
    Cut,
}

impl Exchange {
    /// The head of an answer arrived. Informational heads (1xx) are not passed here, save for the one
    /// that opens a WebSocket.
    pub fn answered(
        &mut self,
        status: u16,
        content_type: &str,
        content_encoding: &str,
        strip_usage_chunk: bool,
    ) {
        self.status = status;
        self.encoded = !matches!(content_encoding.trim(), "" | "identity");
        let elapsed = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.first_byte_ms = Some(elapsed);
        self.socket = (status == SWITCHED).then(SocketMeter::default);
        let metered = self.is_metered() && (200..300).contains(&status);
        self.meter = metered.then(|| {
            Meter::new(MeterSetup {
                endpoint: self.endpoint,
                dialect: self.dialect,
                content_type,
                content_encoding,
                strip_usage_chunk,
            })
        });
    }

    /// Whether the answer became a WebSocket.
    pub fn is_socket(&self) -> bool {
        self.status == SWITCHED
    }

    /// The answer is not the client's: its peer has failed by it, and nothing of it was shown.
    pub fn unanswered(&mut self) {
        self.status = 0;
        self.first_byte_ms = None;
        self.response_size = 0;
        self.body_begun = false;
        self.encoded = false;
        self.meter = None;
    }

    /// Whether the answer's bytes are in a content coding: nothing legible can be put between them.
    pub fn answer_is_encoded(&self) -> bool {
        self.encoded
    }

    /// A piece of the answer's body passes, in order. Must be called within a tokio runtime.
    pub fn passes(&mut self, chunk: &Bytes, end: bool) -> Verdict {
        self.body_begun |= !chunk.is_empty() || end;
        self.response_size += i64::try_from(chunk.len()).unwrap_or(0);
        if let Some(socket) = &mut self.socket {
            socket.push(chunk);
        }
        let Some(meter) = &mut self.meter else {
            return Verdict::Forward;
        };
        let replacement = meter.push(chunk, end);
        if self.tops_up {
            let produced = meter.produced();
            if self.outgrown(produced) && !end {
                return Verdict::Cut;
            }
        }
        replacement.map_or(Verdict::Forward, Verdict::Replace)
    }

    /// True where the hold is outgrown for good. Asks for more ahead of time, in the background: the
    /// filter that calls this cannot wait.
    fn outgrown(&self, produced: i64) -> bool {
        let held = self.hold.output.load(Ordering::Acquire);
        let margin = (held / 8).max(2 * SLACK_TOKENS);
        if produced + margin < held {
            return false;
        }
        if self.hold.refused.load(Ordering::Acquire) {
            return produced > held + held / 8 + SLACK_TOKENS;
        }
        if !self.hold.asking.swap(true, Ordering::AcqRel) {
            self.ask_for_more((held / 2).max(256));
        }
        false
    }

    fn ask_for_more(&self, step: i64) {
        let hold = Arc::clone(&self.hold);
        let store = Arc::clone(&self.desk.store);
        let (id, scopes, price) = (self.grant.id, self.scopes.clone(), self.price.output);
        tokio::spawn(async move {
            let (mut more, begun) = (step, Instant::now());
            // The rest of a nearly empty quota is taken in ever smaller steps.
            while more >= SLACK_TOKENS / 2 {
                let amounts = Amounts {
                    requests: 0,
                    tokens: more,
                    nano_usd: cost_of(more, price),
                };
                match store.top_up(id, &scopes, amounts).await {
                    Ok(true) => {
                        hold.output.fetch_add(more, Ordering::AcqRel);
                        hold.asking.store(false, Ordering::Release);
                        return;
                    }
                    Ok(false) => more /= 2,
                    // The stream goes on meanwhile, as far as this is short.
                    Err(StoreError::Unavailable(_)) if begun.elapsed() < PATIENCE => {
                        tokio::time::sleep(PAUSE).await;
                    }
                    Err(fault) => {
                        log::warn!("a stream could not be topped up: {fault}");
                        break;
                    }
                }
            }
            hold.refused.store(true, Ordering::Release);
        });
    }
}
