//! How one request steers the fake: the `x-fake` header, or a word in the model's name.
//!
//! `x-fake: tokens=50,interval=20ms,usage=twice` is a list of directives; a model name such as
//! `gpt-4o-fake-429` does the same for SDKs that cannot send a header. A directive that is not known
//! is refused with 400, so that a test's misspelling cannot pass for a healthy answer.

use std::time::Duration;

/// What a response says about usage, where that differs from the truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsageMode {
    /// As the provider does it.
    #[default]
    True,
    /// The final report is sent two times.
    Twice,
    /// `"usage": null` where the report belongs.
    Null,
    /// Counts below zero.
    Negative,
    /// Counts of 10^15.
    Huge,
    /// On a chunk with content in the middle of the stream, and not at its end.
    Middle,
    /// No field at all.
    None,
    /// Cumulative, on every chunk.
    Every,
}

/// A content coding put on the answer, asked for or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Gzip,
    Brotli,
    Zstd,
}

impl Coding {
    /// The value of `Content-Encoding`.
    pub fn token(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Brotli => "br",
            Coding::Zstd => "zstd",
        }
    }

    /// The first coding of an `Accept-Encoding` value that is known here.
    pub fn negotiate(accepted: &str) -> Option<Self> {
        accepted
            .split(',')
            .filter_map(|part| part.split(';').next())
            .find_map(|name| Self::named(name.trim()))
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "gzip" => Some(Coding::Gzip),
            "br" => Some(Coding::Brotli),
            "zstd" => Some(Coding::Zstd),
            _ => None,
        }
    }
}

/// The directives of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Word chunks to produce, for each choice.
    pub tokens: Option<u32>,
    /// Pause between word chunks.
    pub interval: Option<Duration>,
    /// Wait before the response head.
    pub latency: Option<Duration>,
    /// Wait between the head and the first byte of the body.
    pub first_byte_delay: Duration,
    /// Answer with this error status instead.
    pub status: Option<u16>,
    /// The provider's error code that goes with `status`, such as `insufficient_quota`.
    pub code: Option<String>,
    /// The value of a `Retry-After` header.
    pub retry_after: Option<String>,
    /// Close in the middle: streams after this many word chunks, plain answers after this many bytes.
    pub truncate_after: Option<u64>,
    /// The same, by a TCP reset.
    pub reset_after: Option<u64>,
    /// Put the dialect's error event into the stream after this many word chunks and end there.
    pub error_event_after: Option<u64>,
    pub usage: UsageMode,
    pub coding: Option<Coding>,
    /// Pick the coding from the request's `Accept-Encoding`.
    pub negotiate: bool,
    /// Announce a `Content-Length` ten bytes longer than the body.
    pub wrong_length: bool,
    /// Answer with what arrived instead of a completion.
    pub echo: bool,
    /// Produce `tokens` whatever bound the request declares.
    pub ignore_bound: bool,
    /// Close the connection without any answer.
    pub drop: bool,
    /// Input tokens reported as read from a cache.
    pub cached: u32,
    /// Input tokens reported as written to a cache.
    pub cache_write: u32,
    /// Output tokens reported as reasoning; they come before the visible words.
    pub reasoning: u32,
}

impl Control {
    /// Adds the directives of `text`; a later one replaces an earlier one.
    ///
    /// # Errors
    /// The first directive that is unknown or has a value that cannot be read.
    pub fn apply(&mut self, text: &str) -> Result<(), String> {
        text.split(',')
            .map(str::trim)
            .filter(|directive| !directive.is_empty())
            .try_for_each(|directive| self.directive(directive))
    }

