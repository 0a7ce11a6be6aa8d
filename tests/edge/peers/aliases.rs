//! A model by another name: what arrives at the peer is what was priced, wherever the name stands.

use serde_json::json;

use super::answer_of;
use crate::support::rig::{CREDENTIAL, Rig};
use crate::support::upstream::{Manner, Seen, Upstream, json_answer};
use crate::support::wire::Wire;

/// Two pools that know `fast` by names of their own; the first one answers 429.
struct Two {
    first: Upstream,
    second: Upstream,
    rig: Rig,
    key: String,
}

async fn two(dialect: &str) -> Two {
    let busy = json_answer("429 Too Many Requests", "", &json!({}));
    let good = json_answer("200 OK", "", &answer_of(1, 1));
    let first = Upstream::start(Manner::Answer(busy)).await;
    let second = Upstream::start(Manner::Answer(good)).await;
    let pool = |name: &str, model: &str, url: &str| {
        json!({"name": name, "dialect": dialect, "models": [model], "aliases": {"fast": model},
               "peers": [{"url": url, "credential": CREDENTIAL}]})
    };
    let rig = Rig::builder()
        .set(
            "pools",
            json!([
                pool("a", "model-1", &first.url()),
                pool("b", "other/model 2", &second.url())
            ]),
        )
        .start()
        .await;
    let key = rig.admin().key(0).await.secret;
    Two {
        first,
        second,
        rig,
        key,
    }
}

fn only(upstream: &Upstream) -> Seen {
    let seen = upstream.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    seen[0].clone()
}

fn target(seen: &Seen) -> &str {
    seen.head.split(' ').nth(1).unwrap()
}

#[tokio::test]
async fn a_path_names_the_model_that_its_peer_knows() {
    for (dialect, path, seen) in [
        (
            "gemini",
            "/v1beta/models/fast:generateContent",
            [
                "/v1beta/models/model-1:generateContent",
                "/v1beta/models/other%2Fmodel%202:generateContent",
            ],
        ),
        (
            "gemini",
            "/v1beta/models/f%61st:streamGenerateContent?alt=sse",
            [
                "/v1beta/models/model-1:streamGenerateContent?alt=sse",
                "/v1beta/models/other%2Fmodel%202:streamGenerateContent?alt=sse",
            ],
        ),
        (
            "openai",
            "/openai/deployments/fast/chat/completions?api-version=1",
            [
                "/openai/deployments/model-1/chat/completions?api-version=1",
                "/openai/deployments/other%2Fmodel%202/chat/completions?api-version=1",
            ],
        ),
    ] {
        let two = two(dialect).await;
        let body = json!({"contents": [], "messages": []});
        let answer = two.rig.post(path, &two.key, &body).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.bytes().await.unwrap();
        let arrived = [only(&two.first), only(&two.second)];
        assert_eq!(arrived.each_ref().map(target), seen);
        two.rig.end().await;
    }
}

const FORM: &str = "multipart/form-data; boundary=XX";

fn form(model: &str, size: usize) -> Vec<u8> {
    let head = format!(
        "--XX\r\ncontent-disposition: form-data; name=\"language\"\r\n\r\nen\r\n\
         --XX\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n\
         --XX\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\n\r\n"
    );
    let mut form = head.into_bytes();
    form.extend((0..size).map(|i| (i * 31 % 251) as u8));
    form.extend_from_slice(b"\r\n--XX--\r\n");
    form
}

/// With a length and without, held and streamed.
#[tokio::test]
async fn a_form_names_the_model_that_its_peer_knows() {
    for path in [
        "/v1/audio/transcriptions",
        "/openai/deployments/fast/audio/transcriptions",
    ] {
        for size in [10, 40_000, 200_000] {
            for chunked in [false, true] {
                let two = two("openai").await;
                let bearer = format!("Bearer {}", two.key);
                let headers = [("authorization", bearer.as_str()), ("content-type", FORM)];
                let mut wire: Wire = two.rig.wire().await;
                let sent = form("fast", size);
                if chunked {
                    let parts: Vec<&[u8]> = sent.chunks(7_919).collect();
                    wire.post_chunked(path, &headers, &parts, false).await;
                } else {
                    wire.post(path, &headers, &sent).await;
                }
                let answer = wire.answer().await;
                let what = format!("{path} {size} {chunked}");
                let first = only(&two.first);
                assert!(first.body == form("model-1", size), "{what}");
                // A body that is gone cannot be sent to another peer.
                if answer.status == 200 {
                    let second = only(&two.second);
                    assert!(second.body == form("other/model 2", size), "{what}");
                } else {
                    assert_eq!((answer.status, size), (429, 200_000), "{what}");
                }
                two.rig.end().await;
            }
        }
    }
}

#[tokio::test]
async fn a_form_and_its_path_must_agree() {
    let two = two("openai").await;
    let bearer = format!("Bearer {}", two.key);
    let headers = [("authorization", bearer.as_str()), ("content-type", FORM)];
    let mut wire = two.rig.wire().await;
    let path = "/openai/deployments/fast/audio/transcriptions";
    wire.post(path, &headers, &form("model-1", 10)).await;
    let answer = wire.answer().await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("fast"), "{}", answer.text());
    // A path alone names it, too.
    let mut wire = two.rig.wire().await;
    let nameless = form("x", 10);
    let nameless = String::from_utf8_lossy(&nameless).replace("\"model\"", "\"prompt\"");
    wire.post(path, &headers, nameless.as_bytes()).await;
    assert_eq!(wire.answer().await.status, 200);
    let arrived = target(&only(&two.first)).to_owned();
    assert_eq!(arrived, "/openai/deployments/model-1/audio/transcriptions");
}
