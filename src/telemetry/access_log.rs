//! The access log: one JSON line per exchange, in a file, written by a thread of its own.
//!
//! An exchange only moves its line into a list under a short lock; nothing is formatted and no
//! system call is made on its thread. The writer looks at the list every 100 ms, so a line is in
//! the file at most that long after its exchange ended. When the disk is too slow the list grows to
//! [`MAX_PENDING`] lines; what comes then is dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Serialize, Serializer};

use super::metrics::Metrics;
use crate::keys::KeyId;
use crate::quota::NANO_PER_USD;
use crate::time::UnixMs;

/// Lines that wait for the writer at most: at 350 bytes each some 23 MB.
pub const MAX_PENDING: usize = 65_536;

/// How long the writer rests between two looks at the list.
const REST: Duration = Duration::from_millis(100);

/// Bytes that are formatted before they are written.
const BLOCK: usize = 64 * 1024;

/// One exchange. Holds no secret, no query string and nothing of a body.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AccessLine {
    pub time: UnixMs,
    pub request_id: String,
    /// The key's id, never its secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
    pub method: String,
    /// Without the query.
    pub path: String,
    /// 0 where no answer was begun.
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Arc<str>>,
    /// At peers, the first one included.
    pub attempts: u32,
    /// The attempts that brought no answer, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed_attempts: Vec<NotServed>,
    /// The peers that were not asked because they rest or have too little room.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<NotServed>,
    pub prompt_tokens: i64,
    pub completion_tokens: i64,
    pub cached_tokens: i64,
    /// Nano-USD; shown as USD.
    #[serde(rename = "cost_usd", serialize_with = "as_usd")]
    pub cost_nano: i64,
    pub duration_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<i64>,
    pub bytes_in: i64,
    pub bytes_out: i64,
    /// Why the exchange was turned away or failed: the error code the caller saw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    #[serde(skip_serializing_if = "is_false")]
    pub client_disconnected: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub estimated: bool,
    /// Why the figures are what they are, where that is not plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A peer that did not serve, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotServed {
    pub pool: String,
    pub peer: String,
    /// The word of `upstream_attempts_total` or `upstream_skips_total`.
    pub reason: &'static str,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn as_usd<S: Serializer>(nano: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(*nano as f64 / NANO_PER_USD as f64)
}

/// The log of a process. Dropping it writes what is pending.
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Set with `writer`, so that a line needs no lock to see that a writer runs.
    started: AtomicBool,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    pending: Mutex<Vec<AccessLine>>,
    max_pending: usize,
    /// Held by the writer only; here so that the thread can start late.
    file: Mutex<File>,
    closing: AtomicBool,
    reopening: AtomicBool,
    metrics: Arc<Metrics>,
}

