//! Decimal text to integers, exactly: money never passes through a float.

/// A decimal number: `digits × 10^exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    digits: i128,
    exponent: i32,
}

impl Decimal {
    /// Reads `2.50`, `-1`, `3e-06`, `.5`. `None` for anything else, and beyond 30 digits.
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
        let all = format!("{whole}{fraction}");
        let is_number = !all.is_empty() && all.bytes().all(|b| b.is_ascii_digit());
        if !is_number || all.len() > MAX_DIGITS || exponent.abs() > MAX_EXPONENT {
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
            if self.digits == 0 {
                return Some((0, 0, 1));
            }
            let unit = 10_i128.checked_pow(power)?;
            return Some((self.digits.checked_mul(unit)?, 0, 1));
        }
        let unit = 10_i128.checked_pow(power.min(MAX_POWER))?;
        Some((self.digits / unit, self.digits % unit, unit))
    }
}

/// An integer of 10^-`places` as decimal text without idle zeros: `(2_500_000_000, 9)` is `2.5`.
pub fn shown(number: i64, places: usize) -> String {
    let sign = if number < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", number.unsigned_abs(), width = places + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{fraction}")
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
            "", ".", "-", "1,5", "1.2.3", "abc", "1e", "NaN", "inf", "$2", "1e999",
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
    fn shows_what_it_read() {
        for text in ["2.5", "0.000000001", "15", "0", "-0.25"] {
            let number = scaled(text, 9).unwrap();
            assert_eq!(shown(number, 9), text);
        }
    }
}
