//! The meter over decoded bytes: tells JSON from events, reads both, takes out the usage chunk.

use std::io::{self, Write};

use super::json::Scanner;
use super::meter::MeterSetup;
use super::pattern::Pattern;
use super::reader::Reader;
use super::sse::{EventSink, Splitter};
use super::strip::{Open, Strip};
use super::usage::{Dialect, Endpoint};

/// How the decoded bytes are read.
enum Shape {
    /// Before the first byte that tells; the white space that came last.
    Unknown(Option<u8>),
    Json,
    Events(Splitter),
    /// A plain transcript: all of it is produced text.
    Text,
}

/// The meter over decoded bytes.
pub(super) struct PlainMeter {
    shape: Shape,
    scanner: Scanner,
    pub(super) reader: Reader,
    strip: Option<Strip>,
    pattern: Pattern,
    /// The content type says events.
    labelled_events: bool,
    /// The document in hand has been read to its end, or recognised.
    settled: bool,
    /// The first bytes of the open event's data, to know `[DONE]`.
    head: [u8; 8],
    data_len: usize,
}

const DONE: &[u8] = b"[DONE]";

impl PlainMeter {
    /// `None` where the content type holds no usage: sound, pictures, pages.
    pub(super) fn new(setup: &MeterSetup<'_>) -> Option<PlainMeter> {
        let kind = setup.content_type.to_ascii_lowercase();
        let structured = kind.contains("json") || kind.contains("event-stream");
        let text = kind.starts_with("text/") && !kind.starts_with("text/html");
        let shape = match setup.endpoint {
            Endpoint::Audio if text && !structured => Shape::Text,
            _ if structured || text || kind.trim().is_empty() => Shape::Unknown(None),
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
        Some(PlainMeter {
            shape,
            scanner: Scanner::new(),
            reader: Reader::new(dialect),
            strip: setup.strip_usage_chunk.then(Strip::default),
            pattern: Pattern::default(),
            settled: false,
            labelled_events: kind.contains("event-stream"),
            head: [0; 8],
            data_len: 0,
        })
    }

    /// Whether it takes something out of what the client receives.
    pub(super) fn alters(&self) -> bool {
        self.strip.is_some()
    }

    /// Sees decoded bytes; what is to leave in their place, if not themselves.
    pub(super) fn push(&mut self, bytes: &[u8], end: bool) -> Option<Vec<u8>> {
        if let Shape::Unknown(space) = self.shape {
            self.decide(bytes, space);
        }
        match &mut self.shape {
            Shape::Unknown(_) => None,
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

    /// The first byte that is no space tells JSON from events, whatever the content type says; where
    /// it says events, the very first byte does, since white space is part of them.
    fn decide(&mut self, bytes: &[u8], space: Option<u8>) {
        let white = |byte: &u8| byte.is_ascii_whitespace() && !self.labelled_events;
        match bytes.iter().find(|byte| !white(byte)) {
            None => self.shape = Shape::Unknown(bytes.last().copied().or(space)),
            Some(b'{' | b'[') => self.shape = Shape::Json,
            Some(_) => {
                self.reader.set_stream();
                let mut splitter = Splitter::new();
                let passed = space.as_slice();
                let mut events = Events {
                    plain: self,
                    bytes: passed,
                };
                splitter.feed(passed, &mut events);
                self.shape = Shape::Events(splitter);
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
        let mut events = Events { plain: self, bytes };
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

/// Passes events on to the plain that reads them.
struct Events<'c> {
    plain: &'c mut PlainMeter,
    bytes: &'c [u8],
}

impl EventSink for Events<'_> {
    fn data(&mut self, bytes: &[u8], whole: bool) {
        let plain = &mut *self.plain;
        let whole = whole && plain.data_len == 0;
        if whole && let Some(text) = plain.pattern.text(bytes) {
            plain.reader.recognised(text);
            plain.settled = true;
        }
        if plain.settled {
            return;
        }
        for (slot, byte) in plain.head.iter_mut().skip(plain.data_len).zip(bytes) {
            *slot = *byte;
        }
        plain.data_len = plain.data_len.saturating_add(bytes.len());
        plain.scanner.feed(bytes, &mut plain.reader);
        if whole
            && plain.scanner.is_done()
            && let Some(text) = plain.scanner.only_text()
            && plain.reader.brought_only_text(text.len())
        {
            plain.pattern.learn(bytes, &text);
        }
    }

    fn end(&mut self, at: usize) {
        let plain = &mut *self.plain;
        let mut unwanted = false;
        if plain.scanner.is_done() {
            plain.reader.end();
            unwanted = plain.reader.is_usage_chunk();
        } else if plain.is_done_marker() {
            plain.reader.done();
        }
        plain.data_len = 0;
        plain.settled = false;
        plain.scanner.reset();
        plain.reader.begin();
        if let Some(strip) = &mut plain.strip {
            strip.event(self.bytes, at, unwanted);
        }
    }

    fn late_line_feed(&mut self) {
        if let Some(strip) = &mut self.plain.strip {
            strip.late_line_feed();
        }
    }
}

/// Observing never fails, so writing does not either.
impl Write for PlainMeter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes, false);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
