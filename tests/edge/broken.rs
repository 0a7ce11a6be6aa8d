//! RELIABILITY 14: upstreams that break off or lie. The client sees an error where the upstream broke,
//! never a clean end; the books hold an estimate that says so, or a cap that says so.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use serde_json::{Value, json};

use crate::support::admin::Key;
use crate::support::fake::Record;
use crate::support::rig::{CHAT, Rig, chat, chat_stream};
use crate::support::wire::Answer;

const MESSAGES: &str = "/v1/messages";

struct Books {
    answer: Answer,
    sent: Record,
    event: Value,
}

/// One request over HTTP/1.1, what the fake really sent, and what was booked.
async fn ask(rig: &Rig, key: &Key, path: &str, body: &Value, wish: &str) -> Books {
    rig.fake().forget().await;
    let before = rig.admin().usage_logs(key).await.len();
    let bearer = format!("Bearer {}", key.secret);
    let headers = [("authorization", bearer.as_str()), ("x-fake", wish)];
    let mut wire = rig.wire().await;
    wire.post(path, &headers, body.to_string().as_bytes()).await;
    let answer = wire.answer().await;
    let event = rig.admin().usage_logs_when(key, before + 1).await.remove(0);
    rig.admin().settled().await;
    // Its answer is over: nothing moves any more in the ledger.
    let sent = rig.fake().ledger().await.records.remove(0);
    Books {
        answer,
        sent,
        event,
    }
}

fn number(event: &Value, name: &str) -> i64 {
    event[name].as_i64().unwrap()
}

fn claude(stream: bool) -> Value {
    json!({"model": "claude-sonnet-4-5", "max_tokens": 300, "stream": stream,
           "messages": [{"role": "user", "content": "hello there"}]})
}

/// The estimate for `sent` tokens: by the tokenizer for GPT models, by bytes for all others.
fn assert_estimates(event: &Value, sent: &Record) {
    let (theirs, ours) = (
        sent.output_tokens as i64,
        number(event, "completion_tokens"),
    );
    let by_bytes = event["pool"] != "openai";
    let most = if by_bytes {
        theirs * 3 / 2
    } else {
        theirs + theirs / 20
    };
    assert!(
        ours >= theirs - 3 && ours <= most + 3,
        "sent {theirs}: {event:#}"
    );
    assert_eq!(event["estimated"], true, "{event:#}");
}

