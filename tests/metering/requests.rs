//! Request facts and splices against a tree-building reader, and RELIABILITY test 7.

use bytes::Bytes;
use proptest::prelude::*;
use quota_proxy::metering::{
    Edits, Endpoint, RequestFacts, estimate_input, include_usage_missing, read_request, splice,
};
use serde_json::{Map, Value, json};

fn chat(body: &str) -> RequestFacts {
    read(Endpoint::ChatCompletions, body)
}

fn read(endpoint: Endpoint, body: &str) -> RequestFacts {
    read_request(endpoint, "/v1/x", body.as_bytes()).unwrap_or_else(|fault| panic!("{fault:?}"))
}

fn gemini(body: &str) -> RequestFacts {
    let path = "/v1beta/models/gemini-2.5-pro:generateContent";
    read_request(Endpoint::GeminiGenerate, path, body.as_bytes()).unwrap()
}

/// The member at fault and the message.
fn fault(endpoint: Endpoint, body: &[u8]) -> (Option<String>, String) {
    let fault = read_request(endpoint, "/v1/x", body).unwrap_err();
    (fault.param, fault.message)
}

#[test]
fn members_are_found_wherever_they_stand() {
    let facts = chat(
        r#" {"messages":[{"role":"user","content":"{\"model\":\"no\",\"max_tokens\":1}"}],
            "tools":[{"function":{"parameters":{"model":"no","stream":true}}}],
            "metadata":{"user_id":"u-1","model":"no"}, "n" : 3,
            "mo\u0064el":"gpt-\u0034o","str\u0065am":true,"max_tokens":null,"max_completion_tokens":50}
        "#,
    );
    assert_eq!(facts.model.as_deref(), Some("gpt-4o"));
    assert!(facts.stream);
    assert_eq!((facts.output_bound, facts.choices), (Some(150), 3));
    assert_eq!(facts.end_user.as_deref(), Some("u-1"));
    let named = chat(r#"{"metadata":{"user_id":"a"},"user":"b","model":"m"}"#);
    assert_eq!(named.end_user.as_deref(), Some("b"));
    let long = format!(r#"{{"user":"{}","model":"m"}}"#, "é".repeat(1_000));
    assert_eq!(chat(&long).end_user.unwrap().chars().count(), 256);
}

#[test]
fn the_largest_declared_bound_times_the_answers_is_held() {
    let bound = |body| chat(body).output_bound;
    assert_eq!(bound(r#"{"model":"m"}"#), None);
    assert_eq!(
        bound(r#"{"model":"m","max_tokens":1,"max_completion_tokens":10000}"#),
        Some(10_000)
    );
    assert_eq!(
        bound(r#"{"model":"m","max_tokens":9,"max_tokens":1}"#),
        Some(9)
    );
    assert_eq!(bound(r#"{"model":"m","max_tokens":10,"n":50}"#), Some(500));
    assert_eq!(
        bound(r#"{"model":"m","max_tokens":10,"n":2,"n":7}"#),
        Some(70)
    );
    assert_eq!(
        bound(r#"{"model":"m","max_tokens":9007199254740992,"n":9007199254740992}"#),
        Some(1 << 53)
    );
    // A bound that chat does not obey bounds nothing, but is held where a real one stands beside it.
    assert_eq!(bound(r#"{"model":"m","max_output_tokens":1}"#), None);
    assert_eq!(
        bound(r#"{"model":"m","max_output_tokens":20,"max_tokens":1}"#),
        Some(20)
    );
    let prompts = r#"{"model":"m","prompt":["a","b",["c"]],"max_tokens":4,"n":2,"best_of":3}"#;
    assert_eq!(read(Endpoint::Completions, prompts).output_bound, Some(36));
    let ids = r#"{"model":"m","prompt":[1,2,3],"max_tokens":0}"#;
    assert_eq!(read(Endpoint::Completions, ids).output_bound, Some(0));
    let facts = gemini(
        r#"{"generation_config":{"max_output_tokens":5,"candidateCount":2},"generationConfig":{"maxOutputTokens":3}}"#,
    );
    assert_eq!(facts.output_bound, Some(10));
}

#[test]
fn nonsense_is_refused_by_name_and_value() {
    for value in [
        "-1",
        "0",
        "1.5",
        "1e3",
        "\"100\"",
        "true",
        "[]",
        "{}",
        "9007199254740993",
        "1e999",
    ] {
        for name in [
            "max_tokens",
            "max_completion_tokens",
            "max_output_tokens",
            "n",
        ] {
            let body = format!(r#"{{"model":"m","{name}":{value}}}"#);
            let (param, message) = fault(Endpoint::ChatCompletions, body.as_bytes());
            assert_eq!(param.as_deref(), Some(name), "{body}");
            assert!(
                message.contains(name) && message.contains(value),
                "{message}"
            );
            assert!(message.contains("whole number from 1 to"), "{message}");
        }
    }
    let cases: [(&str, &str); 12] = [
        (r#"{}"#, "model"),
        (r#"{"model":null}"#, "model"),
        (r#"{"model":""}"#, "model"),
        (r#"{"model":7}"#, "model"),
        (r#"{"model":["m"]}"#, "model"),
        (r#"{"model":"a","model":"a"}"#, "model"),
        (r#"{"model":"a","mode\u006c":"b"}"#, "model"),
        (r#"{"model":"a","Model":"b"}"#, "model"),
        (r#"{"model":"m","stream":"true"}"#, "stream"),
        (r#"{"model":"m","stream":true,"stream":false}"#, "stream"),
        (r#"{"model":"m","stream_options":[]}"#, "stream_options"),
        (
            r#"{"model":"m","stream_options":{"include_usage":0}}"#,
            "stream_options.include_usage",
        ),
    ];
    for (body, param) in cases {
        let (at, _) = fault(Endpoint::ChatCompletions, body.as_bytes());
        assert_eq!(at.as_deref(), Some(param), "{body}");
    }
}

#[test]
fn what_is_no_json_is_refused_with_its_offset() {
    let cases: [(&[u8], &str); 6] = [
        (b"", "byte 0"),
        (b"{\"model\":\"m\"", "byte 12"),
        (b"{\"model\":\"m\"} x", "byte 14"),
        (b"{\"model\":\"m\xff\"}", "UTF-8 at byte 11"),
        (b"{\"model\":\"m\x01\"}", "byte 11"),
        (b"[1]", "must be a JSON object"),
    ];
    for (body, expected) in cases {
        let (_, message) = fault(Endpoint::ChatCompletions, body);
        assert!(message.contains(expected), "{message}");
    }
    // What may be no JSON is left alone.
    let upload = read_request(Endpoint::Audio, "/v1/audio/transcriptions", b"--x\r\n").unwrap();
    assert_eq!(upload.model, None);
    let speech = br#"{"model":"tts-1","input":"Hello"}"#;
    let speech = read_request(Endpoint::Audio, "/v1/audio/speech", speech).unwrap();
    assert_eq!(speech.model.as_deref(), Some("tts-1"));
}

#[test]
fn a_path_that_names_the_model_decides() {
    let path = "/openai/deployments/gpt-4o/chat/completions";
    let read = |body: &[u8]| read_request(Endpoint::ChatCompletions, path, body);
    assert_eq!(read(b"{}").unwrap().model.as_deref(), Some("gpt-4o"));
    assert_eq!(
        read(br#"{"model":"gpt-4o"}"#).unwrap().model.as_deref(),
        Some("gpt-4o")
    );
    assert_eq!(
        read(br#"{"model":"o3"}"#).unwrap_err().param.as_deref(),
        Some("model")
    );
    let facts = read_request(
        Endpoint::GeminiGenerate,
        "/v1beta/models/g:streamGenerateContent",
        b"{}",
    );
    assert!(facts.unwrap().stream);
}

#[test]
fn input_is_estimated_by_what_the_model_reads() {
    let text = "a".repeat(4_000);
    let plain = chat(&format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]}}"#
    ));
    assert_eq!(plain.input_tokens, 1_001 + 3);
    // Escapes count as what they decode to.
    let escaped = "\\u4e2d\\n".repeat(1_000);
    let escaped = chat(&format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":"{escaped}"}}]}}"#
    ));
    assert_eq!(escaped.input_tokens, 1_001 + 3);
    let ids = read(
        Endpoint::Embeddings,
        r#"{"model":"m","input":[[1,2,3],[40000]]}"#,
    );
    assert_eq!(ids.input_tokens, 4);
    let base64 = "iVBOR/+9".repeat(100_000);
    for media in [
        format!(r#"{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{base64}"}}}}"#),
        format!(
            r#"{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{base64}"}}}}"#
        ),
        format!(r#"{{"type":"input_audio","input_audio":{{"data":"{base64}","format":"wav"}}}}"#),
        r#"{"type":"image_url","image_url":{"url":"https://example.com/cat.png"}}"#.to_owned(),
    ] {
        let facts = chat(&format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":[{media}]}}]}}"#
        ));
        assert!(
            (1_500..1_530).contains(&facts.input_tokens),
            "{}",
            facts.input_tokens
        );
    }
    // The same bytes in a prompt are text.
    let prompt = chat(&format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":"{base64}"}}]}}"#
    ));
    assert!(prompt.input_tokens > 200_000);
    let tools = chat(
        r#"{"model":"m","tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"a_long_parameter_name":{}}}}}]}"#,
    );
    assert!(tools.input_tokens >= 15, "{}", tools.input_tokens);
}

#[test]
fn a_tokenizer_estimates_better_where_it_is_known() {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(20_000);
    let body =
        json!({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}).to_string();
    let facts = chat(&body);
    let better = estimate_input(Some("gpt-4o"), &facts, body.as_bytes());
    assert!((195_000..215_000).contains(&better), "{better}");
    assert_eq!(facts.input_tokens, 225_004);
    assert_eq!(
        estimate_input(Some("claude-x"), &facts, body.as_bytes()),
        facts.input_tokens
    );
}

fn leaf() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>()
            .prop_filter("finite", |n| n.is_finite())
            .prop_map(|n| format!("{n:e}")),
        "[ -~äé中😀\\\\\"]{0,12}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just(r#""\u00e9\ud83d\ude00\/\b""#.to_owned()),
    ]
}

/// JSON text as odd as its grammar allows.
fn document() -> impl Strategy<Value = String> {
    leaf().prop_recursive(5, 40, 5, |inner| {
        let space = || "[ \n\t\r]{0,2}";
        prop_oneof![
            (prop::collection::vec(inner.clone(), 0..5), space()).prop_map(
                |(items, space)| format!("[{}{space}]", items.join(&format!("{space},")))
            ),
            (prop::collection::vec(("[a-z]{0,6}", inner), 0..5), space()).prop_map(
                |(members, space)| {
                    let members: Vec<String> = members
                        .iter()
                        .map(|(name, value)| format!("\"{name}\"{space}:{value}"))
                        .collect();
                    format!("{{{space}{}}}", members.join(","))
                }
            ),
        ]
    })
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// The members a splice may touch, in some order, with something odd around them.
fn request_members() -> impl Strategy<Value = Vec<(String, String)>> {
    let number = || {
        prop_oneof![
            Just("null".to_owned()),
            (1_i64..40).prop_map(|n| n.to_string())
        ]
    };
    let options = prop_oneof![
        Just("null".to_owned()),
        Just("{}".to_owned()),
        Just(r#"{ "include_usage" : false }"#.to_owned()),
        Just(r#"{"x":[{"include_usage":false}],"include_usage":null}"#.to_owned()),
        Just(r#"{"include_usage":true,"y":{}}"#.to_owned()),
        document().prop_map(|value| format!(r#"{{"z":{value}}}"#)),
    ];
    let member = |name: &str, value: BoxedStrategy<String>| {
        let name = name.to_owned();
        prop::option::of(value.prop_map(move |value| (name.clone(), value)))
    };
    (
        member("stream_options", options.boxed()),
        member("max_tokens", number().boxed()),
        member("max_completion_tokens", number().boxed()),
        member("n", number().boxed()),
        member("messages", document().boxed()),
        member(
            "raw",
            Just(r#"[ 1.0 , "\u0041\/" ,1e2]"#.to_owned()).boxed(),
        ),
        member("stream", any::<bool>().prop_map(|b| b.to_string()).boxed()),
    )
        .prop_map(|(a, b, c, d, e, f, g)| {
            let mut members: Vec<_> = [a, b, c, d, e, f, g].into_iter().flatten().collect();
            members.push(("model".to_owned(), r#""m\u006f""#.to_owned()));
            members
        })
        .prop_shuffle()
}

fn expected_tree(before: &Value, bound: i64, model: &str) -> Value {
    let mut tree: Map<String, Value> = before.as_object().unwrap().clone();
    let options = tree.entry("stream_options").or_insert(Value::Null);
    if options.is_null() {
        *options = json!({});
    }
    options["include_usage"] = json!(true);
    let mut declared = false;
    for name in ["max_tokens", "max_completion_tokens"] {
        if let Some(value) = tree.get_mut(name)
            && let Some(number) = value.as_i64()
        {
            declared = true;
            *value = json!(number.min(bound));
        }
    }
    if !declared {
        tree.insert("max_completion_tokens".to_owned(), json!(bound));
    }
    tree.insert("model".to_owned(), json!(model));
    Value::Object(tree)
}

proptest! {
    #[test]
    fn exactly_json_is_accepted(text in document(), at in any::<prop::sample::Index>(), with in "[{}\\[\\]\",:\\\\a0-9.\\-e \u{1}]{0,2}") {
        let body = format!("{{\"body\":{text}}}");
        prop_assert!(read_request(Endpoint::Other, "/", body.as_bytes()).is_ok(), "{body}");
        let mut broken: Vec<char> = body.chars().collect();
        let at = at.index(broken.len());
        broken.splice(at..at + 1, with.chars());
        let broken: String = broken.into_iter().collect();
        if broken.trim_start().starts_with('{') {
            let accepted = read_request(Endpoint::Other, "/", broken.as_bytes()).is_ok();
            prop_assert_eq!(accepted, is_json(&broken), "{}", broken);
        }
    }

    #[test]
    fn a_splice_changes_what_it_should_and_not_a_byte_else(
        members in request_members(), bound in 1_i64..40, space in "[ \n\t]{0,3}",
    ) {
        let text: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\"{space}:{space}{value}")).collect();
        let body = format!("{space}{{{space}{}{space}}}{space}", text.join(","));
        let facts = chat(&body);
        let edits = Edits { include_usage: true, output_bound: Some(("max_completion_tokens", bound)), model: Some("up\"stream") };
        let after = splice(Bytes::from(body.clone()), &facts, &edits);
        let after = String::from_utf8(after.to_vec()).unwrap();
        let before: Value = serde_json::from_str(&body).unwrap();
        let tree: Value = serde_json::from_str(&after).unwrap();
        prop_assert_eq!(&tree, &expected_tree(&before, bound, "up\"stream"), "{}", after);
        for (name, value) in &members {
            if matches!(name.as_str(), "messages" | "raw" | "stream" | "n") {
                let member = format!("\"{name}\"{space}:{space}{value}");
                prop_assert!(after.contains(&member), "{}", after);
            }
        }
        let again = chat(&after);
        prop_assert!(!include_usage_missing(&again));
        prop_assert!(again.output_bound.unwrap() <= bound * again.choices);
    }
}
