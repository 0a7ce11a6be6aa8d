//! What a document of an answer says: usage, produced text, model, errors, whether it is the end.

use super::report::Report;
use super::usage::{Dialect, Usage};
use super::walk::{Node, Place, Sink, Want};
use super::{anthropic, gemini, openai};

/// Produced text kept for counting, in bytes.
pub(super) const KEPT_OUTPUT_BYTES: usize = 64 * 1024;

/// Longest model name and error message kept, in bytes.
const MODEL_BYTES: usize = 128;
const MESSAGE_BYTES: usize = 512;
const KIND_BYTES: usize = 48;

/// What the `choices` of a chunk hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choices {
    Unseen,
    Empty,
    Filled,
}

/// Reads documents of one dialect, one after the other.
#[derive(Debug)]
pub(super) struct Reader {
    dialect: Dialect,
    stream: bool,
    usage: Option<Report>,
    final_usage: bool,
    /// `output_bytes` when usage was last reported.
    text_when_reported: i64,
    complete: bool,
    finished: bool,
    model: Vec<u8>,
    stream_error: Option<String>,
    output: Vec<u8>,
    output_bytes: i64,
    cost_nano: Option<i64>,
    document: Document,
}

/// What belongs to the document that is being read.
#[derive(Debug)]
struct Document {
    report: Report,
    /// It has a usage object.
    has_usage: bool,
    /// It has an error.
    has_error: bool,
    choices: Choices,
    /// It says why the answer ended.
    has_finish: bool,
    /// Bytes of text it produced.
    produced: usize,
    kind: Vec<u8>,
    message: Vec<u8>,
}

impl Document {
    const NEW: Document = Document {
        report: Report::NONE,
        has_usage: false,
        has_error: false,
        choices: Choices::Unseen,
        has_finish: false,
        produced: 0,
        kind: Vec::new(),
        message: Vec::new(),
    };

    fn clear(&mut self) {
        self.report = Report::NONE;
        self.has_usage = false;
        self.has_error = false;
        self.choices = Choices::Unseen;
        self.has_finish = false;
        self.produced = 0;
        self.kind.clear();
        self.message.clear();
    }
}

impl Reader {
    pub(super) fn new(dialect: Dialect) -> Self {
        Reader {
            dialect,
            stream: false,
            usage: None,
            final_usage: false,
            text_when_reported: 0,
            complete: false,
            finished: false,
            model: Vec::new(),
            stream_error: None,
            output: Vec::new(),
            output_bytes: 0,
            cost_nano: None,
            document: Document::NEW,
        }
    }

    /// The documents are events of a stream.
    pub(super) fn set_stream(&mut self) {
        self.stream = true;
    }

    /// A new document begins.
    pub(super) fn begin(&mut self) {
        self.document.clear();
        if !self.stream {
            self.complete = false;
        }
    }

    /// The document ended whole.
    pub(super) fn end(&mut self) {
        let kind = self.document.kind.as_slice();
        let failed = self.document.has_error || kind == b"error";
        let ended = match self.dialect {
            _ if !self.stream => true,
            Dialect::OpenAi => openai::is_end(kind),
            Dialect::Anthropic => anthropic::is_end(kind),
            Dialect::Gemini => self.finished,
        };
        self.complete |= ended;
        if failed {
            let message = String::from_utf8_lossy(&self.document.message);
            self.stream_error = Some(message.into_owned());
        }
        if self.document.has_usage {
            self.text_when_reported = self.output_bytes;
        }
        if self.document.has_usage && self.usage_closes_answer() {
            self.final_usage = true;
        }
    }

    /// The end marker `[DONE]`.
    pub(super) fn done(&mut self) {
        self.complete |= self.dialect == Dialect::OpenAi;
    }

    fn usage_closes_answer(&self) -> bool {
        match self.dialect {
            Dialect::OpenAi => self.finished && self.document.choices != Choices::Filled,
            Dialect::Anthropic | Dialect::Gemini => self.finished,
        }
    }

    /// Whether the document that just ended is the extra chunk that carries usage and no choice.
    pub(super) fn is_usage_chunk(&self) -> bool {
        self.document.has_usage && self.document.choices == Choices::Empty
    }

    pub(super) fn choices(&self) -> Choices {
        self.document.choices
    }

    /// Whether the document in hand brought `bytes` of text and nothing else worth remembering.
    pub(super) fn brought_only_text(&self, bytes: usize) -> bool {
        let document = &self.document;
        let kind = document.kind.as_slice();
        let ends = openai::is_end(kind) || anthropic::is_end(kind) || kind == b"error";
        document.produced == bytes
            && !(document.has_usage || document.has_error || document.has_finish || ends)
    }

    /// A document that equals one with a choice or a delta in all but its text.
    pub(super) fn recognised(&mut self, text: &[u8]) {
        self.document.choices = Choices::Filled;
        self.produced_text(text);
    }

