//! Bodies that are streamed and not held, and the splices into those that are.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};

use crate::support::rig::{CREDENTIAL, Rig, chat};
use crate::support::upstream::{Manner, Upstream, json_answer, refusing, sha256};
use crate::support::wire::{Answer, Wire};

const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";
const FORM: &str = "multipart/form-data; boundary=XboundaryX";

/// A form with a file of `size` bytes, and the model before or behind it.
fn form(size: usize, model_first: bool) -> Vec<u8> {
    let model =
        "--XboundaryX\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n";
    let file = "--XboundaryX\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\n\
                content-type: audio/mpeg\r\n\r\n";
    let sound: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
    let mut body = Vec::new();
    if model_first {
        body.extend_from_slice(model.as_bytes());
    }
    body.extend_from_slice(file.as_bytes());
    body.extend_from_slice(&sound);
    body.extend_from_slice(b"\r\n");
    if !model_first {
        body.extend_from_slice(model.as_bytes());
    }
    body.extend_from_slice(b"--XboundaryX--\r\n");
    body
}

/// The ways a body may come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Length,
    Chunked,
    Expect,
    H2,
}

const WAYS: [Way; 4] = [Way::Length, Way::Chunked, Way::Expect, Way::H2];

async fn send(rig: &Rig, key: &str, path: &str, kind: &str, body: &[u8], way: Way) -> Answer {
    let bearer = format!("Bearer {key}");
    let mut headers = vec![("authorization", bearer.as_str()), ("content-type", kind)];
    let mut wire = rig.wire().await;
    match way {
        Way::Length => wire.post(path, &headers, body).await,
        Way::Chunked => {
            let parts: Vec<&[u8]> = body.chunks(7_919).collect();
            wire.post_chunked(path, &headers, &parts, false).await;
        }
        Way::Expect => {
            headers.push(("expect", "100-continue"));
            wire.post_head(path, &headers, body.len()).await;
            assert_eq!(wire.head().await.status, 100);
            wire.send(body).await;
        }
        Way::H2 => {
            let pieces: Vec<_> = body.chunks(9_001).map(Bytes::copy_from_slice).collect();
            let body = stream::iter(pieces.into_iter().map(Ok::<_, String>));
            let request = rig
                .h2()
                .post(format!("{}{path}", rig.url()))
                .bearer_auth(key);
            let request = request.header("content-type", kind);
            let answer = request.body(reqwest::Body::wrap_stream(body)).send();
            let answer = answer.await.unwrap();
            return Answer {
                status: answer.status().as_u16(),
                headers: Vec::new(),
                body: answer.bytes().await.unwrap().to_vec(),
                chunks: Vec::new(),
                is_whole: true,
            };
        }
    }
    wire.answer().await
}

#[tokio::test]
async fn uploads_arrive_whole_wherever_their_model_stands() {
    let rig = Rig::start().await;
    let key = rig.admin().key(0).await;
    let mut sent = 0;
    for size in [100, 60_000, 65_536, 70_000, 200_000, 3_000_000] {
        for model_first in [true, false] {
            for way in WAYS {
                let body = form(size, model_first);
                let answer = send(&rig, &key.secret, TRANSCRIPTIONS, FORM, &body, way).await;
                let what = format!("{size} {model_first} {way:?}");
                assert_eq!(answer.status, 200, "{what}: {}", answer.text());
                sent += 1;
                let seen = rig.fake().last_ended(sent).await;
                assert_eq!(seen.body_bytes, body.len() as u64, "{what}");
                assert_eq!(seen.body_sha256, Some(sha256(&body)), "{what}");
            }
        }
    }
    let events = rig.admin().usage_logs(&key).await;
    let named = events.iter().filter(|e| e["model"] == "whisper-1").count();
    assert!(named >= events.len() / 2, "{named} of {}", events.len());
}

#[tokio::test]
async fn bytes_of_any_kind_arrive_whole() {
    let rig = Rig::start().await;
    let key = rig.admin().key(0).await;
    let mut sent = 0;
    for size in [1, 65_536, 1_000_000] {
        let body: Vec<u8> = (0..size).map(|i| (i % 253) as u8).collect();
        for way in WAYS {
            let answer = send(&rig, &key.secret, "/_fake/echo", "audio/wav", &body, way).await;
            assert_eq!(answer.status, 200, "{size} {way:?}: {}", answer.text());
            sent += 1;
            let seen = rig.fake().last_ended(sent).await;
            assert_eq!(seen.body_sha256, Some(sha256(&body)), "{size} {way:?}");
        }
    }
}

