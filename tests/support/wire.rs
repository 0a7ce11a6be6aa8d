//! HTTP/1.1 by hand, for what no client library would send.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::wait::PATIENCE;

/// One connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    /// Read, but behind the answer that was asked for last.
    rest: Vec<u8>,
}

/// An answer as it stood on the wire, its body unchunked.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The size of every chunk; empty when the body was not chunked.
    pub chunks: Vec<usize>,
    /// The body ended as its framing says, not by a close in the middle.
    pub is_whole: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

impl Wire {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Wire {
            stream,
            rest: Vec::new(),
        }
    }

    /// Over a connection that was accepted.
    pub fn over(stream: TcpStream) -> Self {
        Wire {
            stream,
            rest: Vec::new(),
        }
    }

    pub fn stream_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends bytes in pieces of `size`, each in its own segment as far as the kernel goes along.
    pub async fn send_in_pieces(&mut self, bytes: &[u8], size: usize, pause: Duration) {
        for piece in bytes.chunks(size.max(1)) {
            self.send(piece).await;
            tokio::time::sleep(pause).await;
        }
    }

    /// A POST with `Content-Length`.
    pub async fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let length = body.len().to_string();
        let mut head = head("POST", path, headers);
        head.push_str(&format!("content-length: {length}\r\n\r\n"));
        self.send([head.as_bytes(), body].concat()).await;
    }

    /// The head of a POST whose body of `length` bytes is still to be sent.
    pub async fn post_head(&mut self, path: &str, headers: &[(&str, &str)], length: usize) {
        let head = head("POST", path, headers);
        self.send(format!("{head}content-length: {length}\r\n\r\n"))
            .await;
    }

    /// A chunked POST, one chunk for each part, the last one left to the caller when `open`.
    pub async fn post_chunked(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        parts: &[&[u8]],
        open: bool,
    ) {
        let mut head = head("POST", path, headers);
        head.push_str("transfer-encoding: chunked\r\n\r\n");
        self.send(head).await;
        for part in parts {
            self.send_chunk(part).await;
        }
        if !open {
            self.send("0\r\n\r\n").await;
        }
    }

    pub async fn send_chunk(&mut self, part: &[u8]) {
        let size = format!("{:x}\r\n", part.len());
        self.send([size.as_bytes(), part, b"\r\n"].concat()).await;
    }

    /// The next answer, to its end or to the end of the connection.
    pub async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.is_whole = self.chunked_body(&mut answer).await.is_some();
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            answer.is_whole = self.fill(length).await;
            let length = length.min(self.rest.len());
            answer.body = self.rest.drain(..length).collect();
        } else if !matches!(answer.status, 204 | 304) {
            while self.more().await {}
            answer.body = std::mem::take(&mut self.rest);
            answer.is_whole = true;
        }
        answer
    }

    /// The next status line and headers; interim answers (1xx) are returned too.
    pub async fn head(&mut self) -> Answer {
        let end = loop {
            if let Some(at) = find(&self.rest, b"\r\n\r\n") {
                break at + 4;
            }
            let so_far = String::from_utf8_lossy(&self.rest).into_owned();
            assert!(self.more().await, "closed inside the head: {so_far:?}");
        };
        let head: Vec<u8> = self.rest.drain(..end).collect();
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let headers = lines.filter_map(|line| line.split_once(':'));
        Answer {
            status: status.and_then(|s| s.parse().ok()).unwrap(),
            headers: headers
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect(),
            body: Vec::new(),
            chunks: Vec::new(),
            is_whole: true,
        }
    }

    /// Waits for a whole head without taking it.
    pub async fn peek_head(&mut self) {
        while find(&self.rest, b"\r\n\r\n").is_none() && self.more().await {}
    }

    /// The next request on an accepted connection, head and body; `None` where the connection ends.
    pub async fn request(&mut self) -> Option<(String, Vec<u8>)> {
        let end = loop {
            if let Some(at) = find(&self.rest, b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await.then_some(())?;
        };
        let head: Vec<u8> = self.rest.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let value = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(':'));
            let mut found = lines.filter(|(n, _)| n.eq_ignore_ascii_case(name));
            found.next().map(|(_, value)| value.trim().to_owned())
        };
        let mut as_answer = Answer {
            status: 0,
            headers: Vec::new(),
            body: Vec::new(),
            chunks: Vec::new(),
            is_whole: true,
        };
        if value("transfer-encoding").is_some() {
            self.chunked_body(&mut as_answer).await?;
        } else if let Some(length) = value("content-length") {
            let length: usize = length.parse().unwrap();
            self.fill(length).await.then_some(())?;
            as_answer.body = self.rest.drain(..length).collect();
        }
        Some((head, as_answer.body))
    }

    /// Waits for bytes without taking them.
    pub async fn wait_readable(&self) {
        self.stream.readable().await.unwrap();
    }

    /// Reads until at least `bytes` of body have come; for streams that are to be cut.
    pub async fn read_some(&mut self, bytes: usize) -> usize {
        self.fill(bytes).await;
        self.rest.len()
    }

    /// Closes by FIN.
    pub fn close(self) {}

    /// Closes by RST.
    pub fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// Ends our direction only.
    pub async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Whether the other side has ended the connection, within `patience`.
    pub async fn is_closed(&mut self, patience: Duration) -> bool {
        matches!(timeout(patience, self.more()).await, Ok(false))
    }

    async fn chunked_body(&mut self, answer: &mut Answer) -> Option<()> {
        loop {
            let end = loop {
                if let Some(at) = find(&self.rest, b"\r\n") {
                    break at;
                }
                self.more().await.then_some(())?;
            };
            let line: Vec<u8> = self.rest.drain(..end + 2).collect();
            let size = std::str::from_utf8(&line[..end]).ok()?;
            let size = usize::from_str_radix(size, 16).ok()?;
            let is_filled = self.fill(size + 2).await;
            let got = size.min(self.rest.len());
            answer.body.extend(self.rest.drain(..got));
            is_filled.then_some(())?;
            self.rest.drain(..2);
            if size == 0 {
                return Some(());
            }
            answer.chunks.push(size);
        }
    }

    /// Reads until `rest` holds `bytes`; false when the connection ends before.
    async fn fill(&mut self, bytes: usize) -> bool {
        while self.rest.len() < bytes {
            if !self.more().await {
                return false;
            }
        }
        true
    }

    /// Reads once; false at the end, also at one by reset.
    async fn more(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        let read = timeout(PATIENCE, self.stream.read(&mut buffer)).await;
        let count = read.unwrap_or_else(|_| panic!("nothing came for {PATIENCE:?}"));
        let count = count.unwrap_or(0);
        self.rest.extend_from_slice(&buffer[..count]);
        count > 0
    }
}

fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: edge.test\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
