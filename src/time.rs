//! Instants as the books write them: milliseconds since the Unix epoch, UTC, shown as RFC 3339.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Milliseconds since 1970-01-01T00:00:00Z. Shown and parsed as RFC 3339 in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMs(pub i64);

pub const DAY_MS: i64 = 86_400_000;

impl UnixMs {
    /// The wall clock now. Only shells call this; the core is given its time.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        UnixMs(since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
    }

    pub fn plus_ms(self, ms: i64) -> Self {
        UnixMs(self.0.saturating_add(ms))
    }

    /// `2026-11-21T02:44:59.123Z`; milliseconds are always written, so that text sorts as time does.
    pub fn to_rfc3339(self) -> String {
        jiff::Timestamp::from_millisecond(self.0)
            .map_or_else(|_| String::from("invalid"), |t| format!("{t:.3}"))
    }

    /// Accepts any RFC 3339 instant.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>()
            .ok()
            .map(|t| UnixMs(t.as_millisecond()))
    }

    /// The UTC day, as `2026-11-21`: the key of a daily rollup.
    pub fn day(self) -> String {
        self.to_rfc3339().chars().take(10).collect()
    }
}

/// Now, on both clocks: dates and windows are the wall clock's, which may jump; durations (leases,
/// per-minute buckets) are the steady clock's, which may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub wall: UnixMs,
    /// Milliseconds since any fixed instant.
    pub steady_ms: i64,
}

/// Where a store takes its time from.
pub type Clock = std::sync::Arc<dyn Fn() -> Moment + Send + Sync>;

impl Moment {
    /// A moment at which both clocks show the same: for tests and tables.
    pub fn at(ms: i64) -> Moment {
        Moment {
            wall: UnixMs(ms),
            steady_ms: ms,
        }
    }
}

/// The bare number, for bounds that may be no date at all: `#[serde(with = "as_ms")]`.
pub mod as_ms {
    use super::{Deserialize as _, Deserializer, Serialize as _, Serializer, UnixMs};

    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(at: &UnixMs, serializer: S) -> Result<S::Ok, S::Error> {
        at.0.serialize(serializer)
    }

    /// # Errors
    /// It is no whole number.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UnixMs, D::Error> {
        i64::deserialize(deserializer).map(UnixMs)
    }
}

impl Serialize for UnixMs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_rfc3339())
    }
}

impl<'de> Deserialize<'de> for UnixMs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        UnixMs::parse_rfc3339(&text).ok_or_else(|| {
            serde::de::Error::custom("not an RFC 3339 time such as 2026-12-31T00:00:00Z")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_and_parses_rfc3339() {
        let t = UnixMs(1_795_229_099_123);
        assert_eq!(t.to_rfc3339(), "2026-11-21T02:44:59.123Z");
        assert_eq!(UnixMs::parse_rfc3339(&t.to_rfc3339()), Some(t));
        assert_eq!(t.day(), "2026-11-21");
    }
}