    /// Adds what the model's name asks for: the part behind its last `fake-`. Other names ask nothing.
    pub fn apply_model(&mut self, model: &str) {
        let Some(at) = model.rfind("fake-") else {
            return;
        };
        let wish = &model[at + "fake-".len()..];
        let directives = match wish {
            "slow" => "latency=300ms,interval=50ms",
            "truncate" => "truncate-after=3",
            "reset" => "reset-after=3",
            "no-usage" => "usage=none",
            "insufficient-quota" => "status=429,code=insufficient_quota",
            "error-event" => "error-event-after=3",
            "drop" => "drop",
            "ignore-bound" => "ignore-bound",
            _ => {
                self.status = wish.parse().ok().filter(is_error).or(self.status);
                return;
            }
        };
        // The table above holds only directives that are known.
        self.apply(directives).unwrap_or_default();
    }

    fn directive(&mut self, directive: &str) -> Result<(), String> {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        let bad = || format!("x-fake: cannot read \"{directive}\"");
        let number = || value.parse::<u32>().map_err(|_| bad());
        let count = || value.parse::<u64>().map(Some).map_err(|_| bad());
        let time = || humantime::parse_duration(value).map_err(|_| bad());
        match name {
            "tokens" => self.tokens = Some(number()?),
            "interval" => self.interval = Some(time()?),
            "latency" => self.latency = Some(time()?),
            "first-byte-delay" => self.first_byte_delay = time()?,
            "status" => {
                self.status = Some(value.parse().ok().filter(is_error).ok_or_else(bad)?);
            }
            "code" => self.code = Some(value.to_owned()),
            "retry-after" => self.retry_after = Some(value.to_owned()),
            "truncate-after" => self.truncate_after = count()?,
            "reset-after" => self.reset_after = count()?,
            "error-event-after" => self.error_event_after = count()?,
            "usage" => self.usage = usage_mode(value).ok_or_else(bad)?,
            "encoding" if value == "negotiate" => self.negotiate = true,
            "encoding" => self.coding = Some(Coding::named(value).ok_or_else(bad)?),
            "wrong-length" => self.wrong_length = true,
            "echo" => self.echo = true,
            "ignore-bound" => self.ignore_bound = true,
            "drop" => self.drop = true,
            "cached" => self.cached = number()?,
            "cache-write" => self.cache_write = number()?,
            "reasoning" => self.reasoning = number()?,
            _ => self.coding = Some(Coding::named(name).ok_or_else(bad)?),
        }
        Ok(())
    }
}

fn is_error(status: &u16) -> bool {
    (400..=599).contains(status)
}

fn usage_mode(value: &str) -> Option<UsageMode> {
    Some(match value {
        "true" => UsageMode::True,
        "twice" => UsageMode::Twice,
        "null" => UsageMode::Null,
        "negative" => UsageMode::Negative,
        "huge" => UsageMode::Huge,
        "middle" => UsageMode::Middle,
        "none" => UsageMode::None,
        "every" => UsageMode::Every,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_read_and_misspelt_ones_are_refused() {
        let mut control = Control::default();
        control
            .apply("tokens=50, interval=20ms,gzip,usage=twice,status=429,retry-after=2")
            .unwrap();
        assert_eq!(control.tokens, Some(50));
        assert_eq!(control.interval, Some(Duration::from_millis(20)));
        assert_eq!(control.coding, Some(Coding::Gzip));
        assert_eq!(control.usage, UsageMode::Twice);
        assert_eq!(control.status, Some(429));
        for wrong in ["token=5", "tokens=many", "status=200", "usage=maybe"] {
            assert!(control.apply(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_model_name_steers_too() {
        let of = |model: &str| {
            let mut control = Control::default();
            control.apply_model(model);
            control
        };
        assert_eq!(of("gpt-4o-fake-503").status, Some(503));
        assert_eq!(of("claude-fake-truncate").truncate_after, Some(3));
        assert_eq!(of("fake-no-usage").usage, UsageMode::None);
        let quota = of("fake-insufficient-quota");
        assert_eq!(quota.code.as_deref(), Some("insufficient_quota"));
        assert_eq!(of("gpt-4o"), Control::default());
        assert_eq!(of("fake-model"), Control::default());
    }
}
