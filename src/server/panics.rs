//! RELIABILITY 16: a panic in any phase leaves the process alive and resolves its reservation.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::extract::Json;
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{Start, prepare};
use crate::admin::key_change::new_key;
use crate::config;
use crate::keys::{KeyId, KeyRecord, Secret};
use crate::proxy::trip::PHASES;
use crate::store::{AuditEntry, Store};
use crate::time::UnixMs;

struct Running {
    edge: SocketAddr,
    store: std::sync::Arc<dyn Store>,
    secret: Secret,
    _folder: tempfile::TempDir,
}

/// One word, whole or as a stream.
async fn answer(Json(request): Json<Value>) -> Response {
    let usage = json!({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2});
    if request["stream"] != true {
        let message = json!({"role": "assistant", "content": "hi"});
        return Json(json!({"choices": [{"message": message}], "usage": usage})).into_response();
    }
    let word = json!({"choices": [{"delta": {"content": "hi"}}]});
    let last = json!({"choices": [], "usage": usage});
    let events = format!("data: {word}\n\ndata: {last}\n\ndata: [DONE]\n\n");
    ([("content-type", "text/event-stream")], events).into_response()
}

async fn serve(listener: tokio::net::TcpListener) {
    let router = axum::Router::new().fallback(answer);
    while let Ok((stream, _)) = listener.accept().await {
        let router = router.clone();
        let service = service_fn(move |request| router.clone().oneshot(request));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// The whole server in this process, in front of an upstream. It ends with the test.
async fn run() -> Running {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    tokio::spawn(serve(listener));
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "edge: {{listen: [\"127.0.0.1:0\"]}}\nadmin: {{listen: \"127.0.0.1:0\"}}\nstore: {{path: q.db}}\n\
         pools: [{{name: p, dialect: openai, models: [\"*\"], peers: [{{url: \"http://{upstream}\"}}]}}]\n"
    );
    let loaded = config::parse(&yaml, "test.yaml", folder.path(), &|_| None).unwrap();
    let prepared = prepare(loaded, Start::Fresh).unwrap();
    let (edge, store) = (prepared.edge_addresses()[0], prepared.store());
    let secret = Secret::generate("sk-test", [9; 32]);
    let (id, now) = (KeyId(uuid::Uuid::new_v4()), UnixMs::now());
    let record = KeyRecord {
        tier: String::from("unlimited"),
        ..new_key(id, &secret, String::from("sk-test"), now)
    };
    let audit = AuditEntry {
        at: now,
        who: String::from("test"),
        what: String::from("key.create"),
        subject: id.0.to_string(),
        before: None,
        after: None,
    };
    store.create_key(record, audit).await.unwrap();
    std::thread::spawn(move || prepared.run(&mut std::io::sink()).unwrap());
    Running {
        edge,
        store,
        secret,
        _folder: folder,
    }
}

async fn chat(running: &Running, phase: Option<&str>, stream: bool) -> reqwest::Result<u16> {
    let body = json!({
        "model": "gpt-4o-mini", "stream": stream, "max_tokens": 5,
        "messages": [{"role": "user", "content": "hi"}],
    });
    let mut request = reqwest::Client::new()
        .post(format!("http://{}/v1/chat/completions", running.edge))
        .bearer_auth(running.secret.reveal())
        .json(&body);
    if let Some(phase) = phase {
        request = request.header("x-panic-in", phase);
    }
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    answer.bytes().await?;
    Ok(status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_any_phase_resolves_its_reservation() {
    let running = run().await;
    for phase in PHASES {
        for stream in [false, true] {
            let tripped = chat(&running, Some(phase), stream).await;
            // In `logging` the answer is out already; everywhere else the client sees a failure.
            assert!(
                tripped.is_err() || phase == "logging",
                "{phase}: {tripped:?}"
            );
            let started = Instant::now();
            while running.store.totals().await.unwrap().open_reservations > 0 {
                assert!(
                    started.elapsed() < Duration::from_secs(20),
                    "{phase} leaked its hold"
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(
                chat(&running, None, stream).await.unwrap(),
                200,
                "after a panic in {phase}"
            );
        }
    }
}
