//! Metering from end to end: what a client receives is what the upstream sent, and what the books say
//! is what the upstream's own ledger says, for every endpoint and content coding.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::Read as _;

use serde_json::{Value, json};

use crate::support::admin::Key;
use crate::support::fake::Record;
use crate::support::rig::{CREDENTIAL, Rig, chat_stream};
use crate::support::wire::{Answer, Wire};

/// One way to ask, and what it costs.
struct Case {
    path: &'static str,
    body: Value,
    /// Nano-USD for uncached input, cache read, cache write and output tokens; `None`: not checked.
    prices: Option<[i64; 4]>,
    /// The proxy asks for usage in the client's place: the chunk that brings it is taken out.
    stripped: bool,
}

const GPT_4O: Option<[i64; 4]> = Some([2_500, 1_250, 2_500, 10_000]);
const SONNET: Option<[i64; 4]> = Some([3_000, 300, 3_750, 15_000]);
const FLASH: Option<[i64; 4]> = Some([300, 30, 300, 2_500]);
const CODINGS: [&str; 4] = ["identity", "gzip", "br", "zstd"];

fn case(path: &'static str, body: Value, prices: Option<[i64; 4]>) -> Case {
    Case {
        path,
        body,
        prices,
        stripped: false,
    }
}

fn cases() -> Vec<Case> {
    let words = json!([{"role": "user", "content": "Say something about proxies, please."}]);
    let chat = |extra: Value| {
        let mut body = json!({"model": "gpt-4o", "messages": words});
        for (name, value) in extra.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        body
    };
    let contents = json!([{"role": "user", "parts": [{"text": "Say something."}]}]);
    let gemini = json!({"contents": contents});
    let claude = |stream: bool| {
        json!({"model": "claude-sonnet-4-5", "max_tokens": 100, "stream": stream,
               "messages": words})
    };
    let response = |stream: bool| json!({"model": "gpt-4o", "input": "hello", "stream": stream});
    let stripped = |path, body, prices| Case {
        stripped: true,
        ..case(path, body, prices)
    };
    let chat_path = "/v1/chat/completions";
    let no_usage = json!({"include_usage": false});
    let with_usage = json!({"stream": true, "stream_options": {"include_usage": true}});
    vec![
        case(chat_path, chat(json!({})), GPT_4O),
        case(chat_path, chat(json!({"n": 3})), GPT_4O),
        case(chat_path, chat(with_usage), GPT_4O),
        stripped(chat_path, chat(json!({"stream": true})), GPT_4O),
        stripped(chat_path, chat(json!({"stream": true, "n": 2})), GPT_4O),
        stripped(
            chat_path,
            chat(json!({"stream": true, "stream_options": no_usage})),
            GPT_4O,
        ),
        case(
            "/v1/completions",
            json!({"model": "gpt-4o", "prompt": "hello"}),
            GPT_4O,
        ),
        stripped(
            "/v1/completions",
            json!({"model": "gpt-4o", "prompt": "hello", "stream": true}),
            GPT_4O,
        ),
        case("/v1/responses", response(false), GPT_4O),
        case("/v1/responses", response(true), GPT_4O),
        case(
            "/v1/embeddings",
            json!({"model": "text-embedding-3-small", "input": ["one text", "and another"]}),
            Some([20, 20, 20, 0]),
        ),
        case(
            "/v1/images/generations",
            json!({"model": "gpt-image-1", "prompt": "a cat"}),
            None,
        ),
        case("/v1/messages", claude(false), SONNET),
        case("/v1/messages", claude(true), SONNET),
        case(
            "/v1beta/models/gemini-2.5-flash:generateContent",
            gemini.clone(),
            FLASH,
        ),
        case(
            "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
            gemini.clone(),
            FLASH,
        ),
        case(
            "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
            gemini,
            FLASH,
        ),
    ]
}

async fn ask(wire: &mut Wire, case: &Case, body: &Value, wish: &str, key: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    let key = match case.path {
        path if path.starts_with("/v1beta") => ("x-goog-api-key", key),
        "/v1/messages" => ("x-api-key", key),
        _ => ("authorization", bearer.as_str()),
    };
    let headers = [("content-type", "application/json"), ("x-fake", wish), key];
    wire.post(case.path, &headers, body.to_string().as_bytes())
        .await;
    wire.answer().await
}