#[tokio::test]
async fn a_body_of_no_bytes_is_none() {
    let rig = Rig::start().await;
    let key = rig.admin().key(0).await;
    for (turn, way) in [Way::Length, Way::Chunked, Way::H2].into_iter().enumerate() {
        let answer = send(
            &rig,
            &key.secret,
            "/_fake/echo",
            "application/json",
            b"",
            way,
        )
        .await;
        assert_eq!(answer.status, 200, "{way:?}: {}", answer.text());
        let seen = rig.fake().last_ended(turn as u64 + 1).await;
        assert_eq!(seen.body_bytes, 0);
        let chat = "/v1/chat/completions";
        let refused = send(&rig, &key.secret, chat, "application/json", b"", way).await;
        assert_eq!(refused.status, 400, "{way:?}: {}", refused.text());
    }
}

#[tokio::test]
async fn an_upload_above_its_limit_is_refused_and_the_refusal_is_readable() {
    let rig = Rig::builder()
        .set("edge.max_upload", json!("2MiB"))
        .set("edge.max_request_body", json!("1MiB"))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    let body = form(8_000_000, true);
    for way in [Way::Length, Way::Chunked, Way::H2] {
        let answer = send(&rig, &key.secret, TRANSCRIPTIONS, FORM, &body, way).await;
        assert_eq!(answer.status, 413, "{way:?}: {}", answer.text());
        let message = answer.json()["error"]["message"].to_string();
        assert!(
            message.contains(&(2 << 20).to_string()),
            "{way:?}: {message}"
        );
    }
    let refused = |shown: &Value| shown["error_count"] == 3 && shown["request_count"] == 0;
    rig.admin().show_when(&key, refused).await;
}

/// What was peeked at goes to the second peer as well.
#[tokio::test]
async fn an_upload_reaches_the_second_peer_whole() {
    let (_closed, url) = refusing();
    let peers = json!([{"url": url, "credential": CREDENTIAL},
                       {"url": "{fake0}", "credential": CREDENTIAL}]);
    let rig = Rig::builder()
        .set("pools.2.peers", peers)
        .set("pools.2.balance", json!("fallback"))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    let mut sent = 0;
    for size in [100, 65_536, 1_000_000] {
        for way in WAYS {
            let body = form(size, true);
            let answer = send(&rig, &key.secret, TRANSCRIPTIONS, FORM, &body, way).await;
            assert_eq!(answer.status, 200, "{size} {way:?}: {}", answer.text());
            sent += 1;
            let seen = rig.fake().last_ended(sent).await;
            assert_eq!(seen.body_sha256, Some(sha256(&body)), "{size} {way:?}");
        }
    }
}

/// A form's content type does not carry a chat past the reading of its model.
#[tokio::test]
async fn json_paths_read_json_whatever_the_content_type() {
    let rig = Rig::start().await;
    let body = json!({"name": "n", "token_limit": 0, "allowed_models": ["gpt-4o"],
                      "rate_limit_tier": "unlimited"});
    let key = rig.admin().create(body).await;
    let forbidden = chat("gpt-5").to_string();
    for kind in [
        "application/json",
        FORM,
        "text/plain",
        "Application/JSON; charset=utf-8",
        "",
    ] {
        let path = "/v1/chat/completions";
        let answer = send(
            &rig,
            &key.secret,
            path,
            kind,
            forbidden.as_bytes(),
            Way::Length,
        )
        .await;
        assert_eq!(answer.status, 403, "{kind}: {}", answer.text());
    }
    // Images and speech take JSON too; their model is read there.
    for path in ["/v1/images/generations", "/v1/audio/speech"] {
        let body = br#"{"input":"hello","prompt":"a cat","model":"tts-1"}"#;
        let kind = "application/json";
        let answer = send(&rig, &key.secret, path, kind, body, Way::Length).await;
        assert_eq!(answer.status, 403, "{path}: {}", answer.text());
    }
    let hidden = form(200_000, false);
    let answer = send(
        &rig,
        &key.secret,
        TRANSCRIPTIONS,
        FORM,
        &hidden,
        Way::Length,
    )
    .await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(rig.fake().ledger().await.requests, 0);
}

/// The body that an upstream gets for one that was sent.
async fn passed(upstream: &Upstream, rig: &Rig, key: &str, path: &str, body: &str) -> String {
    let before = upstream.seen().len();
    let answer = send(
        rig,
        key,
        path,
        "application/json",
        body.as_bytes(),
        Way::Length,
    )
    .await;
    assert_eq!(answer.status, 200, "{body}: {}", answer.text());
    let seen = upstream.seen();
    assert_eq!(seen.len(), before + 1);
    String::from_utf8(seen.last().unwrap().body.clone()).unwrap()
}

