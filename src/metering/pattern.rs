//! The shape of a stream's small events, learnt from one and recognised in the next.
//!
//! Nearly all events of a stream are equal but for the piece of text they bring (and a sequence
//! number or a padding that nobody reads). An event that equals the last one everywhere else says
//! the same in every other respect, so only its text needs to be taken: a few comparisons instead of
//! a scan. Anything else is no match and is scanned.

use std::ops::Range;

/// Members that differ from event to event and mean nothing: a number before the text, a string
/// behind it.
const COUNTER: &[u8] = b"\"sequence_number\":";
const PADDING: &[u8] = b"\"obfuscation\":\"";

/// Longest event that is learnt, in bytes.
const MOST_BYTES: usize = 2_048;

/// What stands around the text of the last small event.
#[derive(Debug, Default)]
pub(super) struct Pattern {
    learnt: bool,
    /// From the start, with the counter's name where there is one.
    head: Vec<u8>,
    /// From behind the counter's digits up to the text's opening quote.
    after_counter: Option<Vec<u8>>,
    /// From the text's closing quote, with the padding's opening quote where there is one.
    tail: Vec<u8>,
    /// From the padding's closing quote to the end.
    after_padding: Option<Vec<u8>>,
}

impl Pattern {
    /// Learns an event that brought exactly the text at `text`, unescaped, and nothing else.
    pub(super) fn learn(&mut self, event: &[u8], text: &Range<usize>) {
        let (head, tail) = match (event.get(..text.start), event.get(text.end..)) {
            (Some(head), Some(tail)) if event.len() <= MOST_BYTES => (head, tail),
            _ => return,
        };
        let (head, after_counter) = split_digits(head, COUNTER);
        let (tail, after_padding) = split_string(tail, PADDING);
        self.learnt = true;
        refill(&mut self.head, head);
        refill(&mut self.tail, tail);
        refill_option(&mut self.after_counter, after_counter);
        refill_option(&mut self.after_padding, after_padding);
    }

    /// The text of an event that equals the learnt one everywhere else.
    pub(super) fn text<'e>(&self, event: &'e [u8]) -> Option<&'e [u8]> {
        if !self.learnt {
            return None;
        }
        let mut rest = event.strip_prefix(self.head.as_slice())?;
        if let Some(after) = &self.after_counter {
            rest = rest.get(digits(rest)..)?.strip_prefix(after.as_slice())?;
        }
        let (text, tail) = rest.split_at(plain_string(rest)?);
        rest = tail.strip_prefix(self.tail.as_slice())?;
        if let Some(after) = &self.after_padding {
            rest = rest
                .get(plain_string(rest)?..)?
                .strip_prefix(after.as_slice())?;
        }
        rest.is_empty().then_some(text)
    }
}

/// Length up to a closing quote, where no escape comes before it.
fn plain_string(rest: &[u8]) -> Option<usize> {
    let at = memchr::memchr2(b'"', b'\\', rest)?;
    (rest.get(at) == Some(&b'"')).then_some(at)
}

/// At least one, so that a number stays a number.
fn digits(rest: &[u8]) -> usize {
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 { usize::MAX } else { count }
}

fn split_digits<'e>(part: &'e [u8], name: &[u8]) -> (&'e [u8], Option<&'e [u8]>) {
    let split = memchr::memmem::find(part, name).and_then(|at| {
        let (head, rest) = part.split_at(at + name.len());
        Some((head, Some(rest.get(digits(rest)..)?)))
    });
    split.unwrap_or((part, None))
}

fn split_string<'e>(part: &'e [u8], name: &[u8]) -> (&'e [u8], Option<&'e [u8]>) {
    let split = memchr::memmem::find(part, name).and_then(|at| {
        let (head, rest) = part.split_at(at + name.len());
        Some((head, Some(rest.get(plain_string(rest)?..)?)))
    });
    split.unwrap_or((part, None))
}

fn refill(to: &mut Vec<u8>, from: &[u8]) {
    to.clear();
    to.extend_from_slice(from);
}

fn refill_option(to: &mut Option<Vec<u8>>, from: Option<&[u8]>) {
    match from {
        Some(from) => refill(to.get_or_insert_default(), from),
        None => *to = None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learnt(event: &str, text: &str) -> Pattern {
        let at = event.find(text).unwrap();
        let mut pattern = Pattern::default();
        pattern.learn(event.as_bytes(), &(at..at + text.len()));
        pattern
    }

    #[test]
    fn only_the_text_and_what_means_nothing_may_differ() {
        let event = r#"{"sequence_number":9,"delta":"one","done":null,"obfuscation":"ab"}"#;
        let pattern = learnt(event, "one");
        let text = |event: &'static str| pattern.text(event.as_bytes());
        assert_eq!(
            text(r#"{"sequence_number":10,"delta":"two two","done":null,"obfuscation":""}"#),
            Some(b"two two".as_slice())
        );
        for other in [
            r#"{"sequence_number":10,"delta":"two","done":true,"obfuscation":""}"#,
            r#"{"sequence_number":-1,"delta":"two","done":null,"obfuscation":""}"#,
            r#"{"sequence_number":,"delta":"two","done":null,"obfuscation":""}"#,
            r#"{"sequence_number":10,"delta":"t\"o","done":null,"obfuscation":""}"#,
            r#"{"sequence_number":10,"delta":"two","done":null,"obfuscation":"","usage":{}}"#,
            r#"{"sequence_number":10,"delta":"two","done":null,"obfuscation":"\","x":""}"#,
            r#"{"sequence_number":10,"delta":"two","#,
            r#"{"sequence_number":10,"delta":"two","done":null,"obfuscation":""} {"usage":1}"#,
        ] {
            assert_eq!(text(other), None, "{other}");
        }
        assert_eq!(Pattern::default().text(b""), None);
    }
}