    /// Produced text: of the document in hand, or of one that was recognised.
    pub(super) fn produced_text(&mut self, text: &[u8]) {
        self.output_bytes = self
            .output_bytes
            .saturating_add(i64::try_from(text.len()).unwrap_or(i64::MAX));
        self.document.produced += text.len();
        let room = KEPT_OUTPUT_BYTES - self.output.len().min(KEPT_OUTPUT_BYTES);
        self.output
            .extend_from_slice(text.get(..room).unwrap_or(text));
    }

    fn take_usage(&mut self) {
        let newer = std::mem::take(&mut self.document.report);
        if !newer.says_something() {
            return;
        }
        self.cost_nano = newer.cost_nano().or(self.cost_nano);
        match &mut self.usage {
            Some(before) if self.dialect == Dialect::Anthropic => before.update(&newer),
            before => *before = Some(newer),
        }
    }

    /// Output tokens so far: those reported, or four bytes a token.
    pub(super) fn produced(&self) -> i64 {
        let reported = self.usage.map_or(0, |report| report.produced(self.dialect));
        reported.max(super::estimate::by_bytes(self.output_bytes))
    }

    pub(super) fn usage(&self) -> Option<Usage> {
        self.usage.and_then(|report| report.usage(self.dialect))
    }

    pub(super) fn audio_seconds(&self) -> Option<i64> {
        self.usage.and_then(|report| report.audio_seconds())
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Text came after the last report: what it says is not all there was.
    pub(super) fn has_unreported_text(&self) -> bool {
        self.stream && self.output_bytes > self.text_when_reported
    }

    pub(super) fn has_final_usage(&self) -> bool {
        self.final_usage
    }

    pub(super) fn output_text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    pub(super) fn output_bytes(&self) -> i64 {
        self.output_bytes
    }

    pub(super) fn cost_nano(&self) -> Option<i64> {
        self.cost_nano
    }

    pub(super) fn model(&self) -> Option<String> {
        let named = !self.model.is_empty();
        named.then(|| String::from_utf8_lossy(&self.model).into_owned())
    }

    pub(super) fn stream_error(&self) -> Option<String> {
        self.stream_error.clone()
    }
}

impl Sink for Reader {
    fn open(&mut self, place: Place<'_>, array: bool) -> Node {
        let node = match (place.node, array) {
            // Gemini without `alt=sse` streams one array; each element is a document.
            (Node::Top, true) => Node::Top,
            (Node::Top, false) => Node::Root,
            (Node::Usage, false) => details(place.name),
            (Node::Usage | Node::Details, _) => Node::Skip,
            _ => match self.dialect {
                Dialect::OpenAi => openai::open(place, array),
                Dialect::Anthropic => anthropic::open(place, array),
                Dialect::Gemini => gemini::open(place, array),
            },
        };
        match node {
            Node::Usage => self.document.has_usage = true,
            Node::Error => self.document.has_error = true,
            Node::Choices => self.document.choices = Choices::Empty,
            _ => {}
        }
        if place.node == Node::Choices {
            self.document.choices = Choices::Filled;
        }
        node
    }

    fn close(&mut self, node: Node) {
        if node == Node::Usage {
            self.take_usage();
        }
    }

    fn string(&mut self, place: Place<'_>) -> Want {
        let want = match self.dialect {
            Dialect::OpenAi => openai::string(place, self.stream),
            Dialect::Anthropic => anthropic::string(place),
            Dialect::Gemini => gemini::string(place),
        };
        match want {
            Want::Finish => {
                self.finished = true;
                self.document.has_finish = true;
                Want::Nothing
            }
            Want::ErrorText => {
                self.document.has_error = true;
                Want::ErrorMessage
            }
            // The first name stays: later ones say the same in every event.
            Want::Model if !self.model.is_empty() => Want::Nothing,
            _ => want,
        }
    }

    fn piece(&mut self, want: Want, text: &[u8]) {
        match want {
            Want::Output => self.produced_text(text),
            Want::Kind => keep(&mut self.document.kind, text, KIND_BYTES),
            Want::Model => keep(&mut self.model, text, MODEL_BYTES),
            Want::ErrorMessage => keep(&mut self.document.message, text, MESSAGE_BYTES),
            Want::Nothing | Want::ErrorText | Want::Finish => {}
        }
    }

    fn scalar(&mut self, place: Place<'_>, raw: &[u8]) {
        match place.node {
            Node::Usage | Node::Details => self.document.report.take(place.name, raw),
            Node::Tree => self.produced_text(raw),
            _ => {}
        }
    }
}

/// The objects inside usage that are read; others repeat what is counted (`iterations`) or price it.
fn details(name: &[u8]) -> Node {
    match name {
        b"prompt_tokens_details"
        | b"input_tokens_details"
        | b"completion_tokens_details"
        | b"output_tokens_details"
        | b"cache_creation" => Node::Details,
        _ => Node::Skip,
    }
}

fn keep(to: &mut Vec<u8>, text: &[u8], most: usize) {
    let room = most.saturating_sub(to.len());
    to.extend_from_slice(text.get(..room).unwrap_or(text));
}
