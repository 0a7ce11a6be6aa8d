//! Server-sent events (WHATWG HTML, section 9.2), split without holding any of them.
//!
//! Lines end in LF, CR or CRLF, a byte order mark may come first, data may span lines, comments and
//! unknown fields are passed. Bytes go on as they come, so an event of any size costs no memory.

/// What hears about events.
pub(super) trait EventSink {
    /// Bytes of the event's data; `whole` where they are a full line of it. Data of several lines
    /// are joined by a newline.
    fn data(&mut self, bytes: &[u8], whole: bool);
    /// The event ends; `at` is the offset in the fed bytes just past its blank line.
    fn end(&mut self, at: usize);
    /// A line feed at the start of the fed bytes still belongs to the event that ended before it.
    fn late_line_feed(&mut self) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// Nothing of the line has come.
    Start,
    /// So many bytes of `data` have matched.
    Name(u8),
    /// Past `data:`; one space is not part of the value.
    Colon,
    Data,
    /// Any other line.
    Other,
}

const FIELD: &[u8] = b"data";
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The state between two pieces of a stream.
#[derive(Debug)]
pub(super) struct Splitter {
    line: Line,
    /// Bytes of a byte order mark seen; `None` once the stream has begun.
    mark: Option<u8>,
    /// The last byte was a CR: an LF now belongs to it.
    after_cr: bool,
    /// That CR ended an event.
    event_ended: bool,
    /// The event has a data line.
    has_data: bool,
}

impl Splitter {
    pub(super) fn new() -> Self {
        Splitter {
            line: Line::Start,
            mark: Some(0),
            after_cr: false,
            event_ended: false,
            has_data: false,
        }
    }

    /// Feeds bytes of the stream.
    pub(super) fn feed(&mut self, bytes: &[u8], sink: &mut impl EventSink) {
        let mut at = self.pass_mark(bytes);
        if self.after_cr && at < bytes.len() {
            self.after_cr = false;
            if bytes.get(at) == Some(&b'\n') {
                at += 1;
                if self.event_ended {
                    sink.late_line_feed();
                }
            }
        }
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(end) = memchr::memchr2(b'\n', b'\r', rest) else {
                self.part(rest, sink);
                return;
            };
            let (line, tail) = rest.split_at(end);
            let cr = tail.first() == Some(&b'\r');
            let crlf = cr && tail.get(1) == Some(&b'\n');
            self.after_cr = cr && tail.len() == 1;
            self.event_ended = false;
            at += end + 1 + usize::from(crlf);
            self.line(line, at, sink);
        }
    }

    /// Passes a byte order mark at the very start; how many bytes were its.
    fn pass_mark(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let (Some(seen), Some(byte)) = (self.mark, bytes.get(at)) {
            if BYTE_ORDER_MARK.get(usize::from(seen)) != Some(byte) {
                self.mark = None;
                break;
            }
            at += 1;
            self.mark = if seen == 2 { None } else { Some(seen + 1) };
        }
        at
    }

    /// A line, or the last part of one, ends; the next begins at `at`.
    fn line(&mut self, line: &[u8], at: usize, sink: &mut impl EventSink) {
        if self.line == Line::Start {
            if line.is_empty() {
                self.has_data = false;
                self.event_ended = true;
                sink.end(at);
                return;
            }
            if let Some(value) = line.strip_prefix(b"data:") {
                let value = value.strip_prefix(b" ").unwrap_or(value);
                self.data(value, true, sink);
                return;
            }
        }
        self.part(line, sink);
        // A data line without a value still is one.
        if matches!(self.line, Line::Colon | Line::Name(4)) {
            self.data(b"", false, sink);
        }
        self.line = Line::Start;
    }

    /// Bytes within a line.
    fn part(&mut self, bytes: &[u8], sink: &mut impl EventSink) {
        let mut rest = bytes;
        while let Some((&byte, tail)) = rest.split_first() {
            self.line = match self.line {
                Line::Start if byte == b'd' => Line::Name(1),
                Line::Name(4) if byte == b':' => Line::Colon,
                Line::Name(n) if FIELD.get(usize::from(n)) == Some(&byte) => Line::Name(n + 1),
                Line::Start | Line::Name(_) => Line::Other,
                Line::Colon => {
                    let value = if byte == b' ' { tail } else { rest };
                    self.line = Line::Data;
                    self.data(value, false, sink);
                    return;
                }
                Line::Data => {
                    sink.data(rest, false);
                    return;
                }
                Line::Other => return,
            };
            rest = tail;
        }
    }

    /// The first bytes of a data line's value.
    fn data(&mut self, value: &[u8], whole: bool, sink: &mut impl EventSink) {
        if self.has_data {
            sink.data(b"\n", false);
        }
        self.has_data = true;
        if !value.is_empty() {
            sink.data(value, whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Events {
        data: Vec<u8>,
        all: Vec<String>,
    }

    impl EventSink for Events {
        fn data(&mut self, bytes: &[u8], _: bool) {
            self.data.extend_from_slice(bytes);
        }
        fn end(&mut self, _: usize) {
            let data = std::mem::take(&mut self.data);
            self.all.push(String::from_utf8(data).unwrap());
        }
    }

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let mut events = Events::default();
        let mut splitter = Splitter::new();
        for piece in pieces {
            splitter.feed(piece, &mut events);
        }
        events.all.retain(|data| !data.is_empty());
        events.all
    }

    #[test]
    fn every_line_ending_gives_the_same_events_wherever_it_is_cut() {
        let text = "\u{feff}: hi\nevent: x\ndata: {\"ä\":1}\nid: 3\n\ndata:\ndata\ndata: x\n\ndata:a\ndata:  b\ndata\n\n\ndata: [DONE]\n\ndata: unfinished";
        let expected = ["{\"ä\":1}", "\n\nx", "a\n b\n", "[DONE]"];
        for ending in ["\n", "\r", "\r\n"] {
            let stream = text.replace('\n', ending).into_bytes();
            assert_eq!(events(&[&stream]), expected);
            for cut in 0..stream.len() {
                let (head, tail) = stream.split_at(cut);
                assert_eq!(events(&[head, tail]), expected, "{ending:?} cut at {cut}");
            }
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            assert_eq!(events(&bytes), expected);
        }
    }
}
