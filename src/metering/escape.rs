//! JSON string escapes (RFC 8259 section 7), decoded one byte at a time so that a cut anywhere is
//! no special case. A lone half of a surrogate pair decodes to U+FFFD.

/// What a byte of an escape leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The escape goes on.
    More,
    /// The escape ended.
    Done,
    /// Not an escape that JSON knows.
    Bad,
}

/// The state inside one escape, and between the two halves of a surrogate pair.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Escape {
    /// Hex digits still to come; 0 before the byte after the backslash.
    digits: u8,
    unit: u32,
    high: Option<u32>,
}

impl Escape {
    /// Takes a byte that follows the backslash; what it decodes to goes to `emit`.
    pub(super) fn step(&mut self, byte: u8, mut emit: impl FnMut(char)) -> Step {
        if self.digits > 0 {
            let Some(digit) = char::from(byte).to_digit(16) else {
                return Step::Bad;
            };
            self.unit = self.unit * 16 + digit;
            self.digits -= 1;
            if self.digits > 0 {
                return Step::More;
            }
            self.unit_done(emit);
            return Step::Done;
        }
        let plain = match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.digits = 4;
                self.unit = 0;
                return Step::More;
            }
            _ => return Step::Bad,
        };
        self.plain(&mut emit);
        emit(plain);
        Step::Done
    }

    fn unit_done(&mut self, mut emit: impl FnMut(char)) {
        if let (Some(high), low @ 0xDC00..=0xDFFF) = (self.high, self.unit) {
            self.high = None;
            let code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
            emit(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            return;
        }
        self.plain(&mut emit);
        match self.unit {
            high @ 0xD800..=0xDBFF => self.high = Some(high),
            unit => emit(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)),
        }
    }

    /// Something else than a second half follows, or the string ends.
    pub(super) fn plain(&mut self, mut emit: impl FnMut(char)) {
        if self.high.take().is_some() {
            emit(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// The text of a string's raw bytes, which hold valid escapes.
pub(super) fn unescaped(raw: &[u8]) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut escape = Escape::default();
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        if at > 0 {
            escape.plain(|c| out.push(c));
            out.push_str(&String::from_utf8_lossy(&rest[..at]));
        }
        rest = &rest[at + 1..];
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            if escape.step(byte, |c| out.push(c)) != Step::More {
                break;
            }
        }
    }
    escape.plain(|c| out.push(c));
    out.push_str(&String::from_utf8_lossy(rest));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_decode_as_json_says() {
        assert_eq!(unescaped(br"mo\u0064el"), "model");
        assert_eq!(unescaped(br#"a\n\"b\\c\/"#), "a\n\"b\\c/");
        assert_eq!(unescaped(br"\ud83d\ude00!"), "😀!");
        assert_eq!(unescaped(br"\ud83dx"), "\u{fffd}x");
        assert_eq!(unescaped(br"\ud83d\n"), "\u{fffd}\n");
        assert_eq!(unescaped(br"\ud83d\ud83d\ude00"), "\u{fffd}😀");
        assert_eq!(unescaped(br"\ude00\ud83d"), "\u{fffd}\u{fffd}");
        assert_eq!(unescaped("ключ".as_bytes()), "ключ");
    }
}
