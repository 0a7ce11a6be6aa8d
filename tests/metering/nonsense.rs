//! What an upstream may send instead of an answer: RELIABILITY tests 14 and 15 as far as the meter
//! sees them. No panic, bounded memory, an estimate where there is no report.

use crate::support::{encoded, feed, goldens};
use bytes::Bytes;
use quota_proxy::metering::meter::MAX_OUTPUT_TEXT_BYTES;
use quota_proxy::metering::{
    Dialect, Endpoint, Meter, MeterSetup, Observation, Usage, cap, count_tokens, settle_usage,
};

fn chat(content_type: &str, content_encoding: &str) -> Meter {
    Meter::new(MeterSetup {
        endpoint: Endpoint::ChatCompletions,
        dialect: Dialect::OpenAi,
        content_type,
        content_encoding,
        strip_usage_chunk: false,
    })
}

fn observed(body: &str) -> Observation {
    let mut meter = chat("", "");
    feed(&mut meter, [body.as_bytes()]);
    meter.observe()
}

fn sides(usage: Usage) -> (i64, i64) {
    (usage.input_tokens, usage.output_tokens)
}

const TEXT: &str = r#"data: {"choices":[{"delta":{"content":"eight by"},"finish_reason":"stop"}]}"#;

#[test]
fn a_report_that_is_null_or_nonsense_is_no_report() {
    for usage in [
        "null",
        "{}",
        "[]",
        "\"7\"",
        "7",
        r#"{"prompt_tokens":-1,"completion_tokens":-5,"total_tokens":-6}"#,
        r#"{"prompt_tokens":"5","completion_tokens":"7"}"#,
        r#"{"prompt_tokens":1.5,"completion_tokens":2e3,"total_tokens":null}"#,
        r#"{"prompt_tokens":{"a":1},"completion_tokens":[3]}"#,
    ] {
        let seen = observed(&format!(
            "{TEXT}\n\ndata: {{\"choices\":[],\"usage\":{usage}}}\n\ndata: [DONE]\n\n"
        ));
        assert_eq!(seen.usage, None, "{usage}");
        let (settled, estimated) = settle_usage(&seen, None, 11);
        assert_eq!((sides(settled), estimated), ((11, 2), true), "{usage}");
    }
}

#[test]
fn the_last_report_counts_and_nonsense_after_it_does_not() {
    let report = |prompt: &str, completion: &str| {
        format!(
            "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":{prompt},\"completion_tokens\":{completion}}}}}\n\n"
        )
    };
    let twice = format!(
        "{TEXT}\n\n{}{}data: [DONE]\n\n",
        report("5", "2"),
        report("6", "3")
    );
    assert_eq!(observed(&twice).usage.map(sides), Some((6, 3)));
    let early = format!("{}{TEXT}\n\ndata: [DONE]\n\n", report("5", "2"));
    assert_eq!(observed(&early).usage.map(sides), Some((5, 2)));
    let spoilt = format!(
        "{TEXT}\n\n{}{}data: [DONE]\n\n",
        report("5", "2"),
        report("-1", "\"x\"")
    );
    assert_eq!(observed(&spoilt).usage.map(sides), Some((5, 2)));
}

#[test]
fn an_event_that_looks_like_an_earlier_one_still_reports() {
    let event = |text: &str, tokens: i64| {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}],\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":{tokens}}}}}\n\n"
        )
    };
    let body = [event("a", 5), event("b\\n", 7), event("c", 5)].concat();
    assert_eq!(observed(&body).usage.map(sides), Some((1, 5)));
}

#[test]
fn half_of_a_pair_of_surrogates_is_one_odd_character() {
    for (escaped, text) in [
        ("\\ud83dx", "\u{fffd}x"),
        ("x\\ud83d", "x\u{fffd}"),
        ("\\ud83d\\ude00", "😀"),
        ("\\ud83d\\n\\ude00", "\u{fffd}\n\u{fffd}"),
    ] {
        let body =
            format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{escaped}\"}}}}]}}\n\n");
        assert_eq!(observed(&body).output_text, text);
    }
}

#[test]
fn an_absurd_report_is_capped() {
    for number in ["1000000000000000000", "99999999999999999999999999"] {
        let seen = observed(&format!(
            "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":{number}}}}}\n\ndata: [DONE]\n\n"
        ));
        let (usage, estimated) = settle_usage(&seen, None, 9);
        assert!(!estimated);
        assert_eq!(
            cap(usage, None),
            (
                Usage {
                    input_tokens: 9,
                    output_tokens: 9_999_991,
                    ..Usage::default()
                },
                true
            )
        );
        let (window, capped) = cap(usage, Some(128_000));
        assert_eq!((sides(window), capped), ((9, 127_991), true));
    }
}

#[test]
fn a_truncated_answer_is_charged_by_what_came() {
    for golden in goldens() {
        for cut in (0..golden.body.len()).step_by(1 + golden.body.len() / 97) {
            let mut meter = golden.meter("", false);
            feed(&mut meter, [&golden.body[..cut]]);
            let seen = meter.observe();
            let (usage, estimated) = settle_usage(&seen, None, 10);
            assert!(usage.input_tokens > 0, "{} cut at {cut}", golden.name);
            let least = count_tokens(seen.model.as_deref(), &seen.output_text);
            if !seen.complete && !seen.final_usage && seen.audio_seconds.is_none() {
                assert!(usage.output_tokens >= least, "{} cut at {cut}", golden.name);
            }
            assert!(
                estimated || seen.usage.is_some(),
                "{} cut at {cut}",
                golden.name
            );
            assert!(meter.produced() >= (seen.output_bytes + 3) / 4);
        }
    }
}

