//! The fake's own books: what arrived and what was really written to sockets, to check a proxy against.
//!
//! Totals are always kept. With recording on, the last [`CAPACITY`] requests are kept one by one too.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use http::HeaderMap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::time::UnixMs;

/// Most requests that are kept; older ones fall out and are counted as `forgotten`.
pub const CAPACITY: usize = 100_000;

/// Headers whose values are shown; of all others only the name is.
const SHOWN_HEADERS: [&str; 16] = [
    "accept",
    "accept-encoding",
    "anthropic-beta",
    "anthropic-version",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "te",
    "transfer-encoding",
    "user-agent",
    "x-fake",
    "x-forwarded-for",
    "x-request-id",
];

/// All requests of one fake.
#[derive(Debug)]
pub struct Ledger {
    recording: bool,
    requests: AtomicU64,
    completed: AtomicU64,
    client_gone: AtomicU64,
    tokens_out: AtomicU64,
    bytes_out: AtomicU64,
    forgotten: AtomicU64,
    records: Mutex<VecDeque<Arc<Record>>>,
}

/// One request. Counters move while the answer is being written.
#[derive(Debug)]
pub struct Record {
    ledger: Arc<Ledger>,
    id: u64,
    started: Instant,
    facts: Mutex<Facts>,
    tokens_out: AtomicU64,
    bytes_made: AtomicU64,
    bytes_out: AtomicU64,
    ended: AtomicBool,
    finished: AtomicBool,
    client_gone: AtomicBool,
}

/// What is known of a request; filled in as it is read. Empty when not recording.
#[derive(Debug, Default)]
struct Facts {
    at: UnixMs,
    method: String,
    path: String,
    model: Option<String>,
    stream: bool,
    credential: Option<Value>,
    body_bytes: u64,
    body_sha256: Option<String>,
    header_names: Vec<String>,
    headers: BTreeMap<String, String>,
    input_tokens: u64,
    status: Option<u16>,
    ended_ms: Option<u64>,
}

impl Ledger {
    pub fn new(recording: bool) -> Arc<Self> {
        Arc::new(Ledger {
            recording,
            requests: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            client_gone: AtomicU64::new(0),
            tokens_out: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            records: Mutex::new(VecDeque::new()),
        })
    }

    pub fn recording(&self) -> bool {
        self.recording
    }

    /// Counts a request that has arrived.
    pub fn open(self: &Arc<Self>, parts: &http::request::Parts) -> Arc<Record> {
        let id = self.requests.fetch_add(1, Relaxed) + 1;
        let facts = if self.recording {
            Facts::of(parts)
        } else {
            Facts::default()
        };
        let record = Arc::new(Record {
            ledger: Arc::clone(self),
            id,
            started: Instant::now(),
            facts: Mutex::new(facts),
            tokens_out: AtomicU64::new(0),
            bytes_made: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            client_gone: AtomicBool::new(false),
        });
        if self.recording {
            let mut records = self.records.lock();
            if records.len() >= CAPACITY {
                records.pop_front();
                self.forgotten.fetch_add(1, Relaxed);
            }
            records.push_back(Arc::clone(&record));
        }
        record
    }

    /// Forgets all records and sets the totals to zero.
    pub fn clear(&self) {
        self.records.lock().clear();
        for total in [
            &self.requests,
            &self.completed,
            &self.client_gone,
            &self.tokens_out,
            &self.bytes_out,
            &self.forgotten,
        ] {
            total.store(0, Relaxed);
        }
    }

    /// The whole ledger, oldest request first.
    pub fn to_json(&self) -> Value {
        let records: Vec<Value> = self.records.lock().iter().map(|r| r.to_json()).collect();
        json!({
            "recording": self.recording,
            "requests": self.requests.load(Relaxed),
            "completed": self.completed.load(Relaxed),
            "client_gone": self.client_gone.load(Relaxed),
            "tokens_out": self.tokens_out.load(Relaxed),
            "bytes_out": self.bytes_out.load(Relaxed),
            "forgotten": self.forgotten.load(Relaxed),
            "records": records,
        })
    }
}

