//! HTTP/2 by hand (RFC 9113, RFC 7541), for what no client library would send.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::wait::PATIENCE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One connection.
#[derive(Debug)]
pub struct H2Wire {
    stream: TcpStream,
    rest: Vec<u8>,
}

/// One frame as it came.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// From the nine bytes before a payload, whose length comes with it.
    fn of_head(head: &[u8]) -> (Frame, usize) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let frame = Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5] & 0x7F, head[6], head[7], head[8]]),
            payload: Vec::new(),
        };
        (frame, length as usize)
    }
}

/// The next frame that a client sends to a server by hand; `None` where the connection ends.
pub async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let (mut frame, length) = Frame::of_head(&head);
    frame.payload.resize(length, 0);
    stream.read_exact(&mut frame.payload).await.ok()?;
    Some(frame)
}

impl H2Wire {
    /// Connects and opens the connection, with prior knowledge.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut wire = H2Wire {
            stream,
            rest: Vec::new(),
        };
        assert!(wire.send_raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await);
        assert!(wire.send(SETTINGS, 0, 0, &[]).await);
        wire
    }

    /// False where the connection is closed.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> bool {
        let sent = timeout(PATIENCE, self.stream.write_all(bytes)).await;
        sent.expect("nobody takes what is sent").is_ok()
    }

    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.send_raw(&frame(kind, flags, stream, payload)).await
    }

    /// Opens a stream with a whole head.
    pub async fn open(&mut self, stream: u32, head: &[(&str, &str)], end: bool) -> bool {
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.send(HEADERS, flags, stream, &block(head)).await
    }

    /// Takes what has come, without waiting; frames are read of it later.
    pub fn take_ready(&mut self) {
        while matches!(self.stream.try_read_buf(&mut self.rest), Ok(1..)) {}
    }

    /// The next frame; `None` where the connection ends. Settings and pings are acknowledged.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            let head = self.take(9).await?;
            let (mut frame, length) = Frame::of_head(&head);
            frame.payload = self.take(length).await?;
            match (frame.kind, frame.flags & ACK) {
                (SETTINGS, 0) => drop(self.send(SETTINGS, ACK, 0, &[]).await),
                (PING, 0) => drop(self.send(PING, ACK, 0, &frame.payload).await),
                (SETTINGS | PING, _) => {}
                _ => return Some(frame),
            }
        }
    }

    /// The next frame of one kind on one stream; others are passed over.
    pub async fn frame_of(&mut self, kind: u8, stream: u32) -> Option<Frame> {
        loop {
            let frame = self.frame().await?;
            if (frame.kind, frame.stream) == (kind, stream) {
                return Some(frame);
            }
        }
    }

    /// Status and body of a short answer; `None` where the stream or the connection ends before.
    pub async fn answer(&mut self, stream: u32) -> Option<(u16, Vec<u8>)> {
        let (mut status_seen, mut body) = (0, Vec::new());
        loop {
            let frame = self.frame().await?;
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                HEADERS => status_seen = status(&frame.payload),
                DATA => body.extend_from_slice(&frame.payload),
                RST_STREAM => return None,
                _ => continue,
            }
            if frame.flags & END_STREAM != 0 {
                return Some((status_seen, body));
            }
        }
    }

    async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.rest.len() < count {
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.rest)).await;
            let read = read.expect("nothing came");
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
        Some(self.rest.drain(..count).collect())
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A request's head; pseudo-headers come first.
pub fn head<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", method),
        (":scheme", "http"),
        (":authority", "edge.test"),
        (":path", path),
    ]
}

/// A header block: every field literal, none indexed, no Huffman code.
pub fn block(head: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in head {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// RFC 7541 section 5.1, with a prefix of 7 bits.
fn length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        block.push(length as u8);
        return;
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// The status of an answer, which comes first in its block.
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may precede it.
    let block = match block.iter().position(|byte| byte & 0xE0 != 0x20) {
        Some(at) => &block[at..],
        None => panic!("no status in {block:?}"),
    };
    if let Some(at) = block[0].checked_sub(0x88).filter(|at| *at < 7) {
        return [200, 204, 206, 304, 400, 404, 500][usize::from(at)];
    }
    assert!(matches!(block[0], 0x48 | 0x08 | 0x18), "{block:?}");
    let text = &block[2..2 + usize::from(block[1] & 0x7F)];
    if block[1] & 0x80 == 0 {
        return std::str::from_utf8(text).unwrap().parse().unwrap();
    }
    let mut bits = text
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
    let mut take = |count| {
        bits.by_ref()
            .take(count)
            .fold(0, |code, bit| code * 2 + bit)
    };
    (0..3).fold(0, |status, _| {
        let code = take(5);
        // 0 to 2 have five bits, 3 to 9 six, from 011001 on.
        let digit = if code < 3 {
            code
        } else {
            code * 2 + take(1) - 0b01_1001 + 3
        };
        status * 10 + digit
    })
}
