//! The fake over real sockets.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Options, serve};

/// Long enough for any machine; only a hang waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Fake {
    url: String,
    address: std::net::SocketAddr,
    http: reqwest::Client,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn start(options: Options) -> Fake {
    let listener = TcpListener::bind(options.listen).await.unwrap();
    let address = listener.local_addr().unwrap();
    Fake {
        url: format!("http://{address}"),
        address,
        http: reqwest::Client::builder().no_proxy().build().unwrap(),
        server: tokio::spawn(serve(listener, options)),
    }
}

impl Fake {
    async fn post(&self, path: &str, wish: &str, body: &Value) -> reqwest::Response {
        let request = self.http.post(format!("{}{path}", self.url)).json(body);
        request.header("x-fake", wish).send().await.unwrap()
    }

    async fn ledger(&self) -> Value {
        let answer = self.http.get(format!("{}/_fake/ledger", self.url));
        answer.send().await.unwrap().json().await.unwrap()
    }

    /// The ledger, once `test` holds for its last record.
    async fn last_record(&self, test: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let ledger = self.ledger().await;
            let last = ledger["records"].as_array().unwrap().last().cloned();
            if let Some(last) = last.filter(|r| test(r)) {
                return last;
            }
            assert!(tokio::time::Instant::now() < deadline, "{ledger:#}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn chat(more: &Value) -> Value {
    let mut body =
        json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "12345678"}]});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// The data of every event of a stream, `[DONE]` as a text.
fn events(text: &str) -> Vec<Value> {
    text.split("\n\n")
        .flat_map(|event| event.lines())
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap_or_else(|_| json!(data)))
        .collect()
}

#[tokio::test]
async fn a_plain_answer_reports_what_it_sent() {
    let fake = start(Options::default()).await;
    let body = chat(&json!({"n": 2}));
    let answer = fake
        .post("/v1/chat/completions", "tokens=7,reasoning=3", &body)
        .await;
    assert_eq!(answer.headers()["content-type"], "application/json");
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["choices"].as_array().unwrap().len(), 2);
    let text = answer["choices"][1]["message"]["content"].as_str().unwrap();
    assert_eq!(text.split_whitespace().count(), 7);
    let usage = &answer["usage"];
    assert_eq!(
        (&usage["prompt_tokens"], &usage["completion_tokens"]),
        (&json!(2), &json!(17))
    );
    let record = fake.last_record(|r| r["finished"] == true).await;
    assert_eq!(record["output_tokens"], 17);
    assert_eq!(record["input_tokens"], 2);
    assert_eq!(record["body_bytes"], body.to_string().len());
    assert_eq!(record["status"], 200);
}

#[tokio::test]
async fn usage_comes_with_a_stream_only_when_asked_for() {
    let fake = start(Options::default()).await;
    for include in [true, false] {
        let body = chat(&json!({"stream": true, "max_tokens": 4,
                                "stream_options": {"include_usage": include}}));
        let text = fake.post("/v1/chat/completions", "", &body).await;
        let events = events(&text.text().await.unwrap());
        assert_eq!(events.last().unwrap(), "[DONE]");
        let with_usage: Vec<&Value> = events.iter().filter(|e| e["usage"].is_object()).collect();
        let with_null = events.iter().filter(|e| e.get("usage").is_some()).count();
        assert_eq!(with_usage.len(), usize::from(include));
        // A role, four words, an end and the report.
        assert_eq!(with_null, if include { 7 } else { 0 });
        if include {
            assert_eq!(with_usage[0]["choices"], json!([]));
            assert_eq!(with_usage[0]["usage"]["completion_tokens"], 4);
        }
        let finish = events
            .iter()
            .find_map(|e| e["choices"][0]["finish_reason"].as_str());
        assert_eq!(finish, Some("length"));
    }
    assert_eq!(fake.ledger().await["tokens_out"], 8);
}

