//! Claims: a small stream chunk is metered in 150 ns or less, request facts run at 1 GB/s or more
//! over long messages, and both beat a tree built by `serde_json` many times over.
//!
//! Run with `cargo bench --bench metering`. Each case and its baseline run in turns, so that what
//! slows the machine slows both; the median of the rounds is shown.

use std::hint::black_box;
use std::io::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quota_proxy::metering::{Dialect, Endpoint, Meter, MeterSetup, read_request};
use serde_json::{Value, json};

const ROUNDS: usize = 15;
const ROUND_TIME: Duration = Duration::from_millis(60);

struct Case {
    name: &'static str,
    /// Bytes and pieces of one run.
    bytes: usize,
    pieces: usize,
    run: Box<dyn FnMut()>,
    baseline: Box<dyn FnMut()>,
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<34} {:>10} {:>10} {:>12} {:>8}",
        "case", "MB/s", "ns/piece", "tree MB/s", "ratio"
    )?;
    for mut case in cases() {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(nanos_per_run(&mut case.run));
            theirs.push(nanos_per_run(&mut case.baseline));
        }
        let (ours, theirs) = (median(ours), median(theirs));
        let speed = |nanos: f64| case.bytes as f64 * 1_000.0 / nanos;
        writeln!(
            out,
            "{:<34} {:>10.0} {:>10.0} {:>12.0} {:>7.1}x",
            case.name,
            speed(ours),
            ours / case.pieces as f64,
            speed(theirs),
            theirs / ours
        )?;
    }
    Ok(())
}

fn nanos_per_run(run: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    let mut runs = 0_u32;
    while start.elapsed() < ROUND_TIME {
        run();
        runs += 1;
    }
    start.elapsed().as_nanos() as f64 / f64::from(runs)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn cases() -> Vec<Case> {
    let chat = (0..1_000).map(chat_chunk).collect::<Vec<_>>();
    let claude = (0..1_000).map(claude_chunk).collect::<Vec<_>>();
    let responses = (0..1_000).map(responses_chunk).collect::<Vec<_>>();
    let embeddings = embeddings().into_bytes();
    vec![
        stream(
            "chat stream, an event a chunk",
            Endpoint::ChatCompletions,
            &chat,
            false,
        ),
        stream(
            "the same, usage taken out",
            Endpoint::ChatCompletions,
            &chat,
            true,
        ),
        stream(
            "chat stream, 20 events a chunk",
            Endpoint::ChatCompletions,
            &joined(&chat, 20),
            false,
        ),
        stream("messages stream", Endpoint::Messages, &claude, false),
        stream("responses stream", Endpoint::Responses, &responses, false),
        answer(
            "embeddings, 16 KiB chunks",
            Endpoint::Embeddings,
            &embeddings,
        ),
        request("request, 1 KB", &conversation(4, 200)),
        request("request, 200 KB of prose", &conversation(50, 4_000)),
        request(
            "request, 200 KB of code",
            &conversation(50, 4_000).replace("er ", "\\n\\t\\\""),
        ),
        request(
            "request, 200 KB of Chinese",
            &conversation(50, 4_000).replace("er ", "中文字符 "),
        ),
        request("request, 5 MB picture", &picture()),
    ]
}

fn meter(endpoint: Endpoint, content_type: &str, strip_usage_chunk: bool) -> Meter {
    Meter::new(MeterSetup {
        endpoint,
        dialect: Dialect::OpenAi,
        content_type,
        content_encoding: "",
        strip_usage_chunk,
    })
}

fn stream(name: &'static str, endpoint: Endpoint, events: &[String], strip: bool) -> Case {
    let chunks: Vec<Bytes> = events.iter().cloned().map(Bytes::from).collect();
    let copies = chunks.clone();
    Case {
        name,
        bytes: chunks.iter().map(Bytes::len).sum(),
        pieces: chunks.len(),
        run: Box::new(move || {
            let mut meter = meter(endpoint, "text/event-stream", strip);
            for chunk in &chunks {
                black_box(meter.push(chunk, false));
            }
            black_box(meter.produced());
        }),
        baseline: Box::new(move || {
            for chunk in &copies {
                let text = std::str::from_utf8(chunk).unwrap_or_default();
                for line in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
                    black_box(serde_json::from_slice::<Value>(line.as_bytes()).ok());
                }
            }
        }),
    }
}

