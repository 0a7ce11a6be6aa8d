//! How long a provider asks to be left alone.
//!
//! `Retry-After` as seconds or a date (RFC 9110 section 10.2.3), and `retry-after-ms` of OpenAI and
//! Azure, which is the finer one and rules.

use std::time::Duration;

use crate::time::UnixMs;

/// A peer rests for a minute at the most, whatever it asks for. A daily limit names hours: a single
/// answer would take its peer out for as long, and nothing would show that it serves again earlier.
/// Asked once a minute it costs one attempt, and says again how long.
const LONGEST_MS: i64 = 60_000;

/// The rest that the head of an answer asks for; `None` where it asks for none that can be read. A date
/// is taken by the provider's own clock where the answer tells it.
pub fn asked<'a>(header: impl Fn(&str) -> Option<&'a str>, now: UnixMs) -> Option<Duration> {
    let fine = header("retry-after-ms").and_then(|text| scaled(text, 1.0));
    let asked_ms = fine.or_else(|| {
        let text = header("retry-after")?;
        scaled(text, 1_000.0).or_else(|| {
            let until = UnixMs::parse_http_date(text)?;
            let theirs = header("date").and_then(UnixMs::parse_http_date);
            Some(until.0.saturating_sub(theirs.unwrap_or(now).0))
        })
    })?;
    u64::try_from(asked_ms.clamp(0, LONGEST_MS))
        .ok()
        .map(Duration::from_millis)
}

fn scaled(text: &str, unit_ms: f64) -> Option<i64> {
    let number: f64 = text.trim().parse().ok()?;
    // A float too great for an integer becomes the greatest one; what is no number, nothing.
    number.is_finite().then_some((number * unit_ms) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(headers: &[(&str, &'static str)]) -> Option<i64> {
        let find = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        let now = UnixMs::parse_rfc3339("2026-11-21T10:00:00Z").unwrap();
        let asked = super::asked(find, now)?;
        i64::try_from(asked.as_millis()).ok()
    }

    #[test]
    fn seconds_milliseconds_and_dates() {
        assert_eq!(asked(&[("retry-after", "7")]), Some(7_000));
        assert_eq!(asked(&[("retry-after", "0.5")]), Some(500));
        assert_eq!(asked(&[("retry-after", "86400")]), Some(LONGEST_MS));
        assert_eq!(asked(&[("retry-after", "-3")]), Some(0));
        let both = [("retry-after", "7"), ("retry-after-ms", "250")];
        assert_eq!(asked(&both), Some(250));
        let date = ("retry-after", "Sat, 21 Nov 2026 10:00:20 GMT");
        assert_eq!(asked(&[date]), Some(20_000));
        // Its clock is a quarter of an hour behind.
        let theirs = ("date", "Sat, 21 Nov 2026 10:00:15 GMT");
        assert_eq!(asked(&[date, theirs]), Some(5_000));
        let past = ("retry-after", "Sat, 21 Nov 2026 09:00:00 GMT");
        assert_eq!(asked(&[past]), Some(0));
    }

    #[test]
    fn what_cannot_be_read_asks_for_nothing() {
        for text in ["", "soon", "nan", "inf", "Sat, 21 Nov"] {
            assert_eq!(asked(&[("retry-after", text)]), None, "{text}");
        }
        assert_eq!(asked(&[]), None);
    }
}
