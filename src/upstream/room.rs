//! What a provider says of its own rate limits: how much room is left, and until when that holds.
//!
//! OpenAI and what speaks like it: `x-ratelimit-remaining-{requests,tokens}` and
//! `x-ratelimit-reset-{requests,tokens}` (durations such as `6m0s`, `120ms`); Anthropic:
//! `anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{remaining,reset}` (RFC 3339).

use std::sync::atomic::{AtomicI64, Ordering};

use crate::time::UnixMs;

/// How long a figure is believed that came without its end.
const UNTOLD_MS: i64 = 10_000;
/// A figure is not believed for longer, whatever is said.
const LONGEST_MS: i64 = 300_000;

/// What is left of one limit, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub amount: i64,
    pub until: UnixMs,
}

/// What an answer's head said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    pub requests: Option<Left>,
    pub tokens: Option<Left>,
}

impl Room {
    /// Reads it from the headers of an answer; what makes no sense is passed over.
    pub fn read<'a>(header: impl Fn(&str) -> Option<&'a str>, now: UnixMs) -> Room {
        let left = |remaining: &str, reset: &str| {
            let amount = header(remaining)?.trim().parse::<i64>().ok()?.max(0);
            let after = header(reset).and_then(|text| after_ms(text.trim(), now));
            let after = after.unwrap_or(UNTOLD_MS).clamp(0, LONGEST_MS);
            Some(Left {
                amount,
                until: now.plus_ms(after),
            })
        };
        let anthropic = |what: &str| {
            left(
                &format!("anthropic-ratelimit-{what}-remaining"),
                &format!("anthropic-ratelimit-{what}-reset"),
            )
        };
        let openai = |what: &str| {
            left(
                &format!("x-ratelimit-remaining-{what}"),
                &format!("x-ratelimit-reset-{what}"),
            )
        };
        // The tightest of several limits on tokens rules.
        let tokens = ["tokens", "input-tokens"].into_iter().filter_map(anthropic);
        let tokens = tokens
            .chain(openai("tokens"))
            .min_by_key(|left| left.amount);
        Room {
            requests: anthropic("requests").or_else(|| openai("requests")),
            tokens,
        }
    }

    pub fn says_nothing(&self) -> bool {
        *self == Room::default()
    }
}

/// Milliseconds from `now`: a duration in Go's way, a number of seconds, or an instant.
fn after_ms(text: &str, now: UnixMs) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Some((seconds * 1_000.0) as i64);
    }
    if let Some(at) = UnixMs::parse_rfc3339(text) {
        return Some(at.0.saturating_sub(now.0));
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest.get(..digits)?.parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |at| digits + at);
        let unit_ms = match rest.get(digits..unit_end)? {
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            "s" => 1_000.0,
            "ms" => 1.0,
            "us" | "µs" | "ns" => 0.0,
            _ => return None,
        };
        total += amount * unit_ms;
        rest = rest.get(unit_end..)?;
    }
    Some(total as i64)
}

/// What is left as far as is known, counted on by our own requests.
#[derive(Debug, Default)]
pub struct RoomLeft {
    requests: AtomicI64,
    requests_until_ms: AtomicI64,
    tokens: AtomicI64,
    tokens_until_ms: AtomicI64,
}

impl RoomLeft {
    pub fn set(&self, room: &Room) {
        let pairs = [
            (room.requests, &self.requests, &self.requests_until_ms),
            (room.tokens, &self.tokens, &self.tokens_until_ms),
        ];
        for (left, amount, until) in pairs {
            if let Some(left) = left {
                amount.store(left.amount, Ordering::Relaxed);
                until.store(left.until.0, Ordering::Relaxed);
            }
        }
    }

    /// A request goes out: the next answer tells anew.
    pub fn take_request(&self) {
        if self.requests_until_ms.load(Ordering::Relaxed) != 0 {
            self.requests.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether a request of so many tokens would run into the provider's limit now.
    pub fn is_tight(&self, tokens: i64, now: UnixMs) -> bool {
        let holds = |until: &AtomicI64| until.load(Ordering::Relaxed) > now.0;
        let left = |amount: &AtomicI64| amount.load(Ordering::Relaxed);
        (holds(&self.requests_until_ms) && left(&self.requests) < 1)
            || (holds(&self.tokens_until_ms) && left(&self.tokens) < tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_795_229_099_000);

    fn read(headers: &[(&str, &'static str)]) -> Room {
        let find = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        Room::read(find, NOW)
    }

    #[test]
    fn durations_in_every_form() {
        for (text, ms) in [
            ("6m0s", 360_000),
            ("120ms", 120),
            ("1h2m3.5s", 3_723_500),
            ("0s", 0),
            ("17", 17_000),
            ("2.5", 2_500),
        ] {
            assert_eq!(after_ms(text, NOW), Some(ms), "{text}");
        }
        for text in ["", "soon", "5x", "1m2", "-", "s"] {
            let read = after_ms(text, NOW);
            assert!(read.is_none() || text.is_empty(), "{text}: {read:?}");
        }
    }

    #[test]
    fn both_families_of_headers() {
        let room = read(&[
            ("x-ratelimit-remaining-requests", "59"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-remaining-tokens", "149984"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ]);
        let requests = Left {
            amount: 59,
            until: NOW.plus_ms(1_000),
        };
        assert_eq!(room.requests, Some(requests));
        assert_eq!(room.tokens.map(|left| left.amount), Some(149_984));
        assert_eq!(
            room.tokens.map(|left| left.until),
            Some(NOW.plus_ms(LONGEST_MS))
        );
        let room = read(&[
            ("anthropic-ratelimit-tokens-remaining", "9000"),
            ("anthropic-ratelimit-input-tokens-remaining", "10"),
            ("anthropic-ratelimit-input-tokens-reset", "not a time"),
        ]);
        let tokens = Left {
            amount: 10,
            until: NOW.plus_ms(UNTOLD_MS),
        };
        assert_eq!(room.tokens, Some(tokens));
        assert!(read(&[("x-ratelimit-remaining-requests", "many")]).says_nothing());
    }

    #[test]
    fn room_is_counted_on_and_forgotten_in_time() {
        let left = RoomLeft::default();
        assert!(!left.is_tight(i64::MAX, NOW));
        left.set(&read(&[
            ("x-ratelimit-remaining-requests", "1"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-remaining-tokens", "100"),
            ("x-ratelimit-reset-tokens", "2s"),
        ]));
        assert!(!left.is_tight(100, NOW));
        assert!(left.is_tight(101, NOW));
        left.take_request();
        assert!(left.is_tight(1, NOW));
        assert!(!left.is_tight(1, NOW.plus_ms(1_000)));
        assert!(left.is_tight(101, NOW.plus_ms(1_999)));
        assert!(!left.is_tight(101, NOW.plus_ms(2_000)));
    }
}
