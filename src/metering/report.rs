//! What a provider's usage object says, field by field, and its one meaning.
//!
//! Providers disagree on what lies inside what; each disagreement is resolved here, once:
//!
//! - Anthropic's `input_tokens` leave out what was read from and written to the cache.
//! - Gemini's `candidatesTokenCount` leaves out thoughts, its `promptTokenCount` what tools brought.
//! - xAI's `completion_tokens` leave out reasoning, which only `total_tokens` holds.
//! - DeepSeek splits `prompt_tokens` into cache hits and misses.

use super::estimate::ABSURD_TOKENS;
use super::usage::{Dialect, Usage};
use crate::quota::amount::{MAX_AMOUNT, NANO_PER_USD};

/// Tokens that a second of audio counts as where a provider bills by duration (OpenAI's audio
/// models take one token for each tenth of a second).
const AUDIO_TOKENS_PER_SECOND: i64 = 10;

/// The fields of a usage object, whatever they are called. `None`: missing, or no count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    input: Option<i64>,
    output: Option<i64>,
    total: Option<i64>,
    cached: Option<i64>,
    cache_miss: Option<i64>,
    cache_write: Option<i64>,
    cache_write_5m: Option<i64>,
    cache_write_1h: Option<i64>,
    reasoning: Option<i64>,
    tool_prompt: Option<i64>,
    audio_seconds: Option<i64>,
    cost_nano: Option<i64>,
}

impl Report {
    /// Says nothing.
    pub(super) const NONE: Report = Report {
        input: None,
        output: None,
        total: None,
        cached: None,
        cache_miss: None,
        cache_write: None,
        cache_write_5m: None,
        cache_write_1h: None,
        reasoning: None,
        tool_prompt: None,
        audio_seconds: None,
        cost_nano: None,
    };

    /// Takes a member of a usage object or of one of its details objects. What is no whole number
    /// from 0 on is as good as missing.
    pub(super) fn take(&mut self, name: &[u8], raw: &[u8]) {
        match name {
            b"cost" => return self.cost_nano = decimal(raw, NANO_PER_USD).or(self.cost_nano),
            b"seconds" => return self.audio_seconds = decimal(raw, 1).or(self.audio_seconds),
            _ => {}
        }
        let Some(field) = self.field(name) else {
            return;
        };
        if let Some(count) = count(raw) {
            // Two names of one meaning in one object: the larger.
            *field = Some(field.map_or(count, |before| before.max(count)));
        }
    }

    fn field(&mut self, name: &[u8]) -> Option<&mut Option<i64>> {
        Some(match name {
            b"prompt_tokens" | b"input_tokens" | b"promptTokenCount" => &mut self.input,
            b"completion_tokens" | b"output_tokens" | b"candidatesTokenCount" => &mut self.output,
            b"total_tokens" | b"totalTokenCount" => &mut self.total,
            b"cached_tokens"
            | b"cache_read_input_tokens"
            | b"cachedContentTokenCount"
            | b"prompt_cache_hit_tokens" => &mut self.cached,
            b"prompt_cache_miss_tokens" => &mut self.cache_miss,
            b"cache_write_tokens" | b"cache_creation_input_tokens" => &mut self.cache_write,
            b"ephemeral_5m_input_tokens" => &mut self.cache_write_5m,
            b"ephemeral_1h_input_tokens" => &mut self.cache_write_1h,
            b"reasoning_tokens" | b"thoughtsTokenCount" => &mut self.reasoning,
            b"toolUsePromptTokenCount" => &mut self.tool_prompt,
            _ => return None,
        })
    }

    /// Whether it says anything at all.
    pub(super) fn says_something(&self) -> bool {
        *self != Report::NONE
    }

    pub(super) fn cost_nano(&self) -> Option<i64> {
        self.cost_nano
    }

    /// Seconds of audio where the provider bills by them and reports no tokens.
    pub(super) fn audio_seconds(&self) -> Option<i64> {
        let tokens = self.input.or(self.output).or(self.total);
        self.audio_seconds.filter(|_| tokens.is_none())
    }

    /// Output tokens reported, reasoning included, as far as this dialect says.
    pub(super) fn produced(&self, dialect: Dialect) -> i64 {
        self.usage(dialect).map_or(0, |usage| usage.output_tokens)
    }