#[tokio::test]
async fn splices_change_their_bytes_and_no_others() {
    let usage = json!({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2});
    let answer = json!({"object": "chat.completion", "choices": [], "usage": usage});
    let upstream = Upstream::start(Manner::Answer(json_answer("200 OK", "", &answer))).await;
    let rig = Rig::builder()
        .set(
            "pools.2.peers",
            json!([{"url": upstream.url(), "credential": "x"}]),
        )
        .set("pools.2.aliases", json!({"fast": "gpt-4o-mini-2024"}))
        .start()
        .await;
    let key = rig.admin().key(0).await.secret;
    let chat = "/v1/chat/completions";
    // Odd, but JSON: spaces, escapes, exponents, an order of its own, a name inside a text.
    let odd = r#" { "x" : 1.50e+3 ,"messages":[{"role":"user","content":"\"model\":\"a\" \u00e9 é"}],
        "model"  :  "gpt-4o" , "z":{"model":"deep"} } "#;
    assert_eq!(passed(&upstream, &rig, &key, chat, odd).await, odd);

    let alias = odd.replace("\"gpt-4o\"", "\"fast\"");
    let expected = odd.replace("\"gpt-4o\"", "\"gpt-4o-mini-2024\"");
    assert_eq!(passed(&upstream, &rig, &key, chat, &alias).await, expected);

    for (sent, got) in [
        (
            r#""stream":true}"#,
            r#""stream_options":{"include_usage":true}"#,
        ),
        (
            r#""stream":true,"stream_options":{"include_usage": false }}"#,
            r#"{"include_usage": true }"#,
        ),
        (r#""stream":true,"stream_options":{"a":[1]}}"#, r#""a":[1]"#),
    ] {
        let head = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"  hi "}],"#;
        let body = format!("{head}{sent}");
        let seen = passed(&upstream, &rig, &key, chat, &body).await;
        let read: serde_json::Value = serde_json::from_str(&seen).unwrap();
        assert_eq!(read["stream_options"]["include_usage"], true, "{seen}");
        assert!(
            seen.contains(got) && seen.contains("\"content\":\"  hi \""),
            "{seen}"
        );
        // Taking the addition out again gives what was sent.
        let mut read = read;
        let mut original: serde_json::Value = serde_json::from_str(&body).unwrap();
        read.as_object_mut().unwrap().remove("stream_options");
        original.as_object_mut().unwrap().remove("stream_options");
        assert_eq!(read, original);
    }
    let asked =
        r#"{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true},"messages":[]}"#;
    assert_eq!(passed(&upstream, &rig, &key, chat, asked).await, asked);
}

#[tokio::test]
async fn a_clamped_bound_replaces_the_clients_own_and_nothing_else() {
    let answer = json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}});
    let upstream = Upstream::start(Manner::Answer(json_answer("200 OK", "", &answer))).await;
    let rig = Rig::builder()
        .set(
            "pools.2.peers",
            json!([{"url": upstream.url(), "credential": "x"}]),
        )
        .start()
        .await;
    let key = rig.admin().key(500).await.secret;
    let chat = "/v1/chat/completions";
    let body = r#"{"max_tokens": 90000 ,"model":"gpt-4o","messages":[{"role":"user","content":"hi"}],"n" : 1}"#;
    let seen = passed(&upstream, &rig, &key, chat, body).await;
    let read: serde_json::Value = serde_json::from_str(&seen).unwrap();
    let bound = read["max_tokens"].as_i64().unwrap();
    assert!((1..500).contains(&bound), "{seen}");
    assert_eq!(seen, body.replace("90000", &bound.to_string()));
    // Where the client set none, one is added; n choices share what is left.
    let key = rig.admin().key(500).await.secret;
    let body = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}],"n":4}"#;
    let seen = passed(&upstream, &rig, &key, chat, body).await;
    let read: serde_json::Value = serde_json::from_str(&seen).unwrap();
    let bound = read["max_completion_tokens"].as_i64().unwrap();
    assert!((1..=125).contains(&bound), "{seen}");
    assert!(
        seen.contains(r#""messages":[{"role":"user","content":"hi"}],"n":4"#),
        "{seen}"
    );
}

/// A slow upload is not held: its first bytes reach the upstream before its last are sent.
#[tokio::test]
async fn an_upload_is_streamed() {
    let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", upstream.local_addr().unwrap());
    let rig = Rig::builder()
        .set("pools.2.peers", json!([{"url": url, "credential": "x"}]))
        .start()
        .await;
    let key = rig.admin().key(0).await;
    let body = form(400_000, true);
    let bearer = format!("Bearer {}", key.secret);
    let headers = [("authorization", bearer.as_str()), ("content-type", FORM)];
    let mut client = rig.wire().await;
    client.post_head(TRANSCRIPTIONS, &headers, body.len()).await;
    client.send(&body[..200_000]).await;
    let (stream, _) = tokio::time::timeout(crate::support::wait::PATIENCE, upstream.accept())
        .await
        .unwrap()
        .unwrap();
    let mut server = Wire::over(stream);
    assert!(server.read_some(100_000).await >= 100_000);
    client.send(&body[200_000..]).await;
    let (_, seen) = server.request().await.unwrap();
    assert_eq!(sha256(&seen), sha256(&body));
    server
        .send(json_answer("200 OK", "", &json!({"text": "a"})))
        .await;
    assert_eq!(client.answer().await.status, 200);
}
