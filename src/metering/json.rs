//! A resumable JSON scanner for answers: bytes in whatever pieces, no buffer, no tree.
//!
//! It walks the containers a [`Sink`] asks for and passes over the rest. What it holds is a stack of
//! [`Node`]s, one member name and one number, so that a 50 MB answer costs as little as a small one.
//! It observes and never judges: text that is no JSON is passed over to the end of the document.
//!
//! ```text
//! Value ─"→ String ─"→ After ─,→ Value | Name      Value ─{ [→ Name | Value | Skip (not asked for)
//!   └─0-9tfn→ Scalar ──→ After ─} ]→ After … Done   Name ─":→ Value
//! ```

use std::ops::Range;

use super::escape::{Escape, Step};
use super::short::Short;
use super::walk::{Node, Place, Sink, Want};

/// Longest member name and scalar that are looked at; longer ones match nothing.
const NAME_BYTES: usize = 40;
const SCALAR_BYTES: usize = 40;

/// Containers walked inside each other; deeper ones are passed over.
const STACK: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    Name,
    InName,
    NameEscape,
    Colon,
    Text,
    TextEscape,
    /// A string that nobody wants, and the byte after its backslash.
    Pass,
    PassEscape,
    Scalar,
    After,
    /// In a container that nobody wants.
    Skip,
    SkipText,
    SkipEscape,
    Done,
    Broken,
}

/// The produced text of a document, as far as it is one plain string.
#[derive(Clone, Copy, Debug)]
enum OnlyText {
    None,
    From(usize),
    At(usize, usize),
    /// Several strings, or escapes.
    Several,
}

/// The scanner of one document, or of documents one after the other.
#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    depth: usize,
    /// Bit n: the container at depth n + 1 is an array.
    arrays: u32,
    nodes: [Node; STACK],
    /// Containers open inside the one that is skipped, itself included.
    skipped: u32,
    want: Want,
    /// Where the step in hand begins in the fed bytes.
    at: usize,
    text: OnlyText,
    escape: Escape,
    name: Short<NAME_BYTES>,
    scalar: Short<SCALAR_BYTES>,
}

impl Scanner {
    pub(super) fn new() -> Self {
        Scanner {
            state: State::Value,
            depth: 0,
            arrays: 0,
            nodes: [Node::Skip; STACK],
            skipped: 0,
            want: Want::Nothing,
            at: 0,
            text: OnlyText::None,
            escape: Escape::default(),
            name: Short::EMPTY,
            scalar: Short::EMPTY,
        }
    }

    /// Forgets the document and is ready for the next.
    pub(super) fn reset(&mut self) {
        self.state = State::Value;
        self.depth = 0;
        self.skipped = 0;
        self.text = OnlyText::None;
        self.escape = Escape::default();
        self.name.clear();
    }

    /// Whether a document ended whole and nothing followed.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Where the produced text of the document stands in the bytes fed last, if it is one string
    /// without escapes and those bytes are the whole document.
    pub(super) fn only_text(&self) -> Option<Range<usize>> {
        match self.text {
            OnlyText::At(from, to) => Some(from..to),
            _ => None,
        }
    }

