//! A span of time as the books can answer for it: whole UTC days, of which there are rollups, and the
//! parts of days at its ends, of which there are events only.

use std::ops::Range;

use crate::time::{DAY_MS, UnixMs};

/// No event is of this day or later: the books date none beyond 2^42 ms after the epoch.
const END_OF_DAYS: i64 = 50_904;

/// Apart: whole days and parts of days never overlap, and together they are the span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Whole days, counted from the epoch.
    pub days: Range<i64>,
    /// In order, none empty, each within one day; the end is exclusive.
    pub parts: Vec<Range<UnixMs>>,
}

impl Span {
    /// From `since` to before `until`.
    pub fn of(since: UnixMs, until: UnixMs) -> Span {
        let since = since.0.clamp(0, END_OF_DAYS * DAY_MS);
        let until = until.0.clamp(0, END_OF_DAYS * DAY_MS);
        let first = (since + DAY_MS - 1) / DAY_MS;
        let end = until / DAY_MS;
        let mut parts = Vec::with_capacity(2);
        let mut part = |from: i64, to: i64| {
            if from < to {
                parts.push(UnixMs(from)..UnixMs(to));
            }
        };
        if first > end {
            // Both ends lie in one day.
            part(since, until);
            return Span { days: 0..0, parts };
        }
        part(since, first * DAY_MS);
        part(end * DAY_MS, until);
        Span {
            days: first..end,
            parts,
        }
    }

    /// The first and the last whole day, as `2026-11-21`; `None` where there is none.
    pub fn whole_days(&self) -> Option<(String, String)> {
        let text = |day: i64| UnixMs(day * DAY_MS).day();
        (!self.days.is_empty()).then(|| (text(self.days.start), text(self.days.end - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = DAY_MS / 2;

    fn span(since: i64, until: i64) -> (Range<i64>, Vec<(i64, i64)>) {
        let span = Span::of(UnixMs(since), UnixMs(until));
        let parts = span.parts.iter().map(|part| (part.start.0, part.end.0));
        (span.days, parts.collect())
    }

    #[test]
    fn days_and_parts_of_days() {
        let day = |n: i64| n * DAY_MS;
        assert_eq!(span(day(3), day(5)), (3..5, vec![]));
        assert_eq!(
            span(day(3) - NOON, day(5) + 1),
            (3..5, vec![(day(3) - NOON, day(3)), (day(5), day(5) + 1)])
        );
        assert_eq!(
            span(day(3) + 1, day(4) - 1),
            (0..0, vec![(day(3) + 1, day(4) - 1)])
        );
        assert_eq!(
            span(day(3) - 1, day(3) + 1),
            (3..3, vec![(day(3) - 1, day(3)), (day(3), day(3) + 1)])
        );
        assert_eq!(span(day(3), day(3)), (3..3, vec![]));
        assert_eq!(span(day(4), day(3)).1, vec![]);
        assert!(span(day(4), day(3)).0.is_empty());
        assert_eq!(span(i64::MIN, i64::MAX), (0..END_OF_DAYS, vec![]));
    }

    #[test]
    fn whole_days_have_dates() {
        let begin = UnixMs::parse_rfc3339("2026-11-20T12:00:00Z").unwrap();
        let span = Span::of(begin, begin.plus_ms(3 * DAY_MS));
        let days = (String::from("2026-11-21"), String::from("2026-11-22"));
        assert_eq!(span.whole_days(), Some(days));
        assert_eq!(Span::of(begin, begin).whole_days(), None);
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_left_out_or_counted_twice(
            since in 0i64..20 * DAY_MS, length in 0i64..5 * DAY_MS, at in 0i64..25 * DAY_MS,
        ) {
            let span = Span::of(UnixMs(since), UnixMs(since + length));
            let times = usize::from(span.days.contains(&at.div_euclid(DAY_MS)))
                + span.parts.iter().filter(|part| part.contains(&UnixMs(at))).count();
            assert_eq!(times, usize::from((since..since + length).contains(&at)));
            for part in &span.parts {
                assert_eq!(part.start.0 / DAY_MS, (part.end.0 - 1) / DAY_MS);
            }
        }
    }
}
