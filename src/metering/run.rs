//! How far a JSON string runs before something in it needs a look.

/// From this length of plain text on, vectors find the end sooner than words do.
const LONG_RUN_BYTES: usize = 64;

/// How many bytes a string goes on with before a quote, a backslash or a control character.
///
/// Text full of escapes has short runs, which eight bytes at a time pass quickest; prose and base64
/// have long ones.
pub(super) fn plain_run(rest: &[u8]) -> usize {
    let mut at = 0;
    let (words, _) = rest.as_chunks::<8>();
    for word in words {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return at + (special.trailing_zeros() / 8) as usize;
        }
        at += 8;
        if at == LONG_RUN_BYTES {
            return at + long_run(rest.get(at..).unwrap_or_default());
        }
    }
    let tail = rest.get(at..).unwrap_or_default();
    at + tail.iter().take_while(|byte| !is_special(byte)).count()
}

fn long_run(rest: &[u8]) -> usize {
    let plain = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
    let run = rest.get(..plain).unwrap_or_default();
    // No early exit, so that the check runs over whole vectors.
    if run.iter().fold(false, |bad, &byte| bad | (byte < 0x20)) {
        return run.iter().take_while(|byte| !is_special(byte)).count();
    }
    plain
}

fn is_special(byte: &u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..0x20)
}

/// The high bit of each byte that is special; exact up to and with the lowest one, which is all
/// that a little-endian search for the first needs.
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = zero(word ^ (ONES * u64::from(b'"')));
    let backslash = zero(word ^ (ONES * u64::from(b'\\')));
    (control | quote | backslash) & HIGHS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_at_the_first_special_byte_wherever_it_stands() {
        for length in 0..200 {
            for special in [b'"', b'\\', 0, 0x1f, b'\n'] {
                for filler in [b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xa2, 0xdc, 0xff] {
                    let mut text = vec![filler; length];
                    assert_eq!(plain_run(&text), length);
                    text.push(special);
                    text.extend_from_slice(&[b'"', filler, 0]);
                    assert_eq!(plain_run(&text), length, "{special} after {filler}");
                }
            }
        }
    }
}
