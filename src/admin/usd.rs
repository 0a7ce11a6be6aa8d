//! USD in JSON and nano-USD in the books.

use serde_json::Value;

use crate::quota::NANO_PER_USD;
use crate::quota::amount::MAX_AMOUNT;

/// Decimal text, as JSON writes numbers (`12`, `0.05`, `1e-3`), to nano-USD, exactly. `None` where it
/// is no such number, is finer than a nano-USD or beyond what the books take.
pub fn parse(text: &str) -> Option<i64> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, mantissa),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let lone_dot = digits.contains('.') && fraction.is_empty();
    if whole.is_empty() || lone_dot || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let mut digits = format!("{whole}{fraction}");
    // The power of ten of the last digit, counted from a nano.
    let mut scale = i64::from(exponent) + 9 - i64::try_from(fraction.len()).ok()?;
    while scale < 0 && digits.pop_if_zero() {
        scale += 1;
    }
    let number: i128 = match digits.trim_start_matches('0') {
        "" => return Some(0),
        digits => digits.parse().ok()?,
    };
    let factor = 10_i128.checked_pow(u32::try_from(scale).ok()?)?;
    let nano = number.checked_mul(factor)?;
    let nano = i64::try_from(nano).ok().filter(|n| *n <= MAX_AMOUNT)?;
    Some(if negative { -nano } else { nano })
}

trait PopIfZero {
    /// Takes a trailing zero off; false where the last digit is another one.
    fn pop_if_zero(&mut self) -> bool;
}

impl PopIfZero for String {
    fn pop_if_zero(&mut self) -> bool {
        self.ends_with('0') && self.pop().is_some()
    }
}

/// Nano-USD as a JSON number. Its shortest text is the exact decimal up to some four million USD;
/// beyond, it is the nearest number that JSON readers hold anyway.
pub fn show(nano: i64) -> Value {
    Value::from(nano as f64 / NANO_PER_USD as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_decimals_exactly() {
        let cases = [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("12", Some(12_000_000_000)),
            ("0.1", Some(100_000_000)),
            ("0.000000001", Some(1)),
            ("0.0000000010", Some(1)),
            ("1e-9", Some(1)),
            ("1.5E3", Some(1_500_000_000_000)),
            ("10e-10", Some(1)),
            ("-2.5", Some(-2_500_000_000)),
            ("0e99", Some(0)),
            ("0.0000000001", None),
            ("1e99", None),
            ("1e-99", None),
            ("9007199.254740992", Some(MAX_AMOUNT)),
            ("9007199.254740993", None),
            ("1.", None),
            (".5", None),
            ("", None),
            ("-", None),
            ("1e", None),
            ("0x1", None),
            ("NaN", None),
            ("1,5", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(nano in 0..=4_000_000 * NANO_PER_USD) {
            prop_assert_eq!(parse(&show(nano).to_string()), Some(nano));
        }

        #[test]
        fn no_text_panics(text in "[-0-9.eE]{0,40}") {
            parse(&text);
        }
    }
}
