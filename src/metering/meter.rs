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
use super::json::Scanner;
use super::pattern::Pattern;
use super::reader::{KEPT_OUTPUT_BYTES, Reader};
use super::sse::{EventSink, Splitter};
use super::strip::{Open, Strip};
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
    Plain(Box<Core>),
    Decoded(Box<Decoder<Core>>),
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
            Body::Plain(core) => core.push(chunk, end).map(Bytes::from),
            Body::Decoded(decoder) => {
                decoder.push(chunk);
                if end && let Some(core) = decoder.inner_mut() {
                    core.push(&[], true);
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
        self.core().map_or(0, |core| core.reader.produced())
    }

    /// What was seen. Callable at any time, also mid-stream.
    pub fn observe(&self) -> Observation {
        let unreadable = match &self.body {
            Body::Off(why) => *why,
            Body::Plain(_) => None,
            Body::Decoded(decoder) => decoder.stopped().map(reason),
            Body::Recoded(decoder) => decoder.stopped().map(reason),
        };
        let Some(core) = self.core() else {
            return Observation {
                complete: self.ended && unreadable.is_none(),
                unreadable,
                ..Observation::default()
            };
        };
        let bomb = unreadable == Some(reason(Stop::Bomb));
        let reader = &core.reader;
        Observation {
            usage: reader.usage().filter(|_| !bomb),
            complete: reader.is_complete() && unreadable.is_none(),
            output_text: reader.output_text(),
            output_bytes: reader.output_bytes(),
            cost_nano: reader.cost_nano().filter(|_| !bomb),
            model: reader.model(),
            stream_error: reader.stream_error(),
            final_usage: reader.has_final_usage(),
            audio_seconds: reader.audio_seconds(),
            unreadable,
        }
    }

    fn core(&self) -> Option<&Core> {
        match &self.body {
            Body::Off(_) => None,
            Body::Plain(core) => Some(core),
            Body::Decoded(decoder) => decoder.inner(),
            Body::Recoded(decoder) => decoder.inner().map(|recoder| &recoder.core),
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
        let Some(core) = Core::new(setup) else {
            return Body::Off(None);
        };
        let unknown = Body::Off(Some("unknown content encoding"));
        let Some(coding) = Coding::of(setup.content_encoding) else {
            return unknown;
        };
        if coding == Coding::Identity {
            return Body::Plain(Box::new(core));
        }
        if core.strip.is_none() {
            return Decoder::new(coding, core)
                .map_or(unknown, |decoder| Body::Decoded(Box::new(decoder)));
        }
        let recoder = Encoder::new(coding).map(|encoder| Recoder {
            core,
            encoder,
            wrote: false,
        });
        recoder
            .and_then(|recoder| Decoder::new(coding, recoder))
            .map_or(unknown, |decoder| Body::Recoded(Box::new(decoder)))
    }
}

/// How the decoded bytes are read.
enum Shape {
    /// Before the first byte that tells.
    Unknown,
    Json,
    Events(Splitter),
    /// A plain transcript: all of it is produced text.
    Text,
}

/// The meter over decoded bytes.
struct Core {
    shape: Shape,
    scanner: Scanner,
    reader: Reader,
    strip: Option<Strip>,
    pattern: Pattern,
    /// The document in hand has been read to its end, or recognised.
    settled: bool,
    /// The first bytes of the open event's data, to know `[DONE]`.
    head: [u8; 8],
    data_len: usize,
}

const DONE: &[u8] = b"[DONE]";

impl Core {
    /// `None` where the content type holds no usage: sound, pictures, pages.
    fn new(setup: &MeterSetup<'_>) -> Option<Core> {
        let kind = setup.content_type.to_ascii_lowercase();
        let structured = kind.contains("json") || kind.contains("event-stream");
        let text = kind.starts_with("text/") && !kind.starts_with("text/html");
        let shape = match setup.endpoint {
            Endpoint::Audio if text && !structured => Shape::Text,
            _ if structured || text || kind.trim().is_empty() => Shape::Unknown,
            _ => return None,
        };
        let dialect = match setup.endpoint {
            Endpoint::Messages => Dialect::Anthropic,
            Endpoint::GeminiGenerate => Dialect::Gemini,
            Endpoint::ChatCompletions | Endpoint::Completions | Endpoint::Responses => {
                Dialect::OpenAi
            }
            _ => setup.dialect,
        };
        Some(Core {
            shape,
            scanner: Scanner::new(),
            reader: Reader::new(dialect),
            strip: setup.strip_usage_chunk.then(Strip::default),
            pattern: Pattern::default(),
            settled: false,
            head: [0; 8],
            data_len: 0,
        })
    }

    /// Sees decoded bytes; what is to leave in their place, if not themselves.
    fn push(&mut self, bytes: &[u8], end: bool) -> Option<Vec<u8>> {
        if matches!(self.shape, Shape::Unknown) {
            self.decide(bytes);
        }
        match &mut self.shape {
            Shape::Unknown => None,
            Shape::Text => {
                self.reader.produced_text(bytes);
                if end {
                    self.reader.end();
                }
                None
            }
            Shape::Json => {
                self.json(bytes);
                None
            }
            Shape::Events(_) => self.events(bytes, end),
        }
    }

    /// The first byte that is no space tells JSON from events, whatever the content type says.
    fn decide(&mut self, bytes: &[u8]) {
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        match first {
            None => {}
            Some(b'{' | b'[') => self.shape = Shape::Json,
            Some(_) => {
                self.reader.set_stream();
                self.shape = Shape::Events(Splitter::new());
            }
        }
    }

    /// Documents one after the other, as some servers stream them.
    fn json(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = self.scanner.feed(rest, &mut self.reader);
            rest = rest.get(used..).unwrap_or_default();
            if self.scanner.is_done() {
                self.document_ended(rest);
                rest = rest.trim_ascii_start();
            }
        }
    }

    fn document_ended(&mut self, rest: &[u8]) {
        if !self.settled {
            self.reader.end();
            self.settled = true;
        }
        if !rest.trim_ascii_start().is_empty() {
            self.reader.begin();
            self.scanner.reset();
            self.settled = false;
        }
    }

    fn events(&mut self, bytes: &[u8], end: bool) -> Option<Vec<u8>> {
        let Shape::Events(splitter) = &mut self.shape else {
            return None;
        };
        let mut splitter = std::mem::replace(splitter, Splitter::new());
        if let Some(strip) = &mut self.strip {
            strip.begin();
        }
        let mut events = Events { core: self, bytes };
        splitter.feed(bytes, &mut events);
        self.shape = Shape::Events(splitter);
        if end {
            self.last_event();
        }
        let open = Open {
            choices: self.reader.choices(),
            last: end,
            unwanted: self.scanner.is_done() && self.reader.is_usage_chunk(),
        };
        self.strip.as_mut()?.finish(bytes, open)
    }

    /// Some servers leave out the last blank line: an event that is whole counts.
    fn last_event(&mut self) {
        if self.scanner.is_done() {
            self.reader.end();
        } else if self.is_done_marker() {
            self.reader.done();
        }
    }

    fn is_done_marker(&self) -> bool {
        self.data_len == DONE.len() && self.head.starts_with(DONE)
    }
}