#[tokio::test]
async fn anthropic_streams_in_its_own_order() {
    let fake = start(Options::default()).await;
    let body = json!({"model": "claude-sonnet-4-5", "max_tokens": 2, "stream": true,
                      "messages": [{"role": "user", "content": "hello"}]});
    let answer = fake
        .post("/v1/messages", "cached=5,cache-write=6", &body)
        .await;
    assert!(answer.headers().contains_key("request-id"));
    let events = events(&answer.text().await.unwrap());
    let kinds: Vec<&str> = events.iter().filter_map(|e| e["type"].as_str()).collect();
    let expected = "message_start content_block_start ping content_block_delta \
                    content_block_delta content_block_stop message_delta message_stop";
    assert_eq!(kinds.join(" "), expected);
    let first = &events[0]["message"]["usage"];
    assert_eq!(
        (&first["input_tokens"], &first["output_tokens"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(first["cache_read_input_tokens"], 5);
    assert_eq!(first["cache_creation_input_tokens"], 6);
    assert_eq!(events[6]["usage"]["output_tokens"], 2);
    assert_eq!(events[6]["delta"]["stop_reason"], "max_tokens");
}

#[tokio::test]
async fn responses_number_their_events() {
    let fake = start(Options::default()).await;
    let body = json!({"model": "gpt-4o", "input": "hello", "stream": true});
    let answer = fake.post("/v1/responses", "tokens=3", &body).await;
    let events = events(&answer.text().await.unwrap());
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.completed");
    assert_eq!(last["response"]["usage"]["output_tokens"], 3);
}

#[tokio::test]
async fn gemini_streams_as_events_or_as_one_array() {
    let fake = start(Options::default()).await;
    let body = json!({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]});
    let path = "/v1beta/models/gemini-2.5-flash:streamGenerateContent";
    let array = fake.post(path, "tokens=3", &body).await.text().await;
    let array: Value = serde_json::from_str(&array.unwrap()).unwrap();
    let sse = fake
        .post(&format!("{path}?alt=sse"), "tokens=3", &body)
        .await;
    let events = events(&sse.text().await.unwrap().replace("\r\n", "\n"));
    for chunks in [array.as_array().unwrap(), &events] {
        assert_eq!(chunks.len(), 3);
        assert_eq!(chunks[0]["usageMetadata"]["candidatesTokenCount"], 1);
        assert_eq!(chunks[2]["usageMetadata"]["candidatesTokenCount"], 3);
        assert_eq!(chunks[2]["candidates"][0]["finishReason"], "STOP");
    }
}

#[tokio::test]
async fn codings_decode_to_the_same_bytes() {
    let fake = start(Options::default()).await;
    for stream in [false, true] {
        let mut texts = Vec::new();
        for coding in ["", "gzip", "br", "zstd"] {
            let body = chat(&json!({"stream": stream}));
            let answer = fake.post("/v1/chat/completions", coding, &body).await;
            let text = answer.text().await.unwrap();
            // The number of the request is a part of every id.
            let text = text.split("-fake").map(|part| part.get(12..).unwrap_or(""));
            texts.push(text.collect::<String>());
        }
        assert!(texts[0].len() > 50);
        let created = |t: &str| t.split("\"created\":").count();
        assert!(texts.iter().all(|t| created(t) == created(&texts[0])));
        assert!(texts.iter().all(|t| t.len() == texts[0].len()), "{texts:?}");
    }
}

#[tokio::test]
async fn a_truncated_or_reset_answer_ends_as_it_should() {
    let fake = start(Options::default()).await;
    for (wish, kind) in [
        ("truncate-after=3", None),
        ("reset-after=3", Some(std::io::ErrorKind::ConnectionReset)),
    ] {
        let body = chat(&json!({"stream": true})).to_string();
        let mut stream = TcpStream::connect(fake.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: f\r\nx-fake: {wish}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut got = Vec::new();
        let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut got)).await;
        let text = String::from_utf8_lossy(&got);
        // An empty chunk with the role, then the words.
        assert_eq!(text.matches("\"content\":\"").count(), 4, "{text}");
        assert!(!text.contains("[DONE]"));
        assert_eq!(end.unwrap().err().map(|e| e.kind()), kind, "{wish}");
        let record = fake.last_record(|r| r["output_tokens"] == 3).await;
        assert_eq!(record["finished"], false);
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_and_only_what_went_out_is_counted() {
    let options = Options {
        chunk_interval: Duration::from_millis(5),
        tokens: 1_000_000,
        ..Options::default()
    };
    let fake = start(options).await;
    let mut answer = fake
        .post("/v1/chat/completions", "", &chat(&json!({"stream": true})))
        .await;
    for _ in 0..5 {
        answer.chunk().await.unwrap().unwrap();
    }
    drop(answer);
    let record = fake.last_record(|r| r["client_gone"] == true).await;
    assert_eq!(record["finished"], false);
    let tokens = record["output_tokens"].as_u64().unwrap();
    assert!((1..1_000_000).contains(&tokens), "{tokens}");

    let slow = fake.http.post(format!("{}/v1/chat/completions", fake.url));
    let slow = slow.header("x-fake", "latency=1h").json(&chat(&json!({})));
    let left = slow.timeout(Duration::from_millis(50)).send().await;
    assert!(left.unwrap_err().is_timeout());
    let record = fake
        .last_record(|r| r["client_gone"] == true && r["id"] == 2)
        .await;
    assert_eq!(record["output_tokens"], 0);
}

#[tokio::test]
async fn errors_look_like_the_providers() {
    let options = Options {
        require_credential: Some("right".into()),
        ..Options::default()
    };
    let fake = start(options).await;
    let refused = fake.post("/v1/messages", "", &json!({})).await;
    assert_eq!(refused.status(), 401);
    let refused: Value = refused.json().await.unwrap();
    assert_eq!(refused["error"]["type"], "authentication_error");
    let record = fake.last_record(|r| r["status"] == 401).await;
    assert_eq!(record["credential"], Value::Null);

    let fake = start(Options::default()).await;
    let body = chat(&json!({"model": "gpt-4o-fake-insufficient-quota"}));
    let answer = fake
        .post("/v1/chat/completions", "retry-after=2", &body)
        .await;
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "2");
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["error"]["code"], "insufficient_quota");
    assert_eq!(fake.post("/v1/nothing", "", &body).await.status(), 404);
    assert_eq!(
        fake.post("/v1/chat/completions", "tokns=2", &body)
            .await
            .status(),
        400
    );
    let dropped = tokio::time::timeout(PATIENCE, async {
        let request = fake.http.post(format!("{}/v1/chat/completions", fake.url));
        request.header("x-fake", "drop").json(&body).send().await
    });
    assert!(dropped.await.unwrap().is_err());
}

#[tokio::test]
async fn h2c_is_served_on_the_same_port() {
    let fake = start(Options::default()).await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge();
    let client = client.build().unwrap();
    let request = client.post(format!("{}/v1/chat/completions", fake.url));
    let answer = request
        .json(&chat(&json!({"stream": true})))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert!(answer.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    let record = fake.last_record(|r| r["finished"] == true).await;
    assert_eq!(record["output_tokens"], 20);
}

#[tokio::test]
async fn every_usage_mode_says_what_it_promises() {
    let fake = start(Options::default()).await;
    let body = chat(&json!({"stream": true, "stream_options": {"include_usage": true}}));
    for (mode, reports) in [
        ("true", 1),
        ("twice", 2),
        ("null", 0),
        ("none", 0),
        ("negative", 1),
        ("huge", 1),
        ("middle", 1),
        ("every", 21),
    ] {
        let wish = format!("usage={mode}");
        let text = fake
            .post("/v1/chat/completions", &wish, &body)
            .await
            .text()
            .await;
        let events = events(&text.unwrap());
        let found = events.iter().filter(|e| e["usage"].is_object());
        let counts: Vec<i64> = found
            .map(|e| e["usage"]["completion_tokens"].as_i64().unwrap())
            .collect();
        assert_eq!(counts.len(), reports, "{mode}");
        match mode {
            "negative" => assert!(counts[0] < 0),
            "huge" => assert!(counts[0] > 1_000_000_000),
            "middle" => assert_eq!(counts[0], 11),
            "every" => assert_eq!(counts[..3], [1, 2, 3]),
            _ => assert!(counts.iter().all(|&n| n == 20)),
        }
    }
}