#[test]
fn a_report_before_the_break_is_exact() {
    for golden in goldens().iter().filter(|golden| golden.strip) {
        let text = String::from_utf8(golden.body.clone()).unwrap();
        let cut = text.find("data: [DONE]").unwrap();
        let mut meter = golden.meter("", false);
        feed(&mut meter, [&golden.body[..cut]]);
        let seen = meter.observe();
        assert!(!seen.complete && seen.final_usage, "{}", golden.name);
        assert_eq!(settle_usage(&seen, None, 1), (golden.usage.unwrap(), false));
    }
}

#[test]
fn only_what_generates_is_metered() {
    let stored = br#"{"object":"response","usage":{"input_tokens":5,"output_tokens":6}}"#;
    for endpoint in [
        Endpoint::Other,
        Endpoint::Models,
        Endpoint::CountTokens,
        Endpoint::Unmetered,
    ] {
        let mut meter = Meter::new(MeterSetup {
            endpoint,
            dialect: Dialect::OpenAi,
            content_type: "application/json",
            content_encoding: "",
            strip_usage_chunk: false,
        });
        feed(&mut meter, [stored.as_slice()]);
        assert_eq!(meter.observe().usage, None);
        assert!(meter.observe().complete);
    }
}

#[test]
fn an_unknown_encoding_has_no_usage_and_changes_nothing() {
    for coding in ["compress", "gzip, br", "aes128gcm"] {
        let mut meter = chat("text/event-stream", coding);
        assert_eq!(feed(&mut meter, [b"\x00\x01".as_slice()]), b"\x00\x01");
        assert_eq!(meter.observe().unreadable, Some("unknown content encoding"));
    }
}

#[test]
fn a_corrupt_encoding_keeps_what_was_read_before() {
    let golden = goldens()
        .into_iter()
        .find(|golden| golden.name == "openai_chat.sse")
        .unwrap();
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let body = encoded(coding, &golden.body);
        let mut meter = golden.meter(coding, false);
        for piece in body.chunks(16) {
            meter.push(&Bytes::copy_from_slice(piece), false);
        }
        meter.push(&Bytes::from(vec![0x55; 4_096]), true);
        let seen = meter.observe();
        assert_eq!(seen.usage, golden.usage, "{coding}");
        assert!(seen.output_text.contains("Paris"), "{coding}");
    }
}

/// A document that is almost nothing but one character.
fn bomb(coding: &str, mebibytes: usize) -> Vec<u8> {
    let mut body =
        br#"{"usage":{"prompt_tokens":1,"completion_tokens":1},"choices":[{"message":{"content":""#
            .to_vec();
    body.resize(body.len() + (mebibytes << 20), b'a');
    encoded(coding, &body)
}

#[test]
fn a_decompression_bomb_is_stopped() {
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let body = bomb(coding, 32);
        assert!(
            body.len() < 64 * 1024,
            "{coding} makes {} bytes",
            body.len()
        );
        for size in [1_000, body.len()] {
            let mut meter = chat("application/json", coding);
            let got = feed(&mut meter, body.chunks(size));
            let seen = meter.observe();
            assert!(got == body, "{coding}: the client gets what was sent");
            assert_eq!(seen.unreadable, Some("decompression bomb"), "{coding}");
            assert_eq!(seen.usage, None, "{coding}");
            assert!(!seen.complete);
            assert!(
                seen.output_bytes < 9 << 20,
                "{coding}: stopped at {}",
                seen.output_bytes
            );
            assert!(seen.output_text.len() <= MAX_OUTPUT_TEXT_BYTES);
        }
    }
}

#[test]
fn a_long_answer_is_counted_whole_and_kept_in_part() {
    let event = format!("{TEXT}\n\n");
    let mut meter = chat("text/event-stream", "");
    let piece = Bytes::from(event.repeat(1_000));
    for _ in 0..50 {
        meter.push(&piece, false);
    }
    let seen = meter.observe();
    assert_eq!(seen.output_bytes, 400_000);
    assert_eq!(seen.output_text.len(), MAX_OUTPUT_TEXT_BYTES);
    assert_eq!(meter.produced(), 100_000);
    assert_eq!(sides(settle_usage(&seen, None, 3).0), (3, 100_000));
}

#[test]
fn usage_is_found_in_an_event_of_any_size() {
    let filler = "x \\\" y".repeat(500_000);
    let body = format!(
        "event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"output\":[{{\"content\":[{{\"text\":\"{filler}\"}}]}}],\"usage\":{{\"input_tokens\":3,\"output_tokens\":4}}}}}}\n\n"
    );
    let mut meter = Meter::new(MeterSetup {
        endpoint: Endpoint::Responses,
        dialect: Dialect::OpenAi,
        content_type: "text/event-stream",
        content_encoding: "",
        strip_usage_chunk: false,
    });
    feed(&mut meter, body.as_bytes().chunks(16_384));
    let seen = meter.observe();
    assert_eq!(seen.usage.map(sides), Some((3, 4)));
    assert!(seen.complete);
}

#[test]
fn an_open_meter_is_small() {
    let size = std::mem::size_of::<Meter>();
    assert!(size <= 1_024, "{size} bytes");
}
