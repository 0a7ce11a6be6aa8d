//! A strict cursor over one JSON text held whole (RFC 8259): no tree, no copies, byte spans for all.
//!
//! The caller descends with `object`, `array`, `string`, `number`, `literal` or passes by with
//! `skip`; every byte is checked exactly once, whichever way it goes. Long strings run at the speed
//! of `memchr`. The text must be valid UTF-8 (checked by the caller, once for the whole).

use std::borrow::Cow;
use std::ops::Range;

use super::escape;
use super::run::plain_run;

/// Containers inside each other; deeper is refused, as the JSON readers of upstreams do.
pub(super) const MAX_DEPTH: u32 = 128;

/// Where and why a text is no JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    /// Byte offset.
    pub(super) at: usize,
    pub(super) what: &'static str,
}

/// What the next value is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    String,
    Number,
    Bool,
    Null,
}

/// A string as it stands in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// Between the quotes.
    pub(super) span: Range<usize>,
    /// Bytes that escapes take beyond what they decode to.
    pub(super) surplus: usize,
}

impl Text {
    /// Length once decoded, in bytes.
    pub(super) fn decoded_len(&self) -> usize {
        self.span.len() - self.surplus
    }

    /// The quotes included.
    pub(super) fn quoted(&self) -> Range<usize> {
        self.span.start - 1..self.span.end + 1
    }
}

/// The position in a text.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Cursor {
            bytes,
            at: 0,
            depth: 0,
        }
    }

    /// A second cursor at the same place, to look ahead.
    pub(super) fn fork(&self) -> Cursor<'a> {
        Cursor { ..*self }
    }

    /// Byte offset of the next unread byte.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn raw(&self, span: &Range<usize>) -> &'a [u8] {
        self.bytes.get(span.clone()).unwrap_or_default()
    }

    /// The decoded text of a string; borrowed where nothing is escaped.
    pub(super) fn text(&self, text: &Text) -> Cow<'a, str> {
        let raw = self.raw(&text.span);
        if text.surplus > 0 {
            return Cow::Owned(escape::unescaped(raw));
        }
        String::from_utf8_lossy(raw)
    }

    fn fault(&self, what: &'static str) -> Malformed {
        Malformed { at: self.at, what }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// What comes next, white space passed.
    pub(super) fn kind(&mut self) -> Result<Kind, Malformed> {
        self.space();
        match self.peek() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            Some(_) => Err(self.fault("a value was expected")),
            None => Err(self.fault("the text ends too early")),
        }
    }

    /// Nothing but white space is left.
    pub(super) fn end(&mut self) -> Result<(), Malformed> {
        self.space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.fault("more text after the value")),
        }
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Malformed> {
        self.space();
        if self.peek() != Some(byte) {
            return Err(self.fault(what));
        }
        self.at += 1;
        Ok(())
    }

    fn deeper(&mut self) -> Result<(), Malformed> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.fault("nested deeper than 128"));
        }
        Ok(())
    }

    /// Reads an object; `member` gets each name and must read the value.
    pub(super) fn object<E: From<Malformed>>(
        &mut self,
        mut member: impl FnMut(&mut Self, Text) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(b'{', "an object was expected")?;
        self.deeper()?;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            self.depth -= 1;
            return Ok(());
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.fault("a member name was expected").into());
            }
            let name = self.string()?;
            self.expect(b':', "a colon was expected")?;
            member(self, name)?;
            if !self.another(b'}')? {
                return Ok(());
            }
        }
    }

    /// Reads an array; `element` must read each value.
    pub(super) fn array<E: From<Malformed>>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(b'[', "an array was expected")?;
        self.deeper()?;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            self.depth -= 1;
            return Ok(());
        }
        loop {
            element(self)?;
            if !self.another(b']')? {
                return Ok(());
            }
        }
    }

    /// After a value in a container: true past a comma, false past the close.
    fn another(&mut self, close: u8) -> Result<bool, Malformed> {
        self.space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                self.depth -= 1;
                Ok(false)
            }
            Some(_) => Err(self.fault("a comma or the container's end was expected")),
            None => Err(self.fault("the text ends too early")),
        }
    }

    /// Reads a string; white space before it is passed.
    pub(super) fn string(&mut self) -> Result<Text, Malformed> {
        self.expect(b'"', "a string was expected")?;
        let start = self.at;
        let mut surplus = 0;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => surplus += self.escape()?,
                Some(0..0x20) => return Err(self.fault("a control character stands in a string")),
                Some(_) => self.at += plain_run(self.bytes.get(self.at..).unwrap_or_default()),
                None => return Err(self.fault("a string does not end")),
            }
        }
        let span = start..self.at;
        self.at += 1;
        Ok(Text { span, surplus })
    }

    /// Passes one escape; how many bytes it takes beyond its decoded length.
    fn escape(&mut self) -> Result<usize, Malformed> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(1)
            }
            Some(b'u') => {
                let digits = self.bytes.get(self.at + 1..self.at + 5);
                let unit = digits.and_then(hex_unit);
                let Some(unit) = unit else {
                    return Err(self.fault("an escape is malformed"));
                };
                self.at += 5;
                Ok(match unit {
                    0..0x80 => 5,
                    // Each half of a surrogate pair stands for two of its four bytes.
                    0x80..0x800 | 0xD800..=0xDFFF => 4,
                    _ => 3,
                })
            }
            _ => Err(self.fault("an escape is malformed")),
        }
    }

    /// Reads a number; its span.
    pub(super) fn number(&mut self) -> Result<Range<usize>, Malformed> {
        self.space();
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(start..self.at)
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.fault("a number is malformed"));
        }
        Ok(())
    }

    /// Reads `true`, `false` or `null`.
    pub(super) fn literal(&mut self) -> Result<Option<bool>, Malformed> {
        self.space();
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let words: [(&[u8], Option<bool>); 3] = [
            (b"true", Some(true)),
            (b"false", Some(false)),
            (b"null", None),
        ];
        for (word, value) in words {
            if rest.starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.fault("a value was expected"))
    }

    /// Passes any value, checking it; its span.
    pub(super) fn skip(&mut self) -> Result<Range<usize>, Malformed> {
        let kind = self.kind()?;
        let start = self.at;
        match kind {
            Kind::Object => self.object(|cursor, _| cursor.skip().map(drop))?,
            Kind::Array => self.array(|cursor| cursor.skip().map(drop))?,
            Kind::String => {
                self.string()?;
            }
            Kind::Number => {
                self.number()?;
            }
            Kind::Bool | Kind::Null => {
                self.literal()?;
            }
        }
        Ok(start..self.at)
    }
}

