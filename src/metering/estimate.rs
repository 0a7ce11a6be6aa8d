//! Estimates where a provider reports nothing, and the bound on what it may report.

use super::cursor::{Cursor, Kind, Malformed};
use super::input::Tally;
use super::meter::Observation;
use super::request::RequestFacts;
use super::tokenizer;
use super::usage::Usage;
use crate::quota::amount::MAX_AMOUNT;

/// Tokens of one exchange above which a report is absurd where no context window is known.
pub const ABSURD_TOKENS: i64 = 10_000_000;

/// Tokens of `text`: by the model's tokenizer where it is known, else one for four bytes, rounded up.
///
/// The first call for a tokenizer loads it, which takes some tenths of a second of CPU: not for a
/// path that other exchanges wait on.
pub fn count_tokens(model: Option<&str>, text: &str) -> i64 {
    let known = model.and_then(|model| tokenizer::count(model, text));
    known.unwrap_or_else(|| by_bytes(i64::try_from(text.len()).unwrap_or(i64::MAX)))
}

/// Input tokens of a body: by the model's tokenizer where it is known, else `facts.input_tokens`.
/// Costs a second pass over the body, so for exchanges that ended without a report.
pub fn estimate_input(model: Option<&str>, facts: &RequestFacts, body: &[u8]) -> i64 {
    let Some(model) = model.filter(|model| tokenizer::count(model, "").is_some()) else {
        return facts.input_tokens;
    };
    let Ok(tally) = tally(body) else {
        return facts.input_tokens;
    };
    tally.tokens_by(|text| count_tokens(Some(model), text))
}

fn tally(body: &[u8]) -> Result<Tally, Malformed> {
    let mut cursor = Cursor::new(body);
    let mut tally = Tally::keeping();
    cursor.object(|cursor, name| {
        let name = cursor.text(&name);
        let prose = cursor.kind()? != Kind::Number;
        match &*name {
            "model" | "user" | "metadata" | "stream_options" => cursor.skip().map(drop),
            _ if prose => tally.member(cursor, &name),
            _ => cursor.skip().map(drop),
        }
    })?;
    Ok(tally)
}

/// The usage to charge for what was observed, and whether any of it is an estimate.
///
/// Reported numbers stand where the answer ended as its dialect ends, or where the report came after
/// the text. Where neither is so, a report
/// seen on the way may be early: then the larger of report and estimate counts. A side that was not
/// reported at all is estimated: input from the request, output from the text.
pub fn settle_usage(
    observation: &Observation,
    model: Option<&str>,
    input_estimate: i64,
) -> (Usage, bool) {
    let reported = observation.usage.unwrap_or_default();
    if observation.usage.is_some() && observation.audio_seconds.is_some() {
        return (reported, false);
    }
    let model = model.or(observation.model.as_deref());
    let mut usage = reported;
    let mut estimated = observation.usage.is_none();
    if reported.input_tokens == 0 && input_estimate > 0 {
        usage.input_tokens = input_estimate;
        estimated = true;
    }
    let ended = observation.complete || observation.final_usage;
    let exact = ended && !observation.unreported_text;
    if reported.output_tokens == 0 || !exact {
        let produced = produced_tokens(observation, model);
        if produced > reported.output_tokens {
            usage.output_tokens = produced;
            estimated = true;
        }
    }
    (usage, estimated)
}

fn produced_tokens(observation: &Observation, model: Option<&str>) -> i64 {
    let kept = i64::try_from(observation.output_text.len()).unwrap_or(i64::MAX);
    if kept == 0 {
        return by_bytes(observation.output_bytes);
    }
    let counted = count_tokens(model, &observation.output_text);
    if observation.output_bytes <= kept {
        return counted;
    }
    scaled(counted, observation.output_bytes, kept)
}

/// `tokens` of `part` bytes, brought to `whole` bytes, rounded up.
pub(super) fn scaled(tokens: i64, whole: i64, part: i64) -> i64 {
    let part = i128::from(part.max(1));
    let exact = (i128::from(tokens) * i128::from(whole) + part - 1) / part;
    i64::try_from(exact).unwrap_or(MAX_AMOUNT).min(MAX_AMOUNT)
}

/// Four bytes a token, rounded up.
pub(super) fn by_bytes(bytes: i64) -> i64 {
    bytes.max(0).saturating_add(3) / 4
}

/// Caps an absurd report at the model's context window, or at ten million tokens where none is
/// known; whether it did. The smaller side is believed, the larger one takes what is left.
pub fn cap(usage: Usage, context_window: Option<i64>) -> (Usage, bool) {
    let most = context_window
        .filter(|window| *window > 0)
        .unwrap_or(ABSURD_TOKENS);
    if usage.total_tokens() <= most {
        return (usage, false);
    }
    let mut capped = usage;
    let small = usage
        .input_tokens
        .min(usage.output_tokens)
        .clamp(0, most / 2);
    let large = most - small;
    if usage.input_tokens <= usage.output_tokens {
        (capped.input_tokens, capped.output_tokens) = (small, large);
    } else {
        (capped.input_tokens, capped.output_tokens) = (large, small);
    }
    (capped.consistent(), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(input: i64, output: i64) -> Usage {
        Usage {
            input_tokens: input,
            output_tokens: output,
            ..Usage::default()
        }
    }

    #[test]
    fn an_absurd_report_is_capped_and_a_sane_one_is_not() {
        assert_eq!(cap(usage(5, 6), Some(11)), (usage(5, 6), false));
        assert_eq!(cap(usage(5, 7), Some(11)), (usage(5, 6), true));
        assert_eq!(cap(usage(7, 5), Some(11)), (usage(6, 5), true));
        let huge = cap(usage(i64::MAX, i64::MAX), None);
        assert_eq!(huge, (usage(5_000_000, 5_000_000), true));
        let parts = Usage {
            cached_tokens: 1 << 50,
            reasoning_tokens: 9,
            ..usage(1 << 51, 3)
        };
        let (capped, _) = cap(parts, Some(1_000));
        assert_eq!((capped.cached_tokens, capped.reasoning_tokens), (997, 3));
    }

    #[test]
    fn a_missing_side_is_estimated() {
        let text = Observation {
            output_text: "12345678".to_owned(),
            output_bytes: 8,
            ..Observation::default()
        };
        assert_eq!(settle_usage(&text, Some("x"), 9), (usage(9, 2), true));
        let cut = Observation {
            usage: Some(usage(20, 1)),
            ..text.clone()
        };
        assert_eq!(settle_usage(&cut, None, 9), (usage(20, 2), true));
        let whole = Observation {
            usage: Some(usage(20, 1)),
            complete: true,
            ..text.clone()
        };
        assert_eq!(settle_usage(&whole, None, 9), (usage(20, 1), false));
        let long = Observation {
            output_bytes: 800,
            ..text
        };
        assert_eq!(settle_usage(&long, None, 9), (usage(9, 200), true));
        let nothing = Observation::default();
        assert_eq!(settle_usage(&nothing, None, 9), (usage(9, 0), true));
    }
}