    /// Anthropic's cumulative update: each field that is given replaces the one before. A zero does
    /// not: counts never fall, but gateways that know no input at the end send one.
    pub(super) fn update(&mut self, newer: &Report) {
        let pairs = [
            (&mut self.input, newer.input),
            (&mut self.output, newer.output),
            (&mut self.total, newer.total),
            (&mut self.cached, newer.cached),
            (&mut self.cache_miss, newer.cache_miss),
            (&mut self.cache_write, newer.cache_write),
            (&mut self.cache_write_5m, newer.cache_write_5m),
            (&mut self.cache_write_1h, newer.cache_write_1h),
            (&mut self.reasoning, newer.reasoning),
            (&mut self.tool_prompt, newer.tool_prompt),
            (&mut self.audio_seconds, newer.audio_seconds),
            (&mut self.cost_nano, newer.cost_nano),
        ];
        for (field, value) in pairs {
            if value.is_some_and(|value| value > 0 || field.is_none()) {
                *field = value;
            }
        }
    }

    /// The one meaning, or `None` where neither side can be told.
    pub(super) fn usage(&self, dialect: Dialect) -> Option<Usage> {
        if let Some(seconds) = self.audio_seconds() {
            let input_tokens = seconds.saturating_mul(AUDIO_TOKENS_PER_SECOND);
            return Some(Usage {
                input_tokens: input_tokens.min(MAX_AMOUNT),
                ..Usage::default()
            });
        }
        let (input, output) = match dialect {
            Dialect::OpenAi => self.openai_sides(),
            Dialect::Anthropic => self.anthropic_sides(),
            Dialect::Gemini => self.gemini_sides(),
        };
        input.or(output)?;
        let (write_5m, write_1h) = self.cache_writes();
        let usage = Usage {
            input_tokens: input.unwrap_or(0),
            cached_tokens: self.cached.unwrap_or(0),
            cache_write_5m_tokens: write_5m,
            cache_write_1h_tokens: write_1h,
            output_tokens: output.unwrap_or(0),
            reasoning_tokens: self.reasoning.unwrap_or(0),
        };
        Some(usage.consistent())
    }

    fn openai_sides(&self) -> (Option<i64>, Option<i64>) {
        let split = self.cache_miss.map(|miss| sum(miss, self.cached));
        let input = self.input.or(split).or(match (self.total, self.output) {
            (Some(total), Some(output)) => Some((total - output).max(0)),
            (total, _) => total,
        });
        let total = self.total.filter(|total| *total <= ABSURD_TOKENS);
        let rest = match (total, input) {
            (Some(total), Some(input)) if total >= input => Some(total - input),
            _ => None,
        };
        // A total beyond both sides holds reasoning that neither shows.
        (input, self.output.max(rest))
    }

    fn anthropic_sides(&self) -> (Option<i64>, Option<i64>) {
        let (write_5m, write_1h) = self.cache_writes();
        let cache = sum(sum(write_5m, Some(write_1h)), self.cached);
        let input = match (self.input, cache) {
            (None, 0) => None,
            (input, cache) => Some(sum(cache, input)),
        };
        (input, self.output)
    }

    fn gemini_sides(&self) -> (Option<i64>, Option<i64>) {
        let input = self.input.map(|input| sum(input, self.tool_prompt));
        let output = match (self.output, self.reasoning) {
            (None, None) => None,
            (output, reasoning) => Some(sum(output.unwrap_or(0), reasoning)),
        };
        (input, output)
    }

    /// The breakdown lies inside the sum and never adds to it; what it leaves open lives 5 minutes.
    fn cache_writes(&self) -> (i64, i64) {
        let breakdown = sum(
            self.cache_write_5m.unwrap_or(0),
            Some(self.cache_write_1h.unwrap_or(0)),
        );
        let all = self.cache_write.unwrap_or(breakdown);
        let write_1h = self.cache_write_1h.unwrap_or(0).min(all);
        (all - write_1h, write_1h)
    }
}

fn sum(a: i64, b: Option<i64>) -> i64 {
    a.saturating_add(b.unwrap_or(0)).min(MAX_AMOUNT)
}

/// A whole number from 0 on, held at 2^53. Signs, fractions, exponents, strings and null are none.
fn count(raw: &[u8]) -> Option<i64> {
    if raw.is_empty() || !raw.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = raw.iter().fold(0_i64, |value, digit| {
        value
            .saturating_mul(10)
            .saturating_add(i64::from(digit - b'0'))
            .min(MAX_AMOUNT)
    });
    Some(value)
}

