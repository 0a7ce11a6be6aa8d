//! What must hold for any bytes at all. Fuzzed by the targets beside this file, replayed over the
//! committed corpora by `tests/metering/corpus.rs` on the stable compiler.

use bytes::Bytes;
use quota_proxy::metering::meter::MAX_OUTPUT_TEXT_BYTES;
use quota_proxy::metering::{
    Dialect, Edits, Endpoint, Meter, MeterSetup, Observation, RequestFacts, cap,
    include_usage_missing, read_request, settle_usage, splice,
};

const ENDPOINTS: [Endpoint; 9] = [
    Endpoint::ChatCompletions,
    Endpoint::Completions,
    Endpoint::Responses,
    Endpoint::Embeddings,
    Endpoint::Images,
    Endpoint::Audio,
    Endpoint::Messages,
    Endpoint::GeminiGenerate,
    Endpoint::Other,
];

/// Any stream of events, taken apart and with its usage chunk taken out.
pub fn sse(data: &[u8]) {
    for endpoint in [Endpoint::ChatCompletions, Endpoint::Messages] {
        for strip_usage_chunk in [false, true] {
            same_however_cut(data, |_| MeterSetup {
                endpoint,
                dialect: Dialect::OpenAi,
                content_type: "text/event-stream",
                content_encoding: "",
                strip_usage_chunk,
            });
        }
    }
}

/// Any answer, read by every endpoint and dialect.
pub fn usage(data: &[u8]) {
    for endpoint in ENDPOINTS {
        for dialect in [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini] {
            same_however_cut(data, |_| MeterSetup {
                endpoint,
                dialect,
                content_type: "application/json",
                content_encoding: "",
                strip_usage_chunk: false,
            });
        }
    }
}

/// Any encoded answer; the first byte chooses the encoding and whether it is encoded again.
pub fn decode(data: &[u8]) {
    let Some((&choice, body)) = data.split_first() else {
        return;
    };
    let codings = ["gzip", "deflate", "br", "zstd"];
    let coding = codings[usize::from(choice) % codings.len()];
    if choice >= 128 {
        let mut meter = chat(coding, true);
        push_in_pieces(&mut meter, body, 1);
        sane(&meter.observe());
        return;
    }
    same_however_cut(body, |_| MeterSetup {
        endpoint: Endpoint::ChatCompletions,
        dialect: Dialect::OpenAi,
        content_type: "text/event-stream",
        content_encoding: coding,
        strip_usage_chunk: false,
    });
}

/// Any request body; the first byte chooses the endpoint.
pub fn request(data: &[u8]) {
    let Some((&choice, body)) = data.split_first() else {
        return;
    };
    let endpoint = ENDPOINTS[usize::from(choice) % ENDPOINTS.len()];
    let path = match endpoint {
        Endpoint::GeminiGenerate => "/v1beta/models/g:generateContent",
        _ => "/v1/x",
    };
    let Ok(facts) = read_request(endpoint, path, body) else {
        return;
    };
    if !body.trim_ascii_start().starts_with(b"{") {
        return;
    }
    serde_json::from_slice::<serde::de::IgnoredAny>(body).expect("what is accepted is JSON");
    assert!(facts.choices >= 1 && facts.input_tokens >= 0);
    spliced(endpoint, path, body, &facts);
}

fn spliced(endpoint: Endpoint, path: &str, body: &[u8], facts: &RequestFacts) {
    let edits = Edits {
        include_usage: true,
        output_bound: Some(("max_tokens", 7)),
        model: facts.model.as_ref().map(|_| "other \"model\""),
    };
    let body = Bytes::copy_from_slice(body);
    let after = splice(body, facts, &edits);
    let path = path.replace("models/g:", "models/other \"model\":");
    let again = read_request(endpoint, &path, &after).expect("a spliced body is a good request");
    assert!(!include_usage_missing(&again));
    // A name that this endpoint does not obey cannot bound it.
    if matches!(
        endpoint,
        Endpoint::ChatCompletions | Endpoint::GeminiGenerate
    ) {
        let bound = again.output_bound.expect("it is bounded now");
        assert!(bound <= 7_i64.saturating_mul(again.choices));
    }
    if endpoint == Endpoint::ChatCompletions {
        let twice = splice(after.clone(), &again, &edits);
        assert_eq!(
            twice.as_ptr(),
            after.as_ptr(),
            "a second splice changes nothing"
        );
    }
    assert_eq!(again.stream, facts.stream);
    assert_eq!(again.choices, facts.choices);
    assert_eq!(again.end_user, facts.end_user);
}

fn chat(content_encoding: &str, strip_usage_chunk: bool) -> Meter {
    Meter::new(MeterSetup {
        endpoint: Endpoint::ChatCompletions,
        dialect: Dialect::OpenAi,
        content_type: "text/event-stream",
        content_encoding,
        strip_usage_chunk,
    })
}

/// Whole, in odd pieces and byte by byte: one observation, the same bytes for the client.
fn same_however_cut<'a>(data: &[u8], setup: impl Fn(()) -> MeterSetup<'a>) {
    let mut whole = Meter::new(setup(()));
    let expected = push_in_pieces(&mut whole, data, data.len().max(1));
    let seen = whole.observe();
    sane(&seen);
    if !setup(()).strip_usage_chunk {
        assert!(expected == data, "the client's bytes are the upstream's");
    }
    for size in [1, 3, 17] {
        let mut meter = Meter::new(setup(()));
        let got = push_in_pieces(&mut meter, data, size);
        let again = meter.observe();
        // How much of a corrupt encoding comes out before the fault is the decoder's affair.
        if seen.unreadable.is_some() {
            assert_eq!(again.unreadable, seen.unreadable, "in pieces of {size}");
        } else {
            assert_eq!(again, seen, "in pieces of {size}");
        }
        assert!(got == expected, "in pieces of {size}: bytes");
    }
}

fn push_in_pieces(meter: &mut Meter, data: &[u8], size: usize) -> Vec<u8> {
    let mut got = Vec::new();
    for piece in data.chunks(size) {
        let piece = Bytes::copy_from_slice(piece);
        got.extend_from_slice(&meter.push(&piece, false).unwrap_or(piece));
    }
    got.extend_from_slice(&meter.push(&Bytes::new(), true).unwrap_or_default());
    got
}

fn sane(seen: &Observation) {
    assert!(seen.output_text.len() <= 3 * MAX_OUTPUT_TEXT_BYTES);
    assert!(seen.output_bytes >= 0);
    assert!(seen.cost_nano.is_none_or(|cost| cost >= 0));
    let (usage, _) = settle_usage(seen, None, 10);
    let (usage, _) = cap(usage, None);
    assert!(usage.total_tokens() <= 10_000_000);
    let input = usage.cached_tokens + usage.cache_write_5m_tokens + usage.cache_write_1h_tokens;
    assert!((0..=usage.input_tokens).contains(&input));
    assert!((0..=usage.output_tokens).contains(&usage.reasoning_tokens));
}