impl AccessLog {
    /// Opens the file for appending, made with mode 0640 where it is not there. The writer starts
    /// with the first line, not here: a thread started before a daemon forks would be lost.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path, metrics: Arc<Metrics>) -> io::Result<Self> {
        Self::bounded(path, metrics, MAX_PENDING)
    }

    fn bounded(path: &Path, metrics: Arc<Metrics>, max_pending: usize) -> io::Result<Self> {
        let shared = Shared {
            path: path.to_owned(),
            pending: Mutex::default(),
            max_pending,
            file: Mutex::new(open_for_append(path)?),
            closing: AtomicBool::new(false),
            reopening: AtomicBool::new(false),
            metrics,
        };
        Ok(AccessLog {
            shared: Arc::new(shared),
            writer: Mutex::default(),
            started: AtomicBool::new(false),
        })
    }

    /// Hands a line to the writer. Never waits for the disk.
    pub fn write(&self, line: AccessLine) {
        {
            let mut pending = self.shared.pending.lock();
            if pending.len() >= self.shared.max_pending {
                drop(pending);
                self.shared.metrics.access_log_dropped(1);
                return;
            }
            pending.push(line);
        }
        if !self.started.load(Ordering::Acquire) {
            self.start();
        }
    }

    /// Goes on in a new file of the same name: for log rotation, on SIGUSR2. Lines written before
    /// this call are in the old file or the new one, whole.
    pub fn reopen(&self) {
        self.shared.reopening.store(true, Ordering::Release);
        self.wake();
    }

    /// Writes what is pending and stops the writer. Lines after this are written by the next `close`
    /// or `Drop`, so that an exchange that ends late loses nothing.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.wake();
        let writer = self.writer.lock().take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            log::error!("the access log's writer has panicked");
        }
        self.shared.write_pending(&mut Vec::new(), &mut Vec::new());
    }

    fn wake(&self) {
        if let Some(writer) = &*self.writer.lock() {
            writer.thread().unpark();
        }
    }

    fn start(&self) {
        let mut writer = self.writer.lock();
        if self.started.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name(String::from("access-log"));
        match thread.spawn(move || shared.run()) {
            Ok(handle) => *writer = Some(handle),
            Err(error) => {
                self.started.store(false, Ordering::Release);
                log::error!("the access log's writer cannot start: {error}");
            }
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn run(&self) {
        let (mut lines, mut text) = (Vec::new(), Vec::with_capacity(BLOCK * 2));
        while !self.closing.load(Ordering::Acquire) {
            if self.reopening.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            self.write_pending(&mut lines, &mut text);
            std::thread::park_timeout(REST);
        }
        self.write_pending(&mut lines, &mut text);
    }

    fn reopen(&self) {
        match open_for_append(&self.path) {
            Ok(file) => *self.file.lock() = file,
            // The old file goes on: better a line in a rotated file than none.
            Err(error) => log::warn!(
                "the access log {} stays as it was: {error}",
                self.path.display()
            ),
        }
    }

    /// `lines` and `text` are spent buffers that keep their room.
    fn write_pending(&self, lines: &mut Vec<AccessLine>, text: &mut Vec<u8>) {
        std::mem::swap(&mut *self.pending.lock(), lines);
        let mut waiting = 0;
        for line in lines.drain(..) {
            let mark = text.len();
            match serde_json::to_writer(&mut *text, &line) {
                Ok(()) => {
                    text.push(b'\n');
                    waiting += 1;
                }
                Err(_) => text.truncate(mark),
            }
            if text.len() >= BLOCK {
                self.write_block(text, waiting);
                waiting = 0;
            }
        }
        self.write_block(text, waiting);
    }

    fn write_block(&self, text: &mut Vec<u8>, lines: u64) {
        if let Err(error) = self.file.lock().write_all(text) {
            self.metrics.access_log_dropped(lines);
            log::error!("{lines} lines of the access log are lost: {error}");
        }
        text.clear();
    }
}

fn open_for_append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::Value;

    use super::*;

    fn line(request_id: &str) -> AccessLine {
        AccessLine {
            time: UnixMs(1_795_229_099_123),
            request_id: request_id.to_owned(),
            method: String::from("POST"),
            path: String::from("/v1/chat/completions"),
            status: 200,
            model: Some(String::from("gpt-\"4\n")),
            pool: Some("openai".into()),
            attempts: 2,
            failed_attempts: vec![NotServed {
                pool: String::from("azure"),
                peer: String::from("a:443"),
                reason: "timeout",
            }],
            passed_over: vec![NotServed {
                pool: String::from("azure"),
                peer: String::from("b:443"),
                reason: "resting",
            }],
            prompt_tokens: 10,
            cost_nano: 75_000,
            ..AccessLine::default()
        }
    }

    fn lines_of(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn eventually(mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < Duration::from_secs(20), "never came true");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn log_in(folder: &tempfile::TempDir) -> (AccessLog, PathBuf) {
        let metrics = Arc::new(Metrics::new().unwrap());
        let path = folder.path().join("access.jsonl");
        let log = AccessLog::open(&path, metrics).unwrap();
        (log, path)
    }

    #[test]
    fn a_line_is_json_with_what_is_known_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let (log, path) = log_in(&folder);
        log.write(line("r1"));
        eventually(|| lines_of(&path).len() == 1);
        let shown = &lines_of(&path)[0];
        let expected = serde_json::json!({
            "time": "2026-11-21T02:44:59.123Z", "request_id": "r1", "method": "POST",
            "path": "/v1/chat/completions", "status": 200, "model": "gpt-\"4\n", "pool": "openai",
            "attempts": 2, "failed_attempts": [{"pool": "azure", "peer": "a:443", "reason": "timeout"}],
            "passed_over": [{"pool": "azure", "peer": "b:443", "reason": "resting"}],
            "prompt_tokens": 10, "completion_tokens": 0, "cached_tokens": 0,
            "cost_usd": 0.000075, "duration_ms": 0, "bytes_in": 0, "bytes_out": 0,
        });
        assert_eq!(shown, &expected);
    }

    #[test]
    fn closing_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (log, path) = log_in(&folder);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| log.write(line("r"))));
            }
        });
        log.close();
        assert_eq!(lines_of(&path).len(), 4_000);
        log.write(line("late"));
        drop(log);
        assert_eq!(lines_of(&path).len(), 4_001);
    }

    #[test]
    fn reopening_goes_on_in_a_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let (log, path) = log_in(&folder);
        log.write(line("before"));
        eventually(|| lines_of(&path).len() == 1);
        let rotated = folder.path().join("access.jsonl.1");
        std::fs::rename(&path, &rotated).unwrap();
        log.reopen();
        eventually(|| path.exists());
        log.write(line("after"));
        log.close();
        assert_eq!(lines_of(&rotated)[0]["request_id"], "before");
        assert_eq!(lines_of(&path)[0]["request_id"], "after");
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let path = folder.path().join("access.jsonl");
        let log = AccessLog::bounded(&path, metrics.clone(), 10).unwrap();
        // No writer: the list can only grow.
        log.started.store(true, Ordering::Release);
        for _ in 0..15 {
            log.write(AccessLine::default());
        }
        log.close();
        assert_eq!(lines_of(&path).len(), 10);
        let dropped = metrics.render().unwrap();
        assert!(dropped.contains("access_log_dropped_total 5"));
    }
}