/// Passes events on to the core that reads them.
struct Events<'c> {
    core: &'c mut Core,
    bytes: &'c [u8],
}

impl EventSink for Events<'_> {
    fn data(&mut self, bytes: &[u8], whole: bool) {
        let core = &mut *self.core;
        let whole = whole && core.data_len == 0;
        if whole && let Some(text) = core.pattern.text(bytes) {
            core.reader.recognised(text);
            core.settled = true;
        }
        if core.settled {
            return;
        }
        for (slot, byte) in core.head.iter_mut().skip(core.data_len).zip(bytes) {
            *slot = *byte;
        }
        core.data_len = core.data_len.saturating_add(bytes.len());
        core.scanner.feed(bytes, &mut core.reader);
        if whole
            && core.scanner.is_done()
            && let Some(text) = core.scanner.only_text()
            && core.reader.brought_only_text(text.len())
        {
            core.pattern.learn(bytes, &text);
        }
    }

    fn end(&mut self, at: usize) {
        let core = &mut *self.core;
        let mut unwanted = false;
        if core.scanner.is_done() {
            core.reader.end();
            unwanted = core.reader.is_usage_chunk();
        } else if core.is_done_marker() {
            core.reader.done();
        }
        core.data_len = 0;
        core.settled = false;
        core.scanner.reset();
        core.reader.begin();
        if let Some(strip) = &mut core.strip {
            strip.event(self.bytes, at, unwanted);
        }
    }

    fn late_line_feed(&mut self) {
        if let Some(strip) = &mut self.core.strip {
            strip.late_line_feed();
        }
    }
}

/// Observing never fails, so writing does not either.
impl Write for Core {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes, false);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Encodes again what the core lets through.
struct Recoder {
    core: Core,
    encoder: Encoder,
    wrote: bool,
}

impl Recoder {
    fn take(&mut self, end: bool, broken: bool) -> Vec<u8> {
        if end && let Some(last) = self.core.push(&[], true) {
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
        match self.core.push(bytes, false) {
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
