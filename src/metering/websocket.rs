//! What an upstream says in a WebSocket (RFC 6455 section 5), read as it passes: the `response.done`
//! events of OpenAI's realtime API carry the usage of one turn each, and a socket has many turns.
//!
//! Sans-io, in bounded memory: a message above 1 MiB is passed over, and so is one that an extension
//! has changed. Nothing here can fail: what makes no sense is not read any further.

use serde::Deserialize;

use super::usage::Usage;

/// Longest message that is read; a `response.done` has a few KiB.
const MOST: usize = 1024 * 1024;
/// Longest head of a frame: two bytes, a length of eight, a mask of four.
const LONGEST_HEAD: usize = 14;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const FIRST_CONTROL: u8 = 8;

/// Adds up the usage of a socket's turns.
#[derive(Debug, Default)]
pub struct SocketMeter {
    head: Vec<u8>,
    frame: Option<Frame>,
    message: Vec<u8>,
    /// The message that runs is not read: too long, binary, or changed by an extension.
    passed_over: bool,
    lost: bool,
    usage: Usage,
    turns: u32,
}

/// The frame whose payload passes now.
#[derive(Clone, Copy, Debug)]
struct Frame {
    is_control: bool,
    is_last: bool,
    left: u64,
    mask: Option<[u8; 4]>,
    at: usize,
}

impl SocketMeter {
    /// What the upstream sent, however it is cut.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.lost {
            match self.frame {
                None => bytes = self.take_head(bytes),
                Some(frame) => bytes = self.take_payload(frame, bytes),
            }
        }
    }

    /// Usage of all turns that have ended.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Turns that told their usage.
    pub fn turns(&self) -> u32 {
        self.turns
    }

    fn take_head<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Some((&byte, rest)) = bytes.split_first() else {
            return bytes;
        };
        self.head.push(byte);
        if let Some(frame) = parse_head(&self.head) {
            self.begin(frame);
        } else if self.head.len() >= LONGEST_HEAD {
            self.lost = true;
        }
        rest
    }

    fn begin(&mut self, frame: Frame) {
        let first = self.head.first().copied().unwrap_or_default();
        let (opcode, is_changed) = (first & 0x0F, first & 0x70 != 0);
        self.head.clear();
        if !frame.is_control {
            if opcode != CONTINUATION {
                self.message.clear();
                self.passed_over = opcode != TEXT || is_changed;
            }
            let length = self.message.len() as u64;
            self.passed_over |= length.saturating_add(frame.left) > MOST as u64;
        }
        self.frame = Some(frame);
        if frame.left == 0 {
            self.end(frame);
        }
    }

    fn take_payload<'a>(&mut self, mut frame: Frame, bytes: &'a [u8]) -> &'a [u8] {
        let here = usize::try_from(frame.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let (payload, rest) = bytes.split_at(here);
        if !frame.is_control && !self.passed_over {
            match frame.mask {
                None => self.message.extend_from_slice(payload),
                Some(mask) => {
                    let unmasked = payload.iter().enumerate();
                    let unmasked = unmasked.map(|(i, byte)| byte ^ mask[(frame.at + i) % 4]);
                    self.message.extend(unmasked);
                }
            }
        }
        frame.at = (frame.at + here) % 4;
        frame.left -= here as u64;
        self.frame = Some(frame);
        if frame.left == 0 {
            self.end(frame);
        }
        rest
    }

    fn end(&mut self, frame: Frame) {
        self.frame = None;
        if frame.is_control || !frame.is_last {
            return;
        }
        if !self.passed_over {
            self.read_message();
        }
        self.message.clear();
        self.passed_over = false;
    }

    fn read_message(&mut self) {
        // Most messages are pieces of sound: they are not parsed.
        if memchr::memmem::find(&self.message, b"response.done").is_none() {
            return;
        }
        let Ok(event) = serde_json::from_slice::<Event>(&self.message) else {
            return;
        };
        let Some(told) = event.usage() else { return };
        let cached = told.input_token_details.cached_tokens;
        self.turns = self.turns.saturating_add(1);
        let add = |sum: &mut i64, more: i64| *sum = sum.saturating_add(more.max(0));
        add(&mut self.usage.input_tokens, told.input_tokens);
        add(&mut self.usage.output_tokens, told.output_tokens);
        add(
            &mut self.usage.cached_tokens,
            cached.clamp(0, told.input_tokens.max(0)),
        );
    }
}