/// What the fake answers without a proxy, asked as the proxy is expected to ask, without the chunk
/// that the client did not ask for.
async fn original(rig: &Rig, case: &Case, wish: &str) -> Vec<u8> {
    let mut body = case.body.clone();
    if case.stripped {
        body["stream_options"]["include_usage"] = json!(true);
    }
    rig.fake().forget().await;
    let mut wire = Wire::connect(rig.fake().address).await;
    let answer = ask(&mut wire, case, &body, wish, CREDENTIAL).await;
    assert!(answer.is_whole);
    let text = decoded(&answer);
    if !case.stripped {
        return text;
    }
    let text = String::from_utf8(text).unwrap();
    let events = text.split_inclusive("\n\n");
    let kept: Vec<&str> = events.filter(|e| !e.contains(r#""choices":[]"#)).collect();
    assert_eq!(kept.len() + 1, text.matches("\n\n").count());
    kept.concat().into_bytes()
}

fn decoded(answer: &Answer) -> Vec<u8> {
    let mut out = Vec::new();
    let body = answer.body.as_slice();
    match answer.header("content-encoding") {
        Some("gzip") => flate2::read::MultiGzDecoder::new(body).read_to_end(&mut out),
        Some("br") => brotli::Decompressor::new(body, 4096).read_to_end(&mut out),
        Some("zstd") => zstd::stream::read::Decoder::new(body)
            .unwrap()
            .read_to_end(&mut out),
        _ => return body.to_vec(),
    }
    .unwrap();
    out
}

/// Two answers differ in the second they were made in.
fn without_time(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body).into_owned();
    let now = quota_proxy::time::UnixMs::now().0 / 1000;
    (now - 120..=now).fold(text, |text, second| {
        text.replace(&second.to_string(), "NOW")
    })
}

fn figures(event: &Value) -> [i64; 4] {
    let names = [
        "prompt_tokens",
        "completion_tokens",
        "cached_tokens",
        "cache_write_tokens",
    ];
    names.map(|name| event[name].as_i64().unwrap())
}

fn nano(event: &Value) -> i64 {
    (event["total_cost"].as_f64().unwrap() * 1e9).round() as i64
}

/// Compares one event with what the fake really did; answers the tokens and nano-USD it charged.
fn check_event(event: &Value, case: &Case, sent: &Record, parts: [i64; 2]) -> (i64, i64) {
    let what = format!("{} {}: {event:#}", case.path, case.body);
    let [input, output, cached, written] = figures(event);
    assert_eq!(input as u64, sent.input_tokens, "{what}");
    assert_eq!(output as u64, sent.output_tokens, "{what}");
    assert_eq!(event["total_tokens"], json!(input + output), "{what}");
    assert_eq!(event["estimated"], json!(false), "{what}");
    assert_eq!(event["is_error"], json!(false), "{what}");
    assert_eq!(event["model"], json!(sent.model), "{what}");
    let reports_cache = !case.path.contains("images") && !case.path.contains("embeddings");
    let knows_writes = !case.path.contains("v1beta") && !case.path.contains("responses");
    if reports_cache {
        assert_eq!(cached, parts[0], "{what}");
    }
    if reports_cache && knows_writes {
        assert_eq!(written, parts[1], "{what}");
    }
    if let Some(prices) = case.prices {
        let kinds = [input - cached - written, cached, written, output];
        let cost: i64 = kinds.iter().zip(prices).map(|(n, price)| n * price).sum();
        assert_eq!(nano(event), cost, "{what}");
    }
    (input + output, nano(event))
}

/// The same through the proxy: the bytes, the books and the ledger agree.
async fn metered(rig: &Rig, wire: &mut Wire, key: &Key, case: &Case, wish: &str) -> (i64, i64) {
    let expected = original(rig, case, wish).await;
    rig.fake().forget().await;
    let answer = ask(wire, case, &case.body, wish, &key.secret).await;
    let what = format!("{} {} {wish}", case.path, case.body);
    assert_eq!(
        (answer.status, answer.is_whole),
        (200, true),
        "{what}: {}",
        answer.text()
    );
    assert_eq!(
        without_time(&decoded(&answer)),
        without_time(&expected),
        "{what}"
    );
    let sent = rig.fake().last_ended(1).await;
    if !case.stripped {
        assert_eq!(answer.body.len() as u64, sent.bytes_out, "{what}");
    }
    let id = answer.header("x-request-id").unwrap();
    let events = crate::support::wait::eventually(crate::support::wait::PATIENCE, || async {
        let newest = rig.admin().usage_logs(key).await.into_iter().next();
        crate::support::wait::that(newest, |event| {
            event
                .as_ref()
                .is_some_and(|event| event["request_id"] == id)
        })
    });
    let event = events.await.unwrap();
    check_event(&event, case, &sent, [3, 2])
}

#[tokio::test]
async fn every_endpoint_is_metered_to_the_token_in_every_coding() {
    let rig = Rig::start().await;
    let body = json!({"name": "metered", "token_limit": 1_000_000, "usd_limit": 100,
                      "rate_limit_tier": "unlimited"});
    let key = rig.admin().create(body).await;
    let mut wire = rig.wire().await;
    let (mut requests, mut tokens, mut cost) = (0, 0, 0);
    for case in &cases() {
        for coding in CODINGS {
            let coding = if coding == "identity" {
                String::new()
            } else {
                format!(",{coding}")
            };
            // The older completions know no reasoning.
            let thinks = if case.path == "/v1/completions" { 0 } else { 4 };
            let wish = format!("tokens=17,cached=3,cache-write=2,reasoning={thinks}{coding}");
            let (used, nano) = metered(&rig, &mut wire, &key, case, &wish).await;
            requests += 1;
            tokens += used;
            cost += nano;
        }
    }
    let shown = rig.admin().show(&key).await;
    assert_eq!(shown["token_used"], json!(tokens));
    assert_eq!(shown["request_count"], json!(requests));
    assert_eq!(
        (shown["usd_used"].as_f64().unwrap() * 1e9).round() as i64,
        cost
    );
    let quota = rig.request(reqwest::Method::GET, "/api/usage/quota", &key.secret);
    let quota: Value = quota.send().await.unwrap().json().await.unwrap();
    assert_eq!(quota["token_used"], json!(tokens));
    assert_eq!(quota["token_remaining"], json!(1_000_000 - tokens));
    rig.admin().settled().await;
    let books = rig.end().await;
    assert_eq!(
        books.number("SELECT sum(tokens_used) FROM counters"),
        tokens
    );
    assert_eq!(
        books.number("SELECT sum(nano_usd_used) FROM counters"),
        cost
    );
    assert_eq!(books.number("SELECT count(*) FROM usage_events"), requests);
}

#[tokio::test]
async fn what_generates_nothing_costs_a_request_and_no_tokens() {
    let rig = Rig::start().await;
    let key = rig.admin().key(1_000_000).await;
    let count =
        json!({"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "hi"}]});
    let counted = rig
        .post("/v1/messages/count_tokens", &key.secret, &count)
        .await;
    assert_eq!(counted.status(), 200);
    let speech = json!({"model": "tts-1", "input": "hello", "voice": "alloy"});
    let sound = rig.post("/v1/audio/speech", &key.secret, &speech).await;
    assert_eq!(sound.status(), 200);
    assert_eq!(sound.bytes().await.unwrap().len(), 10 + 500);
    let logs = rig.admin().usage_logs_when(&key, 2).await;
    assert_eq!(logs[1]["total_tokens"], 0);
    assert_eq!(rig.admin().show(&key).await["request_count"], 2);
}

#[tokio::test]
async fn the_clients_bytes_come_chunk_for_chunk() {
    let rig = Rig::start().await;
    let key = rig.admin().key(0).await;
    let mut body = chat_stream("gpt-4o");
    body["stream_options"] = json!({"include_usage": true});
    // Far enough apart that each word is an HTTP chunk of its own.
    let headers = [
        ("authorization", format!("Bearer {}", key.secret)),
        ("x-fake", "tokens=10,interval=30ms".to_owned()),
    ];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let mut wire = rig.wire().await;
    wire.post(
        "/v1/chat/completions",
        &headers,
        body.to_string().as_bytes(),
    )
    .await;
    let answer = wire.answer().await;
    let text = answer.text();
    let mut at = 0;
    for size in &answer.chunks {
        at += size;
        assert!(
            text[..at].ends_with("\n\n"),
            "a chunk ends inside an event: {:?}",
            &text[..at]
        );
    }
    assert!(answer.chunks.len() >= 8, "{:?}", answer.chunks);
    assert!(text.ends_with("data: [DONE]\n\n"));
    assert!(text.contains(r#""choices":[]"#));
}