/// A decimal from 0 on times `scale`, rounded up, held at 2^53: exact, without a float.
fn decimal(raw: &[u8], scale: i64) -> Option<i64> {
    let text = std::str::from_utf8(raw).ok()?;
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: String = [whole, fraction].concat();
    if digits.is_empty() || digits.len() > 25 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value = digits.parse::<i128>().ok()?.checked_mul(scale.into())?;
    let shift = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let power = 10_i128.checked_pow(shift.unsigned_abs());
    let scaled = match (shift >= 0, power) {
        (true, Some(power)) => value.checked_mul(power).unwrap_or(i128::MAX),
        (true, None) if value > 0 => i128::MAX,
        (true, None) => 0,
        (false, Some(power)) => (value + power - 1) / power,
        (false, None) => i128::from(value > 0),
    };
    Some(i64::try_from(scaled).unwrap_or(MAX_AMOUNT).min(MAX_AMOUNT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(fields: &[(&str, &str)]) -> Report {
        let mut report = Report::default();
        for (name, raw) in fields {
            report.take(name.as_bytes(), raw.as_bytes());
        }
        report
    }

    #[test]
    fn nonsense_is_as_good_as_missing() {
        for raw in ["-5", "1.5", "1e3", "null", "true", "", "+1"] {
            let report = report(&[("prompt_tokens", raw), ("completion_tokens", raw)]);
            assert_eq!(report.usage(Dialect::OpenAi), None, "{raw}");
            assert!(!report.says_something(), "{raw}");
        }
        let huge = report(&[("prompt_tokens", "1000000000000000000000")]);
        let usage = huge.usage(Dialect::OpenAi).unwrap();
        assert_eq!(usage.input_tokens, MAX_AMOUNT);
    }

    #[test]
    fn totals_fill_what_the_sides_leave_out() {
        let xai = report(&[
            ("prompt_tokens", "32"),
            ("completion_tokens", "9"),
            ("total_tokens", "135"),
            ("reasoning_tokens", "94"),
        ]);
        let usage = xai.usage(Dialect::OpenAi).unwrap();
        assert_eq!((usage.input_tokens, usage.output_tokens), (32, 103));
        let embedding = report(&[("total_tokens", "7")]);
        let usage = embedding.usage(Dialect::OpenAi).unwrap();
        assert_eq!((usage.input_tokens, usage.output_tokens), (7, 0));
        let absurd = report(&[
            ("prompt_tokens", "3"),
            ("completion_tokens", "4"),
            ("total_tokens", "99999999999999"),
        ]);
        assert_eq!(absurd.usage(Dialect::OpenAi).unwrap().output_tokens, 4);
    }

    #[test]
    fn a_breakdown_never_adds_to_what_it_breaks_down() {
        let usage = |write_5m: &str, write_1h: &str| {
            let report = report(&[
                ("input_tokens", "500"),
                ("cache_creation_input_tokens", "100"),
                ("ephemeral_5m_input_tokens", write_5m),
                ("ephemeral_1h_input_tokens", write_1h),
                ("output_tokens", "1"),
            ]);
            let usage = report.usage(Dialect::Anthropic).unwrap();
            assert_eq!(usage.input_tokens, 600);
            (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens)
        };
        assert_eq!(usage("40", "60"), (40, 60));
        assert_eq!(usage("0", "200"), (0, 100));
        assert_eq!(usage("300", "0"), (100, 0));
        assert_eq!(usage("null", "30"), (70, 30));
    }

    #[test]
    fn cost_is_exact_and_rounded_up() {
        let cost = |raw: &str| decimal(raw.as_bytes(), NANO_PER_USD);
        assert_eq!(cost("0.00014"), Some(140_000));
        assert_eq!(cost("1.5e-3"), Some(1_500_000));
        assert_eq!(cost("0.0000000001"), Some(1));
        assert_eq!(cost("1e400"), Some(MAX_AMOUNT));
        assert_eq!(cost("0e99999"), Some(0));
        assert_eq!(cost("2e-99999"), Some(1));
        for bad in ["-1", "\"1\"", "null", ".", "", "1e", "1e99999999999"] {
            assert_eq!(cost(bad), None, "{bad}");
        }
    }
}