#[tokio::test]
async fn a_broken_stream_is_no_clean_end_and_what_came_is_charged() {
    let rig = Rig::start().await;
    let key = rig.admin().key(1_000_000).await;
    for wish in [
        "tokens=200,truncate-after=100",
        "tokens=200,reset-after=100",
    ] {
        for (path, body) in [(CHAT, chat_stream("gpt-4o")), (MESSAGES, claude(true))] {
            let Books {
                answer,
                sent,
                event,
            } = ask(&rig, &key, path, &body, wish).await;
            assert_eq!(
                (answer.status, answer.is_whole),
                (200, false),
                "{path} {wish}"
            );
            assert_eq!(sent.output_tokens, 100);
            match wish.contains("reset") {
                false => assert_estimates(&event, &sent),
                // A reset may overtake what was sent before it.
                true => assert!(number(&event, "completion_tokens") <= 153, "{event:#}"),
            }
            assert_eq!(event["reason"], "upstream_broke", "{event:#}");
            assert_eq!(event["client_disconnected"], false, "{event:#}");
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn a_broken_stream_is_no_clean_end_over_http2_either() {
    let rig = Rig::start().await;
    let key = rig.admin().key(1_000_000).await;
    for wish in ["truncate-after=5", "reset-after=5"] {
        let request = rig.h2().post(format!("{}{CHAT}", rig.url()));
        let request = request.bearer_auth(&key.secret).header("x-fake", wish);
        let answer = request.json(&chat_stream("gpt-4o")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.bytes().await.is_err(), "{wish}");
    }
    rig.admin().usage_logs_when(&key, 2).await;
    rig.end().await;
}

#[tokio::test]
async fn a_plain_answer_cut_short_is_no_clean_end() {
    let rig = Rig::start().await;
    let key = rig.admin().key(1_000_000).await;
    for wish in ["truncate-after=300", "reset-after=300"] {
        let Books { answer, event, .. } = ask(&rig, &key, CHAT, &chat("gpt-4o"), wish).await;
        assert_eq!((answer.status, answer.is_whole), (200, false), "{wish}");
        assert_eq!(event["estimated"], true, "{event:#}");
        assert!(number(&event, "completion_tokens") > 0, "{event:#}");
        assert!(number(&event, "prompt_tokens") > 0, "{event:#}");
    }
    // All of the answer came, and less than its length promised: its usage is known all the same.
    let Books {
        answer,
        sent,
        event,
    } = ask(&rig, &key, CHAT, &chat("gpt-4o"), "wrong-length").await;
    assert_eq!((answer.status, answer.is_whole), (200, false));
    assert_eq!(
        number(&event, "completion_tokens") as u64,
        sent.output_tokens,
        "{event:#}"
    );
    assert_eq!(event["estimated"], false, "{event:#}");
    rig.end().await;
}

#[tokio::test]
async fn what_fails_before_its_first_byte_costs_nothing() {
    let rig = Rig::start().await;
    let key = rig.admin().key(1_000_000).await;
    for (wish, status) in [("drop", 502), ("status=500", 500), ("status=404", 404)] {
        for body in [chat("gpt-4o"), chat_stream("gpt-4o")] {
            let Books { answer, event, .. } = ask(&rig, &key, CHAT, &body, wish).await;
            assert_eq!((answer.status, answer.is_whole), (status, true), "{wish}");
            assert_eq!(number(&event, "total_tokens"), 0, "{event:#}");
            assert_eq!(event["is_error"], true, "{event:#}");
        }
    }
    let Books { answer, event, .. } =
        ask(&rig, &key, CHAT, &chat("gpt-4o"), "truncate-after=0").await;
    assert!(
        !answer.is_whole || answer.status == 502,
        "{}",
        answer.status
    );
    assert_eq!(number(&event, "total_tokens"), 0, "{event:#}");
    let shown = rig.admin().show(&key).await;
    assert_eq!(
        (&shown["token_used"], &shown["request_count"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(shown["error_count"], 7);
    rig.end().await;
}

#[tokio::test]
async fn no_usage_or_nonsense_is_estimated() {
    let rig = Rig::start().await;
    let key = rig.admin().key(10_000_000).await;
    for usage in ["none", "null", "negative"] {
        let wish = format!("tokens=100,usage={usage}");
        let asked = [
            (CHAT, chat("gpt-4o")),
            (CHAT, chat_stream("gpt-4o")),
            (MESSAGES, claude(false)),
            (MESSAGES, claude(true)),
        ];
        for (path, body) in asked {
            let Books {
                answer,
                sent,
                event,
            } = ask(&rig, &key, path, &body, &wish).await;
            assert_eq!(
                (answer.status, answer.is_whole),
                (200, true),
                "{path} {wish}"
            );
            assert_estimates(&event, &sent);
            let input = number(&event, "prompt_tokens") as u64;
            assert!(
                input >= sent.input_tokens && input <= sent.input_tokens + 20,
                "{event:#}"
            );
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn repeated_reports_are_not_added_up() {
    let rig = Rig::start().await;
    let key = rig.admin().key(10_000_000).await;
    for usage in ["twice", "every", "middle"] {
        let wish = format!("tokens=100,usage={usage}");
        for (path, body) in [(CHAT, chat_stream("gpt-4o")), (MESSAGES, claude(true))] {
            let Books {
                answer,
                sent,
                event,
            } = ask(&rig, &key, path, &body, &wish).await;
            assert_eq!(
                (answer.status, answer.is_whole),
                (200, true),
                "{path} {wish}"
            );
            let ours = number(&event, "completion_tokens");
            match usage {
                // Half of the answer came behind the only report.
                "middle" => assert!((95..=150).contains(&ours), "{path}: {event:#}"),
                _ => assert_eq!(ours as u64, sent.output_tokens, "{path} {wish}: {event:#}"),
            }
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn an_absurd_report_is_capped_and_flagged() {
    let rig = Rig::start().await;
    let key = rig.admin().key(0).await;
    let asked = [
        (CHAT, chat("gpt-4o"), 128_000),
        (CHAT, chat_stream("gpt-4o"), 128_000),
        (MESSAGES, claude(true), 1_000_000),
        (CHAT, chat_stream("gpt-unheard-of"), 10_000_000),
    ];
    for (path, body, most) in asked {
        let Books { answer, event, .. } = ask(&rig, &key, path, &body, "usage=huge").await;
        assert_eq!((answer.status, answer.is_whole), (200, true));
        assert_eq!(number(&event, "total_tokens"), most, "{event:#}");
        assert_eq!(event["reason"], "capped", "{event:#}");
    }
    let metrics = rig.admin().metrics().await;
    assert!(
        metrics.contains(r#"quota_exchanges_flagged_total{flag="capped"} 4"#),
        "{metrics}"
    );
    rig.end().await;
}

#[tokio::test]
async fn an_error_event_inside_a_200_passes_and_what_came_is_charged() {
    let rig = Rig::start().await;
    let key = rig.admin().key(1_000_000).await;
    let wish = "tokens=200,error-event-after=100";
    for (path, body) in [(CHAT, chat_stream("gpt-4o")), (MESSAGES, claude(true))] {
        let Books {
            answer,
            sent,
            event,
        } = ask(&rig, &key, path, &body, wish).await;
        assert_eq!((answer.status, answer.is_whole), (200, true));
        assert!(answer.text().contains("as asked"), "{}", answer.text());
        assert_estimates(&event, &sent);
    }
    rig.end().await;
}
