//! What a provider says of its own rate limits: how much room is left, and until when that holds.
//!
//! OpenAI and what speaks like it: `x-ratelimit-remaining-{requests,tokens}` and
//! `x-ratelimit-reset-{requests,tokens}` (durations such as `6m0s`, `120ms`); Anthropic:
//! `anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{remaining,reset}` (RFC 3339).
//! Where the limit is said too (`…-limit-…`), what is left grows towards it until the reset, as the
//! buckets of both providers do. They hold for one credential and one model, and so does what is kept
//! of them.

use std::time::{Duration, Instant};

use super::failover::Need;
use crate::time::{DAY_MS, UnixMs};

/// How long a figure is believed that came without its end.
const UNTOLD_MS: i64 = 10_000;
/// A figure is not believed for longer, whatever is said.
const LONGEST_MS: i64 = 300_000;
/// A reset that is further away is no reset.
const FAREST_MS: i64 = 31 * DAY_MS;

/// Models that are told apart at one peer. The one heard of longest ago makes room for another.
const MOST_MODELS: usize = 64;

/// What is limited: requests, all tokens, input tokens, output tokens.
const LIMITS: usize = 4;

/// What is left of one limit, and how long it takes until all of it is there again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    pub amount: i64,
    /// Where it was said.
    pub limit: Option<i64>,
    pub full_in_ms: i64,
}

/// The same, and when it was heard. Before that nothing is known.
#[derive(Clone, Copy, Debug)]
struct Told {
    left: Left,
    heard: Instant,
}

/// What an answer's head said, by limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room([Option<Left>; LIMITS]);

