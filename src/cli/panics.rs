//! RELIABILITY 16: a panic in any phase leaves the process alive and resolves its reservation.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::fake_upstream;
use crate::config;
use crate::keys::Secret;
use crate::proxy::trip::PHASES;
use crate::quota::Quotas;
use crate::server::prepare;
use crate::store::Store;

struct Running {
    edge: SocketAddr,
    store: std::sync::Arc<dyn Store>,
    secret: Secret,
    _folder: tempfile::TempDir,
}

/// The whole server in this process, in front of a fake upstream. It ends with the test.
async fn run() -> Running {
    let fake = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = fake.local_addr().unwrap();
    tokio::spawn(fake_upstream::serve(
        fake,
        fake_upstream::Options::default(),
    ));
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "edge: {{listen: [\"127.0.0.1:0\"]}}\nadmin: {{listen: \"127.0.0.1:0\"}}\nstore: {{path: q.db}}\n\
         pools: [{{name: p, dialect: openai, models: [\"*\"], peers: [{{url: \"http://{upstream}\"}}]}}]\n"
    );
    let loaded = config::parse(&yaml, "test.yaml", folder.path(), &|_| None).unwrap();
    let prepared = prepare(loaded.config, None).unwrap();
    let (edge, store) = (prepared.edge_addresses()[0], prepared.store());
    let secret = Secret::generate("sk-test", [9; 32]);
    let none = Quotas::default();
    super::demo::key_in(&*store, "test", "unlimited", &secret, none)
        .await
        .unwrap();
    std::thread::spawn(move || prepared.run(&mut std::io::sink()).unwrap());
    Running {
        edge,
        store,
        secret,
        _folder: folder,
    }
}

async fn chat(running: &Running, phase: Option<&str>, stream: bool) -> reqwest::Result<u16> {
    let body = serde_json::json!({
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
