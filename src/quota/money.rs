//! Money as text: USD with decimals to integer nano-USD and back, exactly, never through a float.

use super::amount::{MAX_AMOUNT, NANO_PER_USD};

/// Decimals between USD and nano-USD.
pub const NANO_PLACES: i32 = 9;

/// USD such as `12`, `0.05` or `1e-3` in nano-USD. `None` where it is no number, is finer than a
/// nano-USD, or beyond what the books take.
pub fn nano_of(usd: &str) -> Option<i64> {
    let nano = Decimal::parse(usd)?.scaled(NANO_PLACES)?;
    (-MAX_AMOUNT..=MAX_AMOUNT).contains(&nano).then_some(nano)
}

/// Nano-USD as USD, without idle zeros: `1.5`.
pub fn dollars(nano: i64) -> String {
    let sign = if nano < 0 { "-" } else { "" };
    let (nano, unit) = (nano.unsigned_abs(), NANO_PER_USD.unsigned_abs());
    let text = format!("{sign}{}.{:09}", nano / unit, nano % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A decimal number: `digits × 10^exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    digits: i128,
    exponent: i32,
}

impl Decimal {
    /// Reads `2.50`, `-1`, `3e-06`, `.5`. `None` for anything else, and beyond 30 digits that count.
    pub fn parse(text: &str) -> Option<Self> {
        const MAX_DIGITS: usize = 30;
        const MAX_EXPONENT: i32 = 60;
        let (number, exponent) = match text.split_once(['e', 'E']) {
            Some((number, exponent)) => (number, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (sign, number) = match number.strip_prefix('-') {
            Some(number) => (-1, number),
            None => (1, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if (whole.len() + fraction.len() == 0) || !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        let fraction = fraction.trim_end_matches('0');
        let all = format!("{whole}{fraction}");
        let all = all.trim_start_matches('0');
        if all.is_empty() {
            return Some(Decimal {
                digits: 0,
                exponent: 0,
            });
        }
        if all.len() > MAX_DIGITS || exponent.abs() > MAX_EXPONENT {
            return None;
        }
        Some(Decimal {
            digits: sign * all.parse::<i128>().ok()?,
            exponent: exponent - i32::try_from(fraction.len()).ok()?,
        })
    }

    /// The number × 10^`places` if that is whole and within an `i64`.
    pub fn scaled(self, places: i32) -> Option<i64> {
        let (whole, rest, _) = self.split(places)?;
        i64::try_from(whole).ok().filter(|_| rest == 0)
    }

    /// As `scaled`, rounded to the nearest whole number, halves away from zero.
    pub fn rounded(self, places: i32) -> Option<i64> {
        let (whole, rest, unit) = self.split(places)?;
        let carry = if rest.abs() * 2 >= unit {
            rest.signum()
        } else {
            0
        };
        i64::try_from(whole + carry).ok()
    }

    /// The number × 10^`places` as a whole part and a rest in parts of `unit`.
    fn split(self, places: i32) -> Option<(i128, i128, i128)> {
        // No number here has more digits than this: a unit beyond it leaves nothing but a rest.
        const MAX_POWER: u32 = 31;
        let exponent = self.exponent + places;
        let power = exponent.unsigned_abs();
        if exponent >= 0 {
            let unit = 10_i128.checked_pow(power)?;
            return Some((self.digits.checked_mul(unit)?, 0, 1));
        }
        let unit = 10_i128.checked_pow(power.min(MAX_POWER))?;
        Some((self.digits / unit, self.digits % unit, unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(text: &str, places: i32) -> Option<i64> {
        Decimal::parse(text)?.scaled(places)
    }

    #[test]
    fn is_exact_or_nothing() {
        assert_eq!(scaled("2.50", 9), Some(2_500_000_000));
        assert_eq!(scaled("0.1", 9), Some(100_000_000));
        assert_eq!(scaled("3e-06", 15), Some(3_000_000_000));
        assert_eq!(scaled("1.5E-7", 15), Some(150_000_000));
        assert_eq!(scaled(".5", 1), Some(5));
        assert_eq!(scaled("-1", 9), Some(-1_000_000_000));
        assert_eq!(scaled("0.0000000001", 9), None, "finer than a nano-USD");
        assert_eq!(scaled("1e-60", 9), None);
        assert_eq!(scaled("0e60", 9), Some(0));
        assert_eq!(scaled("1e40", 9), None, "beyond an i64");
        for wrong in [
            "", "+", "0x1", "--1", ".", "-", "1,5", "1.2.3", "abc", "1e", "NaN", "inf", "$2",
            "1e999",
        ] {
            assert_eq!(Decimal::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn rounds_to_the_nearest() {
        let rounded = |text: &str| Decimal::parse(text).and_then(|d| d.rounded(0));
        assert_eq!(rounded("1.4"), Some(1));
        assert_eq!(rounded("1.5"), Some(2));
        assert_eq!(rounded("-1.5"), Some(-2));
        assert_eq!(rounded("1e-60"), Some(0));
        let noisy = Decimal::parse("3.0000000000000004e-07").unwrap();
        assert_eq!(noisy.scaled(15), None);
        assert_eq!(noisy.rounded(15), Some(300_000_000));
    }

    #[test]
    fn usd_is_exact_and_within_the_books() {
        let cases = [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("12", Some(12_000_000_000)),
            ("1e-9", Some(1)),
            ("10e-10", Some(1)),
            ("0.0000000010", Some(1)),
            ("0e99", Some(0)),
            ("1e99", None),
            ("1e-99", None),
            ("9007199.254740992", Some(MAX_AMOUNT)),
            ("9007199.254740993", None),
            ("-9007199.254740993", None),
        ];
        for (text, expected) in cases {
            assert_eq!(nano_of(text), expected, "{text}");
        }
    }

    #[test]
    fn shows_what_it_read() {
        for text in ["2.5", "0.000000001", "15", "0", "-0.25"] {
            assert_eq!(dollars(nano_of(text).unwrap()), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_reads_back(nano in -MAX_AMOUNT..=MAX_AMOUNT) {
            assert_eq!(nano_of(&dollars(nano)), Some(nano));
        }

        #[test]
        fn no_text_panics(text in "[-+0-9.eE]{0,60}") {
            nano_of(&text);
            Decimal::parse(&text).and_then(|d| d.rounded(15));
        }
    }
}