fn answer(name: &'static str, endpoint: Endpoint, body: &[u8]) -> Case {
    let chunks: Vec<Bytes> = body.chunks(16 * 1024).map(Bytes::copy_from_slice).collect();
    let body = body.to_vec();
    Case {
        name,
        bytes: body.len(),
        pieces: chunks.len(),
        run: Box::new(move || {
            let mut meter = meter(endpoint, "application/json", false);
            for chunk in &chunks {
                black_box(meter.push(chunk, false));
            }
            black_box(meter.observe());
        }),
        baseline: Box::new(move || {
            black_box(serde_json::from_slice::<Value>(&body).ok());
        }),
    }
}

fn request(name: &'static str, body: &str) -> Case {
    let body = body.to_owned();
    let copy = body.clone();
    Case {
        name,
        bytes: body.len(),
        pieces: 1,
        run: Box::new(move || {
            let facts = read_request(
                Endpoint::ChatCompletions,
                "/v1/chat/completions",
                body.as_bytes(),
            );
            black_box(facts.ok());
        }),
        baseline: Box::new(move || {
            black_box(serde_json::from_slice::<Value>(copy.as_bytes()).ok());
        }),
    }
}

fn chat_chunk(n: usize) -> String {
    let word = ["Hello", " the", " quick", ",", " brown\\n", " fox"][n % 6];
    format!(
        "data: {{\"id\":\"chatcmpl-CdQwErTyUiOp\",\"object\":\"chat.completion.chunk\",\"created\":1763700000,\
         \"model\":\"gpt-4o-mini-2024-07-18\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_51db84afab\",\
         \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{word}\"}},\"logprobs\":null,\"finish_reason\":null}}],\
         \"usage\":null,\"obfuscation\":\"x7Kpqz\"}}\n\n"
    )
}

fn claude_chunk(n: usize) -> String {
    let word = ["Hello", " the", " quick", ",", " brown\\n", " fox"][n % 6];
    format!(
        "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\
         \"delta\":{{\"type\":\"text_delta\",\"text\":\"{word}\"}}}}\n\n"
    )
}

fn responses_chunk(n: usize) -> String {
    let word = ["Hello", " the", " quick", ",", " brown\\n", " fox"][n % 6];
    format!(
        "event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"sequence_number\":{n},\
         \"item_id\":\"msg_68f0a1b2c3d4e5f6\",\"output_index\":0,\"content_index\":0,\"delta\":\"{word}\",\
         \"logprobs\":[],\"obfuscation\":\"aZ09bY\"}}\n\n"
    )
}

fn joined(events: &[String], by: usize) -> Vec<String> {
    events.chunks(by).map(<[String]>::concat).collect()
}

fn embeddings() -> String {
    let vector: Vec<f64> = (0..1_536)
        .map(|n| f64::from(n) * 0.000_123_4 - 0.09)
        .collect();
    let data: Vec<Value> = (0..100)
        .map(|n| json!({"object": "embedding", "index": n, "embedding": vector}))
        .collect();
    json!({"object": "list", "data": data, "usage": {"prompt_tokens": 9, "total_tokens": 9}})
        .to_string()
}

fn conversation(messages: usize, bytes: usize) -> String {
    let text = "The river ran under the older water mill ".repeat(1 + bytes / 41);
    let text = text.get(..bytes).unwrap_or(&text);
    let messages: Vec<Value> = (0..messages)
        .map(|n| json!({"role": if n % 2 == 0 { "user" } else { "assistant" }, "content": text}))
        .collect();
    json!({"model": "gpt-4o-mini", "stream": true, "max_tokens": 500, "messages": messages})
        .to_string()
}

fn picture() -> String {
    let url = format!("data:image/png;base64,{}", "iVBORw0K".repeat(640 * 1024));
    let part = json!({"type": "image_url", "image_url": {"url": url}});
    json!({"model": "gpt-4o", "messages": [{"role": "user", "content": [part]}]}).to_string()
}
