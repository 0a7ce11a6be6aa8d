//! Reading parameters one by one, from the query string and, where clients send one, from the JSON
//! body of a `GET`. Unknown ones are ignored, as everywhere on the web.

use std::ops::RangeInclusive;

use axum::extract::Query as Pairs;
use http::Uri;

use super::failure::Failure;
use super::fault::{Allowed, Fault, Problem};
use crate::time::{DAY_MS, UnixMs};

/// Rows of a page at most.
pub const MAX_PAGE: i64 = 1_000;

/// The parameters of a request.
#[derive(Debug)]
pub struct Query {
    pairs: Vec<(String, String)>,
    faults: Vec<Fault>,
}

impl Query {
    pub fn of(uri: &Uri) -> Self {
        match Pairs::try_from_uri(uri) {
            Ok(Pairs(pairs)) => Query {
                pairs,
                faults: Vec::new(),
            },
            Err(_) => Query {
                pairs: Vec::new(),
                faults: vec![Fault::words("", "the query string cannot be read")],
            },
        }
    }

    /// The parameters of a request whose body, where there is one, is a JSON object of further ones;
    /// what stands in both is taken from the query string.
    ///
    /// # Errors
    /// When the body is no JSON object.
    pub fn with_body(uri: &Uri, body: &[u8]) -> Result<Self, Failure> {
        let mut query = Query::of(uri);
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(query);
        }
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body)
            .map_err(|e| Failure::invalid(format!("the body must be a JSON object: {e}")))?;
        let text = |value: serde_json::Value| match value {
            serde_json::Value::String(text) => Some(text),
            serde_json::Value::Null => None,
            other => Some(other.to_string()),
        };
        let given = object.into_iter();
        let given = given.filter_map(|(name, value)| text(value).map(|text| (name, text)));
        query.pairs.splice(0..0, given);
        Ok(query)
    }

    /// # Errors
    /// When a parameter that was asked for makes no sense.
    pub fn finish(self) -> Result<(), Failure> {
        if self.faults.is_empty() {
            return Ok(());
        }
        Err(Failure::Invalid(self.faults))
    }

    pub fn take<T>(
        &mut self,
        name: &str,
        allowed: impl Into<Allowed>,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let (_, text) = self.pairs.iter().rfind(|(n, _)| n == name)?;
        let value = read(text);
        if value.is_none() {
            let found: String = text.chars().take(60).collect();
            let problem = Problem::Expected {
                found: format!("{found:?}"),
                allowed: allowed.into(),
            };
            self.faults.push(Fault::new(name, problem));
        }
        value
    }

    pub fn int(&mut self, name: &str, default: i64, range: RangeInclusive<i64>) -> i64 {
        let read = |text: &str| text.parse().ok().filter(|n| range.contains(n));
        self.take(name, &range, read).unwrap_or(default)
    }

    /// `skip` and `limit` of a page.
    pub fn page(&mut self) -> (i64, i64) {
        let skip = self.int("skip", 0, 0..=i64::from(u32::MAX));
        let limit = self.int("limit", 100, 1..=MAX_PAGE);
        (skip, limit)
    }

    pub fn flag(&mut self, name: &str) -> bool {
        let read = |text: &str| match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" | "" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => None,
        };
        self.take(name, "true or false", read).unwrap_or(false)
    }

    /// `start_date` and `end_date`: an RFC 3339 instant or a UTC day. A day as the end is meant whole;
    /// the end that is answered is exclusive.
    pub fn span(&mut self) -> (Option<UnixMs>, Option<UnixMs>) {
        self.span_named("start_date", "end_date")
    }

    /// The same under other names.
    pub fn span_named(&mut self, since: &str, until: &str) -> (Option<UnixMs>, Option<UnixMs>) {
        let allowed = "a day such as 2026-11-21, or a time such as 2026-11-21T08:00:00Z";
        let since = self.take(since, allowed, |text| {
            day(text).or_else(|| UnixMs::parse_rfc3339(text))
        });
        let until = self.take(until, allowed, |text| {
            let whole_day = day(text).map(|start| start.plus_ms(DAY_MS));
            whole_day.or_else(|| UnixMs::parse_rfc3339(text))
        });
        (since, until)
    }
}

/// The start of a UTC day such as `2026-11-21`.
pub fn day(text: &str) -> Option<UnixMs> {
    let fits = text.len() == 10 && text.is_ascii();
    fits.then(|| UnixMs::parse_rfc3339(&format!("{text}T00:00:00Z")))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&text.parse().unwrap())
    }

    #[test]
    fn pages_have_bounds() {
        assert_eq!(query("/a").page(), (0, 100));
        assert_eq!(query("/a?skip=5&limit=1000").page(), (5, 1000));
        for bad in [
            "limit=0",
            "limit=1001",
            "skip=-1",
            "limit=x",
            "limit=",
            "skip=99999999999999999999",
        ] {
            let mut q = query(&format!("/a?{bad}"));
            q.page();
            assert!(q.finish().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_day_as_the_end_is_meant_whole() {
        let (since, until) = query("/a?start_date=2026-11-20&end_date=2026-11-21").span();
        assert_eq!(since.unwrap().to_rfc3339(), "2026-11-20T00:00:00.000Z");
        assert_eq!(until.unwrap().to_rfc3339(), "2026-11-22T00:00:00.000Z");
        let (since, _) = query("/a?start_date=2026-11-20T08:00:00%2B02:00").span();
        assert_eq!(since.unwrap().to_rfc3339(), "2026-11-20T06:00:00.000Z");
    }

    #[test]
    fn nonsense_is_a_fault_and_no_panic() {
        for bad in [
            "start_date=yesterday",
            "end_date=2026-13-01",
            "end_date=%FF%FE",
            "start_date=2026-1-%C3%A4",
        ] {
            let mut q = query(&format!("/a?{bad}"));
            q.span();
            assert!(q.finish().is_err(), "{bad}");
        }
    }
}