fn hex_unit(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |unit, &digit| {
        Some(unit * 16 + char::from(digit).to_digit(16)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(text: &str) -> bool {
        let mut cursor = Cursor::new(text.as_bytes());
        cursor.skip().and_then(|_| cursor.end()).is_ok()
    }

    #[test]
    fn it_accepts_what_json_is_and_nothing_else() {
        for good in [
            "{}",
            " [1, -0.5e+3, \"a\\u00e9\\n\", true,false , null]\n",
            "{\"a\":{\"b\":[[]]}}",
        ] {
            assert!(accepts(good), "{good}");
        }
        for bad in [
            "",
            "{",
            "{a:1}",
            "[1,]",
            "{\"a\":1,}",
            "01",
            "1.",
            "-",
            "\"\u{1}\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "tru",
            "1 2",
            "[1}",
            "{\"a\" 1}",
            "\"abc",
            "\u{feff}{}",
        ] {
            assert!(!accepts(bad), "{bad}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(accepts(&nested(128)));
        assert!(!accepts(&nested(129)));
        assert!(!accepts(&"[".repeat(1_000_000)));
    }

    #[test]
    fn decoded_length_is_that_of_the_decoded_text() {
        let raw = "\"a\\u00e9\\ud83d\\ude00\\u4e2d\\n\\u0041ß\"";
        let mut cursor = Cursor::new(raw.as_bytes());
        let text = cursor.string().unwrap();
        assert_eq!(text.decoded_len(), cursor.text(&text).len());
    }
}