impl Room {
    /// Reads it from the headers of an answer; what makes no sense is passed over. An instant is taken
    /// by the provider's own clock where the answer tells it.
    pub fn read<'a>(header: impl Fn(&str) -> Option<&'a str>, now: UnixMs) -> Room {
        let theirs = header("date").and_then(UnixMs::parse_http_date);
        let now = theirs.unwrap_or(now);
        let number = |name: &str| header(name)?.trim().parse::<i64>().ok();
        let left = |named: &dyn Fn(&str) -> String| {
            let amount = number(&named("remaining"))?.max(0);
            let after = header(&named("reset")).and_then(|text| after_ms(text.trim(), now));
            Some(Left {
                amount,
                limit: number(&named("limit")),
                full_in_ms: after.unwrap_or(UNTOLD_MS).clamp(0, FAREST_MS),
            })
        };
        let anthropic = |what: &str| left(&|part| format!("anthropic-ratelimit-{what}-{part}"));
        let openai = |what: &str| left(&|part| format!("x-ratelimit-{part}-{what}"));
        Room([
            anthropic("requests").or_else(|| openai("requests")),
            anthropic("tokens").or_else(|| openai("tokens")),
            anthropic("input-tokens"),
            anthropic("output-tokens"),
        ])
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

impl Told {
    /// What is there of it now; `None` where that is not known any more.
    fn amount(&self, now: Instant) -> Option<i64> {
        let Left {
            amount,
            limit,
            full_in_ms,
        } = self.left;
        let believed = u64::try_from(full_in_ms.min(LONGEST_MS)).unwrap_or_default();
        let passed = now.saturating_duration_since(self.heard);
        if passed >= Duration::from_millis(believed) {
            return None;
        }
        let missing = i128::from(limit.unwrap_or(amount).saturating_sub(amount).max(0));
        let passed_ms = i128::try_from(passed.as_millis()).unwrap_or(i128::MAX);
        let refilled = missing.saturating_mul(passed_ms) / i128::from(full_in_ms.max(1));
        Some(amount.saturating_add(i64::try_from(refilled).unwrap_or(i64::MAX)))
    }
}

/// What is left for each model, as far as is known.
#[derive(Debug, Default)]
pub struct Rooms {
    models: Vec<RoomLeft>,
}

/// What is left for one model.
#[derive(Debug)]
struct RoomLeft {
    /// A hash of its name.
    model: u64,
    told: [Option<Told>; LIMITS],
    /// Expected by the running exchanges that no figure has in it yet.
    expected: [i64; LIMITS],
    heard: Instant,
}

impl Rooms {
    /// An exchange begins.
    pub fn begin(&mut self, need: &Need, now: Instant) {
        if let Some(left) = self.of(need.model, now) {
            for (expected, wanted) in left.expected.iter_mut().zip(wanted(need)) {
                *expected = expected.saturating_add(wanted);
            }
        }
    }

    /// What an answer to `need` said. `anew` where the exchange was only expected before: now it is in
    /// the figures, or comes off them where the answer had none.
    pub fn told(&mut self, need: &Need, room: &Room, anew: bool, now: Instant) {
        if anew {
            self.used(need);
        }
        let known = self.models.iter_mut().find(|one| one.model == need.model);
        let Some(known) = known else { return };
        known.heard = known.heard.max(now);
        for (told, said) in known.told.iter_mut().zip(room.0) {
            if let Some(left) = said {
                *told = Some(Told { left, heard: now });
            }
        }
    }

    /// An exchange that was expected is taken to have used what it was expected to.
    pub fn used(&mut self, need: &Need) {
        let known = self.models.iter_mut().find(|one| one.model == need.model);
        let Some(known) = known else { return };
        for (at, wanted) in wanted(need).into_iter().enumerate() {
            known.expected[at] = known.expected[at].saturating_sub(wanted).max(0);
            if let Some(told) = &mut known.told[at] {
                told.left.amount = told.left.amount.saturating_sub(wanted);
            }
        }
    }

    /// Whether the request would run into the provider's limit now.
    pub fn is_tight(&self, need: &Need, now: Instant) -> bool {
        let known = self.models.iter().find(|one| one.model == need.model);
        known.is_some_and(|known| {
            let limits = known.told.iter().zip(&known.expected).zip(wanted(need));
            let mut known = limits.filter_map(|((told, expected), wanted)| {
                let amount = told.as_ref()?.amount(now)?;
                Some((amount.saturating_sub(*expected), wanted))
            });
            known.any(|(left, wanted)| left < wanted)
        })
    }

    /// The model's, made where there is none; `None` where too many others run.
    fn of(&mut self, model: u64, now: Instant) -> Option<&mut RoomLeft> {
        let known = self.models.iter().position(|one| one.model == model);
        if let Some(at) = known {
            return self.models.get_mut(at);
        }
        if self.models.len() >= MOST_MODELS {
            let idle = self.models.iter().enumerate();
            let idle = idle.filter(|(_, one)| one.expected == [0; LIMITS]);
            let (oldest, _) = idle.min_by_key(|(_, one)| one.heard)?;
            self.models.swap_remove(oldest);
        }
        self.models.push(RoomLeft {
            model,
            told: [None; LIMITS],
            expected: [0; LIMITS],
            heard: now,
        });
        self.models.last_mut()
    }
}

fn wanted(need: &Need) -> [i64; LIMITS] {
    let (input, output) = (need.input_tokens, need.output_tokens);
    [1, input.saturating_add(output), input, output]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;

    const NOW: UnixMs = UnixMs(1_795_229_099_000);

    fn ms(at: u64) -> Instant {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        *START + Duration::from_millis(at)
    }

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
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-remaining-requests", "59"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-remaining-tokens", "149984"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ]);
        let left = |amount, limit, full_in_ms| Left {
            amount,
            limit,
            full_in_ms,
        };
        assert_eq!(room.0[0], Some(left(59, Some(60), 1_000)));
        assert_eq!(room.0[1], Some(left(149_984, None, 360_000)));
        let room = read(&[
            ("anthropic-ratelimit-tokens-remaining", "9000"),
            ("anthropic-ratelimit-input-tokens-remaining", "10"),
            ("anthropic-ratelimit-input-tokens-reset", "not a time"),
            ("anthropic-ratelimit-output-tokens-remaining", "7"),
        ]);
        let amounts = room.0.map(|left| left.map(|left| left.amount));
        assert_eq!(amounts, [None, Some(9_000), Some(10), Some(7)]);
        assert_eq!(room.0[2].map(|left| left.full_in_ms), Some(UNTOLD_MS));
        assert!(read(&[("x-ratelimit-remaining-requests", "many")]).says_nothing());
    }

    fn need(model: u64, input_tokens: i64, output_tokens: i64) -> Need {
        Need {
            model,
            input_tokens,
            output_tokens,
            key_hash: 0,
        }
    }

    #[test]
    fn room_is_counted_on_and_forgotten_in_time() {
        let mut rooms = Rooms::default();
        let hundred = need(1, 60, 40);
        assert!(!rooms.is_tight(&need(1, i64::MAX, 0), ms(0)));
        rooms.begin(&hundred, ms(0));
        let told = read(&[
            ("x-ratelimit-remaining-requests", "2"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-remaining-tokens", "150"),
            ("x-ratelimit-reset-tokens", "2s"),
        ]);
        // The figures have this exchange in them.
        rooms.told(&hundred, &told, true, ms(0));
        assert!(!rooms.is_tight(&need(1, 150, 0), ms(0)));
        assert!(rooms.is_tight(&need(1, 150, 1), ms(0)));
        // One that runs is not in them yet.
        rooms.begin(&hundred, ms(0));
        assert!(!rooms.is_tight(&need(1, 50, 0), ms(0)));
        assert!(rooms.is_tight(&need(1, 50, 1), ms(0)));
        assert!(rooms.is_tight(&need(1, 50, 1), ms(1_999)));
        assert!(!rooms.is_tight(&need(1, 50, 1), ms(2_000)));
        // It ends without a word: it is taken to have used what it was expected to.
        rooms.used(&hundred);
        assert!(rooms.is_tight(&need(1, 50, 1), ms(0)));
        rooms.begin(&need(1, 0, 0), ms(0));
        assert!(rooms.is_tight(&need(1, 0, 0), ms(0)), "no request is left");
        assert!(!rooms.is_tight(&need(1, 0, 0), ms(1_000)));
        assert!(!rooms.is_tight(&hundred_of(2), ms(0)), "another model's");
    }

    /// What is left grows until the reset; where nobody says up to what, it does not.
    #[test]
    fn room_refills_until_its_reset() {
        let mut rooms = Rooms::default();
        let one = need(1, 1, 0);
        rooms.begin(&one, ms(0));
        let told = |limit: bool| {
            let mut headers = vec![
                ("anthropic-ratelimit-tokens-remaining", "0"),
                // The provider's clock is an hour ahead of ours.
                ("date", "Sat, 21 Nov 2026 10:00:00 GMT"),
                ("anthropic-ratelimit-tokens-reset", "2026-11-21T10:00:10Z"),
            ];
            if limit {
                headers.push(("anthropic-ratelimit-tokens-limit", "1000"));
            }
            read(&headers)
        };
        rooms.told(&one, &told(true), true, ms(0));
        assert!(rooms.is_tight(&one, ms(9)));
        assert!(!rooms.is_tight(&one, ms(10)));
        assert!(rooms.is_tight(&need(1, 501, 0), ms(5_000)));
        assert!(!rooms.is_tight(&need(1, 500, 0), ms(5_000)));
        rooms.begin(&one, ms(5_000));
        assert!(rooms.is_tight(&need(1, 500, 0), ms(5_000)));
        rooms.told(&one, &told(false), true, ms(0));
        assert!(rooms.is_tight(&one, ms(9_999)));
        assert!(!rooms.is_tight(&one, ms(10_000)));
    }

    fn hundred_of(model: u64) -> Need {
        need(model, 60, 40)
    }

    #[test]
    fn input_and_output_have_limits_of_their_own() {
        let mut rooms = Rooms::default();
        rooms.begin(&need(1, 0, 0), ms(0));
        let told = read(&[
            ("anthropic-ratelimit-input-tokens-remaining", "100"),
            ("anthropic-ratelimit-output-tokens-remaining", "10"),
        ]);
        rooms.told(&need(1, 0, 0), &told, true, ms(0));
        assert!(!rooms.is_tight(&need(1, 100, 10), ms(0)));
        assert!(rooms.is_tight(&need(1, 101, 0), ms(0)));
        assert!(rooms.is_tight(&need(1, 0, 11), ms(0)));
    }

    #[test]
    fn models_are_bounded_and_a_running_one_stays() {
        let mut rooms = Rooms::default();
        rooms.begin(&hundred_of(0), ms(0));
        for model in 1..1_000 {
            let at = ms(model);
            rooms.begin(&hundred_of(model), at);
            rooms.told(&hundred_of(model), &Room::default(), true, at);
        }
        assert_eq!(rooms.models.len(), MOST_MODELS);
        assert!(rooms.models.iter().any(|one| one.model == 0));
    }
}