    /// Feeds bytes; returns how many were taken: all, or up to the end of a document.
    pub(super) fn feed<S: Sink>(&mut self, bytes: &[u8], sink: &mut S) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            self.at = at;
            at += match self.state {
                State::Value => self.value(rest, sink),
                State::Name => self.before_name(rest, sink),
                State::InName => self.in_name(rest),
                State::NameEscape => self.name_escape(rest),
                State::Colon => self.colon(rest),
                State::Text => self.text(rest, sink),
                State::TextEscape => self.text_escape(rest, sink),
                State::Pass => self.pass(rest),
                State::Scalar => self.scalar(rest, sink),
                State::After => self.after(rest, sink),
                State::Skip => self.skip(rest),
                State::SkipText => self.skip_text(rest),
                State::PassEscape => self.go(State::Pass),
                State::SkipEscape => self.go(State::SkipText),
                State::Done => return at,
                State::Broken => return bytes.len(),
            };
        }
        at
    }

    /// Takes one byte and goes on in `state`.
    fn go(&mut self, state: State) -> usize {
        self.state = state;
        1
    }

    fn place(&self) -> Place<'_> {
        let node = match self.depth {
            0 => Node::Top,
            depth => self.nodes.get(depth - 1).copied().unwrap_or(Node::Skip),
        };
        Place {
            node,
            name: self.name.get(),
        }
    }

    fn in_array(&self) -> bool {
        self.depth > 0 && self.arrays & (1 << (self.depth - 1)) != 0
    }

    fn value<S: Sink>(&mut self, rest: &[u8], sink: &mut S) -> usize {
        let spaces = spaces(rest);
        let Some(&byte) = rest.get(spaces) else {
            return spaces;
        };
        spaces
            + match byte {
                b'"' => {
                    self.want = sink.string(self.place());
                    if self.want == Want::Output {
                        self.text = match self.text {
                            OnlyText::None => OnlyText::From(self.at + spaces + 1),
                            _ => OnlyText::Several,
                        };
                    }
                    match self.want {
                        Want::Nothing => self.go(State::Pass),
                        _ => self.go(State::Text),
                    }
                }
                b'{' => self.open(false, sink),
                b'[' => self.open(true, sink),
                b']' if self.in_array() => self.close(sink),
                b'-' | b'0'..=b'9' | b'a'..=b'z' => {
                    self.scalar.clear();
                    self.state = State::Scalar;
                    0
                }
                _ => self.go(State::Broken),
            }
    }

    fn open<S: Sink>(&mut self, array: bool, sink: &mut S) -> usize {
        let node = sink.open(self.place(), array);
        if node == Node::Skip || self.depth == STACK {
            self.skipped = 1;
            return self.go(State::Skip);
        }
        if let Some(slot) = self.nodes.get_mut(self.depth) {
            *slot = node;
        }
        let bit = 1 << self.depth;
        self.arrays = (self.arrays & !bit) | if array { bit } else { 0 };
        self.depth += 1;
        self.name.clear();
        self.go(if array { State::Value } else { State::Name })
    }

    fn close<S: Sink>(&mut self, sink: &mut S) -> usize {
        let node = self.place().node;
        self.depth -= 1;
        self.name.clear();
        sink.close(node);
        self.go(if self.depth == 0 {
            State::Done
        } else {
            State::After
        })
    }

    fn after<S: Sink>(&mut self, rest: &[u8], sink: &mut S) -> usize {
        let spaces = spaces(rest);
        let Some(&byte) = rest.get(spaces) else {
            return spaces;
        };
        if self.depth == 0 {
            self.state = State::Done;
            return spaces;
        }
        let array = self.in_array();
        spaces
            + match byte {
                b',' if array => self.go(State::Value),
                b',' => self.go(State::Name),
                b']' if array => self.close(sink),
                b'}' if !array => self.close(sink),
                _ => self.go(State::Broken),
            }
    }

    fn before_name<S: Sink>(&mut self, rest: &[u8], sink: &mut S) -> usize {
        let spaces = spaces(rest);
        let Some(&byte) = rest.get(spaces) else {
            return spaces;
        };
        spaces
            + match byte {
                b'"' => {
                    self.name.clear();
                    self.go(State::InName)
                }
                b'}' => self.close(sink),
                _ => self.go(State::Broken),
            }
    }

    fn in_name(&mut self, rest: &[u8]) -> usize {
        let Some(at) = memchr::memchr2(b'"', b'\\', rest) else {
            self.name.extend(rest);
            return rest.len();
        };
        let (plain, tail) = rest.split_at(at);
        self.name.extend(plain);
        self.state = match tail.first() {
            Some(b'"') => State::Colon,
            _ => State::NameEscape,
        };
        at + 1
    }

    fn name_escape(&mut self, rest: &[u8]) -> usize {
        let name = &mut self.name;
        let byte = rest.first().copied().unwrap_or(0);
        let step = self
            .escape
            .step(byte, |c| name.extend(c.encode_utf8(&mut [0; 4]).as_bytes()));
        match step {
            Step::More => 1,
            Step::Done => self.go(State::InName),
            Step::Bad => self.go(State::Broken),
        }
    }

    fn colon(&mut self, rest: &[u8]) -> usize {
        match rest.first() {
            Some(b':') => self.go(State::Value),
            Some(b' ' | b'\t' | b'\n' | b'\r') => 1,
            _ => self.go(State::Broken),
        }
    }

    fn text<S: Sink>(&mut self, rest: &[u8], sink: &mut S) -> usize {
        let want = self.want;
        let found = memchr::memchr2(b'"', b'\\', rest);
        let plain = rest.get(..found.unwrap_or(rest.len())).unwrap_or_default();
        if !plain.is_empty() {
            self.escape.plain(|c| piece(sink, want, c));
            sink.piece(want, plain);
        }
        let Some(at) = found else {
            return rest.len();
        };
        if rest.get(at) == Some(&b'"') {
            self.escape.plain(|c| piece(sink, want, c));
            if let (Want::Output, OnlyText::From(from)) = (want, self.text) {
                self.text = OnlyText::At(from, self.at + at);
            }
            self.state = State::After;
        } else {
            if want == Want::Output {
                self.text = OnlyText::Several;
            }
            self.state = State::TextEscape;
        }
        at + 1
    }

    fn text_escape<S: Sink>(&mut self, rest: &[u8], sink: &mut S) -> usize {
        let want = self.want;
        let byte = rest.first().copied().unwrap_or(0);
        match self.escape.step(byte, |c| piece(sink, want, c)) {
            Step::More => 1,
            Step::Done => self.go(State::Text),
            Step::Bad => self.go(State::Broken),
        }
    }

    fn pass(&mut self, rest: &[u8]) -> usize {
        let Some(at) = memchr::memchr2(b'"', b'\\', rest) else {
            return rest.len();
        };
        self.state = match rest.get(at) {
            Some(b'"') => State::After,
            _ => State::PassEscape,
        };
        at + 1
    }

    fn scalar<S: Sink>(&mut self, rest: &[u8], sink: &mut S) -> usize {
        let end = rest
            .iter()
            .position(|byte| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'));
        let part = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        self.scalar.extend(part);
        if end.is_some() {
            if !self.scalar.is_full() {
                sink.scalar(self.place(), self.scalar.get());
            }
            self.state = State::After;
        }
        part.len()
    }

    fn skip(&mut self, rest: &[u8]) -> usize {
        let structural = |byte: &u8| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']');
        let Some(at) = rest.iter().position(structural) else {
            return rest.len();
        };
        match rest.get(at) {
            Some(b'"') => self.state = State::SkipText,
            Some(b'{' | b'[') => self.skipped = self.skipped.saturating_add(1),
            _ => {
                self.skipped -= 1;
                if self.skipped == 0 {
                    self.state = match self.depth {
                        0 => State::Done,
                        _ => State::After,
                    };
                }
            }
        }
        at + 1
    }

    fn skip_text(&mut self, rest: &[u8]) -> usize {
        let Some(at) = memchr::memchr2(b'"', b'\\', rest) else {
            return rest.len();
        };
        self.state = match rest.get(at) {
            Some(b'"') => State::Skip,
            _ => State::SkipEscape,
        };
        at + 1
    }
}

fn piece<S: Sink>(sink: &mut S, want: Want, c: char) {
    sink.piece(want, c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn spaces(rest: &[u8]) -> usize {
    rest.iter()
        .position(|byte| !matches!(byte, b' ' | b'\n' | b'\r' | b'\t'))
        .unwrap_or(rest.len())
}
