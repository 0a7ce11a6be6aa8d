//! An upstream by hand, for what the fake is too well-behaved to do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::wire::Wire;

/// Between two pieces of an answer: long enough for the reader of one to see no more than that.
const PAUSE: Duration = Duration::from_millis(40);

/// How it treats its connections.
#[derive(Clone, Debug)]
pub enum Manner {
    /// Answers every request with these bytes; the connection stays.
    Answer(String),
    /// Answers the first request of a connection, and hangs up when the second one begins to arrive,
    /// as a server does whose idle time ran out in that moment.
    HangUpOnSecond(String),
    /// Answers as soon as it has a request's head, then reads the body.
    AnswerEarly(String),
    /// Answers every request with what this says at that moment.
    Told(Arc<Mutex<String>>),
    /// Answers every request with these bytes, each piece some time after the one before.
    Pieces(Vec<Vec<u8>>),
    /// Answers with a stream of events that does not end, as fast as it is taken.
    Flood,
    /// Reads requests and never answers.
    Silent,
}

/// One request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Counted from 0, in the order in which they were accepted.
    pub connection: usize,
    /// The request line and headers.
    pub head: String,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn sha256(&self) -> String {
        sha256(&self.body)
    }
}

/// A running upstream. It ends with the test's runtime.
#[derive(Clone, Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Upstream {
    pub async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
        };
        let seen = Arc::clone(&upstream.seen);
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                tokio::spawn(serve(stream, connection, manner.clone(), Arc::clone(&seen)));
            }
        });
        upstream
    }

    /// One that answers every request with these bytes until it is told others.
    pub async fn told(bytes: &str) -> (Self, impl Fn(&str) + use<>) {
        let words = Arc::new(Mutex::new(bytes.to_owned()));
        let upstream = Self::start(Manner::Told(Arc::clone(&words))).await;
        let tell = move |bytes: &str| *words.lock().unwrap() = bytes.to_owned();
        (upstream, tell)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request that has arrived whole.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(stream: TcpStream, connection: usize, manner: Manner, seen: Arc<Mutex<Vec<Seen>>>) {
    let mut wire = Wire::over(stream);
    for turn in 0.. {
        if turn > 0 && matches!(manner, Manner::HangUpOnSecond(_)) {
            // Unread bytes make the kernel send a reset.
            wire.wait_readable().await;
            return;
        }
        if let Manner::AnswerEarly(bytes) = &manner {
            wire.peek_head().await;
            wire.send(bytes).await;
        }
        let Some((head, body)) = wire.request().await else {
            return;
        };
        seen.lock().unwrap().push(Seen {
            connection,
            head,
            body,
        });
        let bytes = match &manner {
            Manner::Answer(bytes) | Manner::HangUpOnSecond(bytes) => bytes.clone(),
            Manner::Told(words) => words.lock().unwrap().clone(),
            Manner::Pieces(pieces) => {
                for piece in pieces {
                    if wire.stream_mut().write_all(piece).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                continue;
            }
            Manner::Flood => {
                let (head, piece) = flood();
                wire.send(head).await;
                while wire.stream_mut().write_all(&piece).await.is_ok() {}
                return;
            }
            Manner::AnswerEarly(_) | Manner::Silent => continue,
        };
        if wire.stream_mut().write_all(bytes.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The head of an answer without an end, and what it repeats.
fn flood() -> (&'static str, Vec<u8>) {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let text = "word ".repeat(3_000);
    let delta = serde_json::json!({"choices": [{"index": 0, "delta": {"content": text}}]});
    let event = format!("data: {delta}\n\n");
    (
        head,
        format!("{:x}\r\n{event}\r\n", event.len()).into_bytes(),
    )
}

/// A whole answer with a JSON body.
pub fn json_answer(status: &str, headers: &str, body: &serde_json::Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}

/// An address that refuses connections for as long as the socket is kept.
pub fn refusing() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    (socket, url)
}

/// In lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
