//! A fake provider on a thread of its own, and a reader of its ledger.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use quota_proxy::cli::fake_upstream::{Options, serve_until};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::wait::{PATIENCE, eventually};

/// A running fake. Ends when dropped.
#[derive(Debug)]
pub struct Fake {
    pub address: SocketAddr,
    http: reqwest::Client,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// `GET /_fake/ledger`.
#[derive(Clone, Debug, Deserialize)]
pub struct Ledger {
    pub requests: u64,
    pub completed: u64,
    pub client_gone: u64,
    pub tokens_out: u64,
    pub bytes_out: u64,
    pub records: Vec<Record>,
}

/// One request as the fake saw it.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    pub id: u64,
    pub method: String,
    pub path: String,
    pub model: Option<String>,
    pub stream: bool,
    pub credential: Option<Credential>,
    pub body_bytes: u64,
    pub body_sha256: Option<String>,
    pub header_names: Vec<String>,
    pub headers: std::collections::BTreeMap<String, String>,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub bytes_out: u64,
    pub status: Option<u16>,
    pub finished: bool,
    pub client_gone: bool,
    pub ended_ms: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Credential {
    pub sha256: String,
    pub last4: String,
}

impl Fake {
    /// Starts a fake with its own thread and runtime, so that a test that blocks does not block it.
    pub fn start(options: Options) -> Self {
        let (tell_address, address) = std::sync::mpsc::channel();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind(options.listen).await.unwrap();
                tell_address.send(listener.local_addr().unwrap()).unwrap();
                // A test that ends does not wait for its running answers.
                tokio::select! {
                    _ = ended => {}
                    served = serve_until(listener, options, std::future::pending()) => served.unwrap(),
                }
            });
        });
        Fake {
            address: address.recv_timeout(PATIENCE).unwrap(),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            end: Some(end),
            thread: Some(thread),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub async fn ledger(&self) -> Ledger {
        let answer = self.http.get(format!("{}/_fake/ledger", self.url()));
        answer.send().await.unwrap().json().await.unwrap()
    }

    /// The ledger once `test` holds for it.
    pub async fn ledger_when(&self, test: impl Fn(&Ledger) -> bool) -> Ledger {
        eventually(PATIENCE, || async {
            super::wait::that(self.ledger().await, &test)
        })
        .await
    }

    /// The last record, once there are `requests` and all of them have ended.
    pub async fn last_ended(&self, requests: u64) -> Record {
        let settled = |ledger: &Ledger| {
            ledger.requests == requests
                && ledger.records.iter().all(|r| r.finished || r.client_gone)
        };
        let ledger = self.ledger_when(settled).await;
        ledger.records.last().cloned().unwrap()
    }

    pub async fn forget(&self) {
        let request = self.http.delete(format!("{}/_fake/ledger", self.url()));
        request.send().await.unwrap();
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}
