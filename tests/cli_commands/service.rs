//! An admin service that answers what a test tells it to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use http::{StatusCode, Uri};

type Answers = Arc<dyn Fn(usize, &Uri, &[u8]) -> (StatusCode, String) + Send + Sync>;

/// Asked one thing after the other; it ends with its owner.
pub struct Service {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    answers: Answers,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Service {
    /// `answers` is given the number of the request, from 0, its target and its body.
    pub async fn start(
        answers: impl Fn(usize, &Uri, &[u8]) -> (StatusCode, String) + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let shared = Shared {
            answers: Arc::new(answers),
            asked: Arc::clone(&asked),
        };
        let router: Router = Router::new().fallback(answer).with_state(shared);
        let task = tokio::spawn(async move {
            let service = hyper_util::service::TowerToHyperService::new(router);
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let io = hyper_util::rt::TokioIo::new(socket);
                    let http = hyper::server::conn::http1::Builder::new();
                    drop(http.serve_connection(io, service).await);
                });
            }
        });
        Service {
            address,
            asked,
            task,
        }
    }

    /// The targets of all requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(shared): State<Shared>, uri: Uri, body: Bytes) -> (StatusCode, String) {
    let number = {
        let mut asked = shared.asked.lock().unwrap();
        asked.push(uri.to_string());
        asked.len() - 1
    };
    (shared.answers)(number, &uri, &body)
}
