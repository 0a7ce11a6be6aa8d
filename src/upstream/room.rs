//! What a provider says of its own rate limits: how much room is left, and until when that holds.
//!
//! OpenAI and what speaks like it: `x-ratelimit-remaining-{requests,tokens}` and
//! `x-ratelimit-reset-{requests,tokens}` (durations such as `6m0s`, `120ms`); Anthropic:
//! `anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{remaining,reset}` (RFC 3339).
//! They hold for one credential and one model, and so does what is kept of them.

use super::failover::Need;
use crate::time::UnixMs;

/// How long a figure is believed that came without its end.
const UNTOLD_MS: i64 = 10_000;
/// A figure is not believed for longer, whatever is said.
const LONGEST_MS: i64 = 300_000;

/// Models that are told apart at one peer. The one heard of longest ago makes room for another.
const MOST_MODELS: usize = 64;

/// What is limited: requests, all tokens, input tokens, output tokens.
const LIMITS: usize = 4;

/// What is left of one limit, and until when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    pub amount: i64,
    pub until: UnixMs,
}

/// What an answer's head said, by limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room([Option<Left>; LIMITS]);

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

/// What is left for each model, as far as is known.
#[derive(Debug, Default)]
pub struct Rooms {
    models: Vec<RoomLeft>,
}

/// What is left for one model.
#[derive(Debug, Default)]
struct RoomLeft {
    /// A hash of its name.
    model: u64,
    told: [Left; LIMITS],
    /// Expected by the running exchanges that no figure has in it yet.
    expected: [i64; LIMITS],
    heard: UnixMs,
}

impl Rooms {
    /// An exchange begins.
    pub fn begin(&mut self, need: &Need, now: UnixMs) {
        if let Some(left) = self.of(need.model, now) {
            for (expected, wanted) in left.expected.iter_mut().zip(wanted(need)) {
                *expected = expected.saturating_add(wanted);
            }
        }
    }

    /// What an answer to `need` said. `anew` where the exchange was only expected before: now it is in
    /// the figures, or comes off them where the answer had none.
    pub fn told(&mut self, need: &Need, room: &Room, anew: bool, now: UnixMs) {
        let known = self.models.iter_mut().find(|one| one.model == need.model);
        let Some(left) = known else { return };
        left.heard = left.heard.max(now);
        for (at, wanted) in wanted(need).into_iter().enumerate() {
            let used = if anew { wanted } else { 0 };
            left.expected[at] = left.expected[at].saturating_sub(used).max(0);
            match room.0[at] {
                Some(told) => left.told[at] = told,
                None => left.told[at].amount = left.told[at].amount.saturating_sub(used),
            }
        }
    }

    /// Whether the request would run into the provider's limit now.
    pub fn is_tight(&self, need: &Need, now: UnixMs) -> bool {
        let known = self.models.iter().find(|one| one.model == need.model);
        known.is_some_and(|left| {
            let limits = left.told.iter().zip(&left.expected).zip(wanted(need));
            let mut limits = limits.filter(|((told, _), _)| told.until > now);
            limits.any(|((told, expected), wanted)| told.amount.saturating_sub(*expected) < wanted)
        })
    }

    /// The model's, made where there is none; `None` where too many others run.
    fn of(&mut self, model: u64, now: UnixMs) -> Option<&mut RoomLeft> {
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
            heard: now,
            ..RoomLeft::default()
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
        assert_eq!(room.0[0], Some(requests));
        assert_eq!(room.0[1].map(|left| left.amount), Some(149_984));
        assert_eq!(
            room.0[1].map(|left| left.until),
            Some(NOW.plus_ms(LONGEST_MS))
        );
        let room = read(&[
            ("anthropic-ratelimit-tokens-remaining", "9000"),
            ("anthropic-ratelimit-input-tokens-remaining", "10"),
            ("anthropic-ratelimit-input-tokens-reset", "not a time"),
            ("anthropic-ratelimit-output-tokens-remaining", "7"),
        ]);
        let amounts = room.0.map(|left| left.map(|left| left.amount));
        assert_eq!(amounts, [None, Some(9_000), Some(10), Some(7)]);
        assert_eq!(
            room.0[2].map(|left| left.until),
            Some(NOW.plus_ms(UNTOLD_MS))
        );
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
        assert!(!rooms.is_tight(&need(1, i64::MAX, 0), NOW));
        rooms.begin(&hundred, NOW);
        let told = read(&[
            ("x-ratelimit-remaining-requests", "2"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-remaining-tokens", "150"),
            ("x-ratelimit-reset-tokens", "2s"),
        ]);
        // The figures have this exchange in them.
        rooms.told(&hundred, &told, true, NOW);
        assert!(!rooms.is_tight(&need(1, 150, 0), NOW));
        assert!(rooms.is_tight(&need(1, 150, 1), NOW));
        // One that runs is not in them yet.
        rooms.begin(&hundred, NOW);
        assert!(!rooms.is_tight(&need(1, 50, 0), NOW));
        assert!(rooms.is_tight(&need(1, 50, 1), NOW));
        assert!(rooms.is_tight(&need(1, 50, 1), NOW.plus_ms(1_999)));
        assert!(!rooms.is_tight(&need(1, 50, 1), NOW.plus_ms(2_000)));
        // It ends without a word: it is taken to have used what it was expected to.
        rooms.told(&hundred, &Room::default(), true, NOW);
        assert!(rooms.is_tight(&need(1, 50, 1), NOW));
        rooms.begin(&need(1, 0, 0), NOW);
        assert!(rooms.is_tight(&need(1, 0, 0), NOW), "no request is left");
        assert!(!rooms.is_tight(&need(1, 0, 0), NOW.plus_ms(1_000)));
        assert!(!rooms.is_tight(&hundred_of(2), NOW), "another model's");
    }

    fn hundred_of(model: u64) -> Need {
        need(model, 60, 40)
    }

    #[test]
    fn input_and_output_have_limits_of_their_own() {
        let mut rooms = Rooms::default();
        rooms.begin(&need(1, 0, 0), NOW);
        let told = read(&[
            ("anthropic-ratelimit-input-tokens-remaining", "100"),
            ("anthropic-ratelimit-output-tokens-remaining", "10"),
        ]);
        rooms.told(&need(1, 0, 0), &told, true, NOW);
        assert!(!rooms.is_tight(&need(1, 100, 10), NOW));
        assert!(rooms.is_tight(&need(1, 101, 0), NOW));
        assert!(rooms.is_tight(&need(1, 0, 11), NOW));
    }

    #[test]
    fn models_are_bounded_and_a_running_one_stays() {
        let mut rooms = Rooms::default();
        rooms.begin(&hundred_of(0), NOW);
        for model in 1..1_000 {
            let at = NOW.plus_ms(model);
            let model = u64::try_from(model).unwrap();
            rooms.begin(&hundred_of(model), at);
            rooms.told(&hundred_of(model), &Room::default(), true, at);
        }
        assert_eq!(rooms.models.len(), MOST_MODELS);
        assert!(rooms.models.iter().any(|one| one.model == 0));
    }
}