/// The head of a frame, where it is there whole.
fn parse_head(head: &[u8]) -> Option<Frame> {
    let (&first, &second) = (head.first()?, head.get(1)?);
    let opcode = first & 0x0F;
    let (left, mask_at) = match second & 0x7F {
        126 => {
            let bytes = head.get(2..4)?.try_into().ok()?;
            (u64::from(u16::from_be_bytes(bytes)), 4)
        }
        127 => (u64::from_be_bytes(head.get(2..10)?.try_into().ok()?), 10),
        short => (u64::from(short), 2),
    };
    let mask = if second & 0x80 == 0 {
        None
    } else {
        Some(head.get(mask_at..mask_at + 4)?.try_into().ok()?)
    };
    Some(Frame {
        is_control: opcode >= FIRST_CONTROL,
        is_last: first & 0x80 != 0,
        left,
        mask,
        at: 0,
    })
}

#[derive(Deserialize)]
struct Event {
    r#type: String,
    response: Option<Response>,
}

#[derive(Deserialize)]
struct Response {
    usage: Option<Told>,
}

#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    input_tokens: i64,
    #[serde(default)]
    output_tokens: i64,
    #[serde(default)]
    input_token_details: Details,
}

#[derive(Default, Deserialize)]
struct Details {
    #[serde(default)]
    cached_tokens: i64,
}

impl Event {
    fn usage(self) -> Option<Told> {
        (self.r#type == "response.done").then_some(self.response?.usage?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut bytes = vec![first];
        let bit = if mask.is_some() { 0x80 } else { 0 };
        match payload.len() {
            short @ 0..126 => bytes.push(bit | short as u8),
            middle @ 126..65_536 => {
                bytes.push(bit | 126);
                bytes.extend((middle as u16).to_be_bytes());
            }
            long => {
                bytes.push(bit | 127);
                bytes.extend((long as u64).to_be_bytes());
            }
        }
        let mask = mask.inspect(|mask| bytes.extend(mask)).unwrap_or_default();
        bytes.extend(payload.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]));
        bytes
    }

    fn done(input: i64, output: i64, cached: i64, padding: usize) -> Vec<u8> {
        format!(
            r#"{{"type":"response.done","x":"{}","response":{{"usage":{{"total_tokens":9,
               "input_tokens":{input},"output_tokens":{output},
               "input_token_details":{{"cached_tokens":{cached},"text_tokens":1}}}}}}}}"#,
            "p".repeat(padding)
        )
        .into_bytes()
    }

    fn read(bytes: &[u8], cut: usize) -> (i64, i64, i64, u32) {
        let mut meter = SocketMeter::default();
        for piece in bytes.chunks(cut) {
            meter.push(piece);
        }
        let usage = meter.usage();
        let Usage {
            input_tokens,
            output_tokens,
            cached_tokens,
            ..
        } = usage;
        (input_tokens, output_tokens, cached_tokens, meter.turns())
    }

    #[test]
    fn turns_add_up_however_the_socket_is_cut() {
        let mut bytes = frame(0x81, br#"{"type":"session.created"}"#, None);
        bytes.extend(frame(0x81, &done(10, 20, 4, 0), None));
        bytes.extend(frame(0x82, &[0xFF; 300], None));
        // One in three frames, with a ping between them.
        let long = done(1, 2, 1, 70_000);
        let (head, rest) = long.split_at(90);
        let (middle, tail) = rest.split_at(68_000);
        bytes.extend(frame(0x01, head, None));
        bytes.extend(frame(0x89, b"ping", None));
        bytes.extend(frame(0x00, middle, None));
        bytes.extend(frame(0x80, tail, None));
        bytes.extend(frame(0x81, &done(100, 200, 40, 0), Some([1, 2, 3, 4])));
        bytes.extend(frame(0x88, b"", None));
        for cut in [1, 2, 7, 100, 4_096, bytes.len()] {
            assert_eq!(read(&bytes, cut), (111, 222, 45, 3), "{cut}");
        }
    }

    #[test]
    fn what_is_too_long_or_changed_or_nonsense_is_passed_over() {
        let mut bytes = frame(0x81, &done(1, 1, 0, MOST), None);
        bytes.extend(frame(0xC1, &done(1, 1, 0, 0), None));
        bytes.extend(frame(0x82, &done(1, 1, 0, 0), None));
        bytes.extend(frame(
            0x81,
            br#"{"type":"response.done","response":7}"#,
            None,
        ));
        bytes.extend(frame(0x81, br#"{"type":"x","y":"response.done"}"#, None));
        bytes.extend(frame(0x81, &done(-5, i64::MAX, 9, 0), None));
        bytes.extend(frame(0x81, &done(7, 1, 9, 0), None));
        assert_eq!(read(&bytes, 1_000), (7, i64::MAX, 7, 2));
        // A length that no message has does no harm.
        let mut meter = SocketMeter::default();
        meter.push(&[0x81, 127, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
        meter.push(&[b'x'; 10_000]);
        assert_eq!(meter.message.len(), 0);
    }
}
