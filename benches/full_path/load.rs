//! The load: keep-alive HTTP/1.1 over raw sockets, either as fast as it goes or at a fixed rate.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::Outcome;

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// tokio's timer ticks each millisecond: a start this late is the timer's, not the load's.
const TIMER_SLACK: Duration = Duration::from_millis(2);

/// A request as it goes on the wire.
#[derive(Clone, Debug)]
pub struct Request {
    bytes: Rc<[u8]>,
    stream: bool,
}

/// Where to send it, how often and how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    address: SocketAddr,
    connections: usize,
    /// Time from one request to the next over all connections; none: back to back.
    period: Option<Duration>,
    length: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcomes {
    pub elapsed: Duration,
    pub failures: u64,
    /// One for each answered request, µs.
    pub latencies: Vec<u32>,
}

impl Request {
    /// A chat completion; `wish` directs the fake.
    pub fn chat(key: &str, stream: bool, wish: &str) -> Self {
        let body = format!(
            r#"{{"model":"gpt-4o-mini","stream":{stream},"max_tokens":100,"messages":[{{"role":"system","content":"You are a helpful assistant that answers briefly."}},{{"role":"user","content":"Say what a quota is and why a proxy would keep one."}}]}}"#
        );
        let text = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\nx-fake: {wish}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Request {
            bytes: text.into_bytes().into(),
            stream,
        }
    }
}

impl Plan {
    pub fn saturating(address: SocketAddr, connections: usize, length: Duration) -> Self {
        Plan {
            address,
            connections,
            period: None,
            length,
        }
    }

    pub fn paced(address: SocketAddr, connections: usize, rate: u32, length: Duration) -> Self {
        Plan {
            period: Some(Duration::from_secs(1) / rate),
            ..Plan::saturating(address, connections, length)
        }
    }
}

/// Runs a plan to its end. Must run on a single-threaded runtime.
pub async fn run(request: &Request, plan: Plan) -> Outcome<Outcomes> {
    let mut connections = Vec::new();
    for _ in 0..plan.connections {
        connections.push(Connection::open(plan.address).await?);
    }
    let next = Rc::new(AtomicU64::new(0));
    let start = Instant::now();
    let local = tokio::task::LocalSet::new();
    let mut workers = JoinSet::new();
    for connection in connections {
        let worker = work(connection, request.clone(), plan, start, Rc::clone(&next));
        workers.spawn_local_on(worker, &local);
    }
    let mut all = Outcomes::default();
    local
        .run_until(async {
            while let Some(ended) = workers.join_next().await {
                let mut part = ended?;
                all.failures += part.failures;
                all.latencies.append(&mut part.latencies);
            }
            Ok::<(), tokio::task::JoinError>(())
        })
        .await?;
    all.elapsed = start.elapsed();
    Ok(all)
}

/// Opens streams and returns when each of them has begun to answer.
pub async fn open(request: &Request, address: SocketAddr, count: usize) -> Outcome<Vec<TcpStream>> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut connection = Connection::open(address).await?;
        connection.stream.write_all(&request.bytes).await?;
        streams.push(connection);
    }
    for connection in &mut streams {
        let begin = connection.read();
        timeout(PATIENCE, begin).await??;
        if !connection.buffer.starts_with(b"HTTP/1.1 200") {
            return Err("a stream was refused".into());
        }
    }
    Ok(streams.into_iter().map(|c| c.stream).collect())
}

async fn work(
    mut connection: Connection,
    request: Request,
    plan: Plan,
    start: Instant,
    next: Rc<AtomicU64>,
) -> Outcomes {
    let mut outcomes = Outcomes::default();
    let end = start + plan.length;
    loop {
        let mut from = Instant::now();
        if let Some(period) = plan.period {
            let turn = u32::try_from(next.fetch_add(1, Relaxed)).unwrap_or(u32::MAX);
            let due = start + period * turn;
            if due >= end {
                return outcomes;
            }
            sleep_until(due).await;
            let now = Instant::now();
            // Late because every connection was busy: then the wait is the proxy's doing and counts.
            from = if now - due < TIMER_SLACK { now } else { due };
        } else if from >= end {
            return outcomes;
        }
        let exchange = connection.exchange(&request);
        let answered = timeout(PATIENCE, exchange).await;
        if matches!(answered, Ok(Ok(true))) {
            let micros = from.elapsed().as_micros();
            let micros = u32::try_from(micros).unwrap_or(u32::MAX);
            outcomes.latencies.push(micros);
        } else {
            outcomes.failures += 1;
            match Connection::open(plan.address).await {
                Ok(fresh) => connection = fresh,
                Err(_) => return outcomes,
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            buffer: Vec::with_capacity(64 * 1024),
        })
    }

    /// One request and its whole answer; whether that was a 200 that came to its end.
    async fn exchange(&mut self, request: &Request) -> std::io::Result<bool> {
        self.buffer.clear();
        self.stream.write_all(&request.bytes).await?;
        loop {
            if self.read().await? == 0 {
                return Ok(false);
            }
            if self.is_whole(request.stream) {
                return Ok(self.buffer.starts_with(b"HTTP/1.1 200"));
            }
        }
    }

    async fn read(&mut self) -> std::io::Result<usize> {
        self.stream.read_buf(&mut self.buffer).await
    }

    fn is_whole(&self, stream: bool) -> bool {
        if stream && self.buffer.starts_with(b"HTTP/1.1 200") {
            return self.buffer.ends_with(b"\r\n0\r\n\r\n");
        }
        let Some(head) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") else {
            return false;
        };
        let name = b"ontent-";
        let length = memchr::memmem::find_iter(&self.buffer[..head], name)
            .find_map(|at| content_length(&self.buffer[at + name.len()..head]));
        match length {
            Some(length) => self.buffer.len() >= head + 4 + length,
            None => self.buffer.ends_with(b"\r\n0\r\n\r\n"),
        }
    }
}

/// From what follows `Content-`, in whichever case the server writes it.
fn content_length(rest: &[u8]) -> Option<usize> {
    let (name, rest) = rest.split_at_checked("length:".len())?;
    if !name.eq_ignore_ascii_case(b"length:") {
        return None;
    }
    let line = rest.split(|&byte| byte == b'\r').next()?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}
