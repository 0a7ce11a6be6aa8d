//! Slow clients over TLS: those who do not come to the end of a handshake, and those who drip after it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::{Client, text};
use super::handshakes::rig_in_time;
use crate::framing::SHORT;
use crate::support::rig::{CHAT, chat};
use crate::support::tls::Certificates;
use crate::support::wait::PATIENCE;

const HOST: &str = "first.example";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a slow client is slow with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slow {
    /// It connects, and that is all.
    Silent,
    /// The first half of a handshake.
    Hello,
    /// It says what it speaks, and no more.
    Agreed(&'static str),
    /// HTTP/2's preface, as was agreed.
    Preface,
    /// A head of HTTP/1.1.
    Head,
}

const KINDS: [Slow; 6] = [
    Slow::Silent,
    Slow::Hello,
    Slow::Agreed("h2"),
    Slow::Agreed("http/1.1"),
    Slow::Preface,
    Slow::Head,
];

/// So many of each kind.
const EACH: usize = 20;

/// Sends these bytes one by one, the last one never, until the other side ends it.
async fn drip(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) {
    let (mut left, mut said) = (bytes, [0; 4_096]);
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            read = stream.read(&mut said) => match read {
                Ok(0) | Err(_) => return,
                // Settings, or that it was too slow.
                Ok(_) => {}
            },
            _ = ticks.tick(), if left.len() > 1 => {
                stream.write_all(&left[..1]).await.unwrap_or_default();
                left = &left[1..];
            }
        }
    }
}

async fn visit(certificates: &Certificates, address: std::net::SocketAddr, kind: Slow) {
    let protocol = match kind {
        Slow::Agreed(protocol) => protocol,
        Slow::Preface => "h2",
        Slow::Silent | Slow::Hello | Slow::Head => "http/1.1",
    };
    let client = Client::new(certificates, protocol, None);
    let visit = async {
        match kind {
            Slow::Silent => drip(TcpStream::connect(address).await.unwrap(), b"").await,
            Slow::Hello => {
                let tcp = TcpStream::connect(address).await.unwrap();
                drip(tcp, &client.hello(HOST)).await;
            }
            Slow::Agreed(_) => drip(client.raw(address, HOST).await.unwrap(), b"").await,
            Slow::Preface => drip(client.raw(address, HOST).await.unwrap(), PREFACE).await,
            Slow::Head => {
                let head = format!("GET /v1/models HTTP/1.1\r\nx: {}", "x".repeat(10_000));
                drip(client.raw(address, HOST).await.unwrap(), head.as_bytes()).await;
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, visit).await;
    assert!(ended.is_ok(), "{kind:?} is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_handshakes_and_heads_are_ended_in_time_and_nobody_else_notices() {
    let certificates = Certificates::of(&format!("DNS:{HOST}"));
    let rig = rig_in_time(&certificates, "3s").await;
    let address = rig.process().tls[0];
    let key = rig.admin().key(0).await;
    let bearer = format!("Bearer {}", key.secret);
    let before = rig.process().resident();
    rig.process().forget_peak();
    let over = AtomicBool::new(false);
    let slow = async {
        let kinds = KINDS.into_iter().flat_map(|kind| [kind; EACH]);
        let visits = kinds.map(|kind| visit(&certificates, address, kind));
        futures_util::future::join_all(visits).await;
        over.store(true, Relaxed);
    };
    let good = async {
        let mut served = 0;
        while !over.load(Relaxed) {
            for protocol in ["h2", "http/1.1"] {
                let client = Client::new(&certificates, protocol, None);
                let connection = client.connect(address, HOST).await.unwrap();
                let headers = [("authorization", bearer.as_str())];
                let answer = connection.post(CHAT, &headers, &chat("gpt-4o")).await;
                let answer = answer.unwrap();
                assert_eq!(answer.status(), 200);
                text(answer).await;
                served += 1;
            }
        }
        served
    };
    let ((), served) = tokio::join!(slow, good);
    let grown = rig.process().peak().saturating_sub(before) >> 20;
    println!("{served} served meanwhile, {grown} MiB more");
    assert!(served >= 10, "{served} served");
    assert!(grown < 100, "{grown} MiB more");
    rig.end().await;
}

#[tokio::test]
async fn a_short_request_over_tls_is_answered_at_once() {
    let certificates = Certificates::of(&format!("DNS:{HOST}"));
    let rig = rig_in_time(&certificates, "600s").await;
    let client = Client::new(&certificates, "http/1.1", None);
    let begun = Instant::now();
    for request in SHORT {
        let stream = client.raw(rig.process().tls[0], HOST).await;
        let mut stream = stream.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut status = [0; 10];
        stream.read_exact(&mut status).await.unwrap();
        assert!(status.starts_with(b"HTTP/1."), "{request}");
        assert!(matches!(status[9], b'2'..=b'4'), "{request}");
    }
    assert!(begun.elapsed() < Duration::from_secs(15));
    rig.end().await;
}

/// A port with TLS takes nothing in clear, not even where another one beside it does.
#[tokio::test]
async fn nothing_is_served_in_clear_where_tls_is_spoken() {
    let certificates = Certificates::of(&format!("DNS:{HOST}"));
    let rig = rig_in_time(&certificates, "600s").await;
    let mut stream = TcpStream::connect(rig.process().tls[0]).await.unwrap();
    let ask = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut said = Vec::new();
    // An alert, or a reset.
    stream.read_to_end(&mut said).await.ok();
    let said = String::from_utf8_lossy(&said);
    assert!(!said.contains("HTTP"), "{said}");
    let answer = reqwest::get(format!("{}/healthz", rig.url())).await;
    assert_eq!(answer.unwrap().status(), 200);
    rig.end().await;
}
