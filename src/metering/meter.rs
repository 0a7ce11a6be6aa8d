//! The meter of one answer: sees every body chunk once and says at any time what was used.
//!
//! It observes and does not alter, but for the one chunk that only exists because the proxy asked
//! for it. It never fails the stream and holds bounded memory: some hundred bytes, the produced text
//! up to 64 KiB (freed with it), and for a compressed answer the decoder's window.

use std::fmt;
use std::io::{self, Write};

use bytes::Bytes;

use super::decode::{Coding, Decoder, Stop};
use super::encode::Encoder;
use super::plain::PlainMeter;
use super::reader::KEPT_OUTPUT_BYTES;
use super::usage::{Dialect, Endpoint, Usage};

/// What a meter must know before the first byte.
#[derive(Clone, Copy, Debug)]
pub struct MeterSetup<'a> {
    pub endpoint: Endpoint,
    /// The pool's.
    pub dialect: Dialect,
    /// The answer's headers, empty where missing.
    pub content_type: &'a str,
    pub content_encoding: &'a str,
    /// The proxy asked for usage that the client did not: the chunk that carries it is taken out.
    pub strip_usage_chunk: bool,
}

/// What a meter has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// As reported. After a cut this may be an early report: see [`super::settle_usage`].
    pub usage: Option<Usage>,
    /// The dialect's own end was seen: `[DONE]`, `message_stop`, `response.completed`, whole JSON.
    pub complete: bool,
    /// Produced text kept for counting: at most 64 KiB.
    pub output_text: String,
    /// Bytes of all produced text.
    pub output_bytes: i64,
    /// What the provider says it cost, in nano-USD (OpenRouter).
    pub cost_nano: Option<i64>,
    /// The model that answered.
    pub model: Option<String>,
    /// The message of an error that came inside a 200.
    pub stream_error: Option<String>,
    /// The report came with or after the end of the text: it is exact even where the stream broke
    /// off before its own end.
    pub final_usage: bool,
    /// A stream's text went on after its last report, which therefore tells only a part.
    pub unreported_text: bool,
    /// Seconds of audio, where the provider bills by them; `usage` then counts ten input tokens a
    /// second.
    pub audio_seconds: Option<i64>,
    /// Why the answer could not be read, where it could not: an unknown encoding, a corrupt one, a
    /// decompression bomb.
    pub unreadable: Option<&'static str>,
}

/// Meters one answer. See the module.
pub struct Meter {
    body: Body,
    ended: bool,
}

enum Body {
    /// Nothing to meter.
    Off(Option<&'static str>),
    Plain(Box<PlainMeter>),
    Decoded(Box<Decoder<PlainMeter>>),
    /// Decoded, changed and encoded again.
    Recoded(Box<Decoder<Recoder>>),
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Meter {
    pub fn new(setup: MeterSetup<'_>) -> Meter {
        Meter {
            body: Body::new(&setup),
            ended: false,
        }
    }

    /// Sees a body chunk; `end` with the last one (which may be empty). `None`: forward the chunk
    /// unchanged. `Some`: forward these bytes instead, which may be none at all.
    pub fn push(&mut self, chunk: &Bytes, end: bool) -> Option<Bytes> {
        self.ended |= end;
        match &mut self.body {
            Body::Off(_) => None,
            Body::Plain(plain) => plain.push(chunk, end).map(Bytes::from),
            Body::Decoded(decoder) => {
                decoder.push(chunk);
                if end && let Some(plain) = decoder.inner_mut() {
                    plain.push(&[], true);
                }
                None
            }
            Body::Recoded(decoder) => {
                decoder.push(chunk);
                let broken = decoder.stopped().is_some();
                let recoder = decoder.inner_mut()?;
                Some(Bytes::from(recoder.take(end, broken)))
            }
        }
    }

    /// Output tokens seen so far: as reported, or four bytes a token. Cheap.
    pub fn produced(&self) -> i64 {
        self.plain().map_or(0, |plain| plain.reader.produced())
    }

    /// What was seen. Callable at any time, also mid-stream.
    pub fn observe(&self) -> Observation {
        let unreadable = match &self.body {
            Body::Off(why) => *why,
            Body::Plain(_) => None,
            Body::Decoded(decoder) => decoder.stopped().map(reason),
            Body::Recoded(decoder) => decoder.stopped().map(reason),
        };
        let Some(plain) = self.plain() else {
            return Observation {
                complete: self.ended && unreadable.is_none(),
                unreadable,
                ..Observation::default()
            };
        };
        let bomb = unreadable == Some(reason(Stop::Bomb));
        let reader = &plain.reader;
        Observation {
            usage: reader.usage().filter(|_| !bomb),
            complete: reader.is_complete() && unreadable.is_none(),
            output_text: reader.output_text(),
            output_bytes: reader.output_bytes(),
            cost_nano: reader.cost_nano().filter(|_| !bomb),
            model: reader.model(),
            stream_error: reader.stream_error(),
            final_usage: reader.has_final_usage(),
            unreported_text: reader.has_unreported_text(),
            audio_seconds: reader.audio_seconds(),
            unreadable,
        }
    }

    fn plain(&self) -> Option<&PlainMeter> {
        match &self.body {
            Body::Off(_) => None,
            Body::Plain(plain) => Some(plain),
            Body::Decoded(decoder) => decoder.inner(),
            Body::Recoded(decoder) => decoder.inner().map(|recoder| &recoder.plain),
        }
    }
}

fn reason(stop: Stop) -> &'static str {
    match stop {
        Stop::Bomb => "decompression bomb",
        Stop::Corrupt => "corrupt encoding",
    }
}

impl Body {
    fn new(setup: &MeterSetup<'_>) -> Body {
        if !setup.endpoint.generates() {
            return Body::Off(None);
        }
        let Some(plain) = PlainMeter::new(setup) else {
            return Body::Off(None);
        };
        let unknown = Body::Off(Some("unknown content encoding"));
        let Some(coding) = Coding::of(setup.content_encoding) else {
            return unknown;
        };
        if coding == Coding::Identity {
            return Body::Plain(Box::new(plain));
        }
        if !plain.alters() {
            return Decoder::new(coding, plain)
                .map_or(unknown, |decoder| Body::Decoded(Box::new(decoder)));
        }
        let recoder = Encoder::new(coding).map(|encoder| Recoder {
            plain,
            encoder,
            wrote: false,
        });
        recoder
            .and_then(|recoder| Decoder::new(coding, recoder))
            .map_or(unknown, |decoder| Body::Recoded(Box::new(decoder)))
    }
}

/// Encodes again what the plain lets through.
struct Recoder {
    plain: PlainMeter,
    encoder: Encoder,
    wrote: bool,
}

impl Recoder {
    fn take(&mut self, end: bool, broken: bool) -> Vec<u8> {
        if end && let Some(last) = self.plain.push(&[], true) {
            self.encode(&last);
        }
        // A body that ended broken must not look whole to the client.
        if end && !broken {
            return self.encoder.take_ended();
        }
        if std::mem::take(&mut self.wrote) {
            return self.encoder.take_flushed();
        }
        Vec::new()
    }

    fn encode(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.encoder.push(bytes);
            self.wrote = true;
        }
    }
}

impl Write for Recoder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.plain.push(bytes, false) {
            None => self.encode(bytes),
            Some(instead) => self.encode(&instead),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The produced text kept is bounded by this, in bytes.
pub const MAX_OUTPUT_TEXT_BYTES: usize = KEPT_OUTPUT_BYTES;
