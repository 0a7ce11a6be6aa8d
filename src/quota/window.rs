//! Windows: when a period's counter starts anew. UTC; weeks start on Monday, months are the calendar's.

use serde::{Deserialize, Serialize};

use super::limit::Period;
use crate::time::{DAY_MS, UnixMs};

/// One window of a period: `start` is in it, `end` is not. `total` has one window, from 0 for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub period: Period,
    /// Milliseconds since the Unix epoch.
    pub start: i64,
    /// The start of the next window.
    pub end: Option<i64>,
}

/// What the passing of time does to a counter's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Still the same window.
    Stay,
    /// A later window of the same period: the counter starts at 0.
    Roll(Window),
    /// Another window for the same counter: the operator changed the period, or the clock had been
    /// wrong by more than a whole period. The counter keeps its figures under the new dates.
    Rebase(Window),
}

impl Window {
    /// The window of `period` that `now` lies in.
    pub fn at(period: Period, now: UnixMs) -> Window {
        let day = now.0.div_euclid(DAY_MS);
        let (first, next) = match period {
            Period::Total => {
                return Window {
                    period,
                    start: 0,
                    end: None,
                };
            }
            Period::Daily => (day, day + 1),
            Period::Weekly => {
                // Day 0, 1970-01-01, was a Thursday: three days after a Monday.
                let monday = day - (day + 3).rem_euclid(7);
                (monday, monday + 7)
            }
            Period::Monthly => month_around(day),
        };
        Window {
            period,
            start: first.saturating_mul(DAY_MS),
            end: Some(next.saturating_mul(DAY_MS)),
        }
    }

    pub fn contains(&self, now: UnixMs) -> bool {
        self.end
            .is_none_or(|end| self.start <= now.0 && now.0 < end)
    }

    /// How a counter that stands in this window goes on under `period` at `now`.
    ///
    /// A wall clock that goes back by less than a period changes nothing: the counter stays in the
    /// window it has reached, so that no window is entered, and no counter zeroed, twice. One that
    /// goes back further had been plainly wrong, and waiting for it could take years.
    pub fn turn(&self, period: Period, now: UnixMs) -> Turn {
        if period != self.period {
            return Turn::Rebase(Window::at(period, now));
        }
        if self.contains(now) {
            return Turn::Stay;
        }
        let present = Window::at(period, now);
        if present.start > self.start {
            return Turn::Roll(present);
        }
        let length = self.end.map_or(i64::MAX, |end| end - self.start);
        if self.start - now.0 > length {
            return Turn::Rebase(present);
        }
        Turn::Stay
    }
}

/// First day of the month of `day` and of the next one, in days since the epoch.
fn month_around(day: i64) -> (i64, i64) {
    // 400 years have 146 097 days: the guess is off by one year at most.
    let mut year = 1970 + (day * 400).div_euclid(146_097);
    while first_day_of_year(year) > day {
        year -= 1;
    }
    while first_day_of_year(year + 1) <= day {
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut first = first_day_of_year(year);
    for length in months {
        if day < first + length {
            return (first, first + length);
        }
        first += length;
    }
    (first, first + 31)
}

fn is_leap(year: i64) -> bool {
    year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0)
}

/// Days from the epoch to January 1st of `year`.
fn first_day_of_year(year: i64) -> i64 {
    let before = year - 1;
    let leap_days = |y: i64| y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400);
    (year - 1970) * 365 + leap_days(before) - leap_days(1969)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> UnixMs {
        UnixMs::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn windows_start_where_the_calendar_says() {
        let now = at("2026-11-21T02:44:59.123Z");
        let starts = |p| UnixMs(Window::at(p, now).start).to_rfc3339();
        assert_eq!(starts(Period::Daily), "2026-11-21T00:00:00.000Z");
        assert_eq!(starts(Period::Weekly), "2026-11-16T00:00:00.000Z");
        assert_eq!(starts(Period::Monthly), "2026-11-01T00:00:00.000Z");
        assert_eq!(Window::at(Period::Total, now).start, 0);
        let end = Window::at(Period::Monthly, at("2028-02-29T23:59:59Z")).end;
        assert_eq!(end, Some(at("2028-03-01T00:00:00Z").0));
        let end = Window::at(Period::Monthly, at("2026-12-31T23:59:59Z")).end;
        assert_eq!(end, Some(at("2027-01-01T00:00:00Z").0));
    }

    #[test]
    fn an_hour_back_changes_nothing_and_a_wild_clock_is_left() {
        let window = Window::at(Period::Daily, at("2026-11-21T00:10:00Z"));
        assert_eq!(
            window.turn(Period::Daily, at("2026-11-20T23:10:00Z")),
            Turn::Stay
        );
        let wild = Window::at(Period::Daily, at("2090-01-01T00:00:00Z"));
        let now = at("2026-11-21T00:10:00Z");
        assert_eq!(wild.turn(Period::Daily, now), Turn::Rebase(window));
    }

    fn period() -> impl Strategy<Value = Period> {
        prop_oneof![
            Just(Period::Total),
            Just(Period::Daily),
            Just(Period::Weekly),
            Just(Period::Monthly)
        ]
    }

    proptest! {
        #[test]
        fn a_window_holds_its_instant_and_touches_the_next(p in period(), now in 0i64..253_402_300_799_000) {
            let window = Window::at(p, UnixMs(now));
            prop_assert!(window.contains(UnixMs(now)));
            prop_assert!(window.start <= now);
            if let Some(end) = window.end {
                prop_assert!(end > now);
                let next = Window::at(p, UnixMs(end));
                prop_assert_eq!(next.start, end);
                prop_assert_eq!(Window::at(p, UnixMs(end - 1)), window);
                prop_assert_eq!(end % DAY_MS, 0);
            }
        }

        #[test]
        fn months_agree_with_the_calendar(now in -62_135_596_800_000i64..253_402_300_799_000) {
            let date = jiff::Timestamp::from_millisecond(now).unwrap()
                .to_zoned(jiff::tz::TimeZone::UTC).date();
            let first = date.first_of_month().to_zoned(jiff::tz::TimeZone::UTC).unwrap();
            prop_assert_eq!(Window::at(Period::Monthly, UnixMs(now)).start, first.timestamp().as_millisecond());
        }

        #[test]
        fn clock_jumps_never_enter_a_window_twice(
            p in period(),
            begin in 1_600_000_000_000i64..1_900_000_000_000,
            jumps in prop::collection::vec(-DAY_MS..DAY_MS, 1..50),
        ) {
            let mut now = begin;
            let mut window = Window::at(p, UnixMs(now));
            for jump in jumps {
                now += jump;
                // Jumps of up to a day each may add up; only those within a period are promised.
                match window.turn(p, UnixMs(now)) {
                    Turn::Stay => {}
                    Turn::Roll(next) => {
                        prop_assert!(next.start > window.start);
                        window = next;
                    }
                    Turn::Rebase(next) => {
                        prop_assert!(window.start - now > window.end.unwrap() - window.start);
                        window = next;
                    }
                }
            }
        }
    }
}