impl Record {
    /// The number of this request; ids of answers are made from it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Adds what the body told.
    pub fn body(&self, body_bytes: u64, sha256: Option<[u8; 32]>) {
        if self.ledger.recording {
            let mut facts = self.facts.lock();
            facts.body_bytes = body_bytes;
            facts.body_sha256 = sha256.map(|digest| hex(&digest));
        }
    }

    /// Adds what was asked.
    pub fn asked(&self, model: &str, stream: bool, input_tokens: u64) {
        if self.ledger.recording {
            let mut facts = self.facts.lock();
            facts.model = Some(model.to_owned());
            facts.stream = stream;
            facts.input_tokens = input_tokens;
        }
    }

    pub fn answered(&self, status: u16) {
        if self.ledger.recording {
            self.facts.lock().status = Some(status);
        }
    }

    pub(super) fn made(&self, bytes: usize) {
        self.bytes_made.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn wrote(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
        self.ledger.bytes_out.fetch_add(bytes as u64, Relaxed);
        self.settle();
    }

    pub(super) fn wrote_tokens(&self, tokens: u32) {
        self.tokens_out.fetch_add(u64::from(tokens), Relaxed);
        self.ledger.tokens_out.fetch_add(u64::from(tokens), Relaxed);
    }

    /// Whether every byte made so far is written.
    pub(super) fn is_flushed(&self) -> bool {
        self.bytes_out.load(Relaxed) >= self.bytes_made.load(Relaxed)
    }

    /// The answer has no more bytes to make.
    pub(super) fn end(&self) {
        self.ended.store(true, Relaxed);
        self.settle();
    }

    pub(super) fn lost_client(&self) {
        if !self.finished.load(Relaxed) && !self.client_gone.swap(true, Relaxed) {
            self.ledger.client_gone.fetch_add(1, Relaxed);
            self.note_end();
        }
    }

    fn settle(&self) {
        let done = self.ended.load(Relaxed) && self.is_flushed();
        if done && !self.finished.swap(true, Relaxed) {
            self.ledger.completed.fetch_add(1, Relaxed);
            self.note_end();
        }
    }

    fn note_end(&self) {
        if self.ledger.recording {
            let elapsed = self.started.elapsed().as_millis();
            self.facts.lock().ended_ms = u64::try_from(elapsed).ok();
        }
    }

    fn to_json(&self) -> Value {
        let facts = self.facts.lock();
        json!({
            "id": self.id,
            "at": facts.at,
            "method": facts.method,
            "path": facts.path,
            "model": facts.model,
            "stream": facts.stream,
            "credential": facts.credential,
            "body_bytes": facts.body_bytes,
            "body_sha256": facts.body_sha256,
            "header_names": facts.header_names,
            "headers": facts.headers,
            "input_tokens": facts.input_tokens,
            "output_tokens": self.tokens_out.load(Relaxed),
            "bytes_out": self.bytes_out.load(Relaxed),
            "status": facts.status,
            "finished": self.finished.load(Relaxed),
            "client_gone": self.client_gone.load(Relaxed),
            "ended_ms": facts.ended_ms,
        })
    }
}

impl Facts {
    fn of(parts: &http::request::Parts) -> Self {
        let headers = &parts.headers;
        Facts {
            at: UnixMs::now(),
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            credential: credential(headers, parts.uri.query())
                .map(|c| json!({"sha256": hex(&Sha256::digest(c.as_bytes())), "last4": last4(&c)})),
            header_names: headers.keys().map(ToString::to_string).collect(),
            headers: SHOWN_HEADERS
                .iter()
                .filter_map(|&name| Some((name.to_owned(), shown(headers, name)?)))
                .collect(),
            ..Facts::default()
        }
    }
}

/// The credential a request came with: bearer, `x-api-key`, `x-goog-api-key` or `?key=`.
pub fn credential(headers: &HeaderMap, query: Option<&str>) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let in_query = || query?.split('&').find_map(|pair| pair.strip_prefix("key="));
    bearer
        .or_else(|| text("x-api-key"))
        .or_else(|| text("x-goog-api-key"))
        .or_else(in_query)
        .map(str::to_owned)
}

fn shown(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<String> = headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect();
    (!values.is_empty()).then(|| values.join(", "))
}

fn last4(secret: &str) -> String {
    let count = secret.chars().count();
    secret.chars().skip(count.saturating_sub(4)).collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
