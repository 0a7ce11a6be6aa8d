//! Connections that die under a request: it is sent once more only where its peer never read it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{access_lines, answer_of, ask, counts, in_order, name_of, state};
use crate::support::h2_wire::{
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS, frame, read_frame,
};
use crate::support::rig::{CHAT, CREDENTIAL, Rig, chat};
use crate::support::upstream::json_answer;
use crate::support::wire::Wire;

fn good() -> String {
    json_answer("200 OK", "", &answer_of(1, 1))
}

/// Answers the first request of its first connection; after that it reads each request whole, waits,
/// and hangs up.
async fn reads_and_hangs_up(pause: Duration) -> (SocketAddr, Arc<Mutex<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let read = Arc::new(Mutex::new(0));
    let count = Arc::clone(&read);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut wire = Wire::over(stream);
                while wire.request().await.is_some() {
                    let nth = {
                        let mut count = count.lock().unwrap();
                        *count += 1;
                        *count
                    };
                    if nth > 1 {
                        tokio::time::sleep(pause).await;
                        return;
                    }
                    wire.send(good()).await;
                }
            });
        }
    });
    (address, read)
}

/// A request that was read whole may be billed, however soon its peer hangs up: it is not sent again.
#[tokio::test]
async fn what_was_read_whole_is_not_sent_again() {
    for pause in [Duration::ZERO, Duration::from_millis(300)] {
        let (address, read) = reads_and_hangs_up(pause).await;
        let rig = in_order(&[&format!("http://{address}")]).start().await;
        let key = rig.admin().key(0).await;
        assert_eq!(ask(&rig, &key).await, 200);
        assert_eq!(ask(&rig, &key).await, 502);
        assert_eq!(*read.lock().unwrap(), 2);
        let line = &access_lines(&rig, 2).await[1];
        assert_eq!(line["failed_attempts"][0]["reason"], "broken", "{line}");
        // Nor over a connection of its own.
        assert_eq!(ask(&rig, &key).await, 502);
        assert_eq!(*read.lock().unwrap(), 3);
        rig.end().await;
    }
}

/// What an HTTP/2 server by hand does with its requests, in turn; with the last one it goes on.
#[derive(Clone, Copy, Debug)]
enum Do {
    Answer,
    /// RST_STREAM with REFUSED_STREAM: it was not looked at (RFC 9113 section 8.7).
    Refuse,
    /// The same as soon as it has a request's head, whose body it does not take.
    RefuseHead,
    /// GOAWAY, with the request before as the last one that was looked at (section 6.8).
    GoAway,
    /// The connection ends, and nothing is said of the request.
    HangUp,
}

async fn http2_server(acts: &'static [Do]) -> (SocketAddr, Arc<Mutex<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let read = Arc::new(Mutex::new(0));
    let count = Arc::clone(&read);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(http2_connection(stream, acts, Arc::clone(&count)));
        }
    });
    (address, read)
}

const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];

async fn http2_connection(mut stream: TcpStream, acts: &[Do], read: Arc<Mutex<usize>>) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    while let Some(came) = read_frame(&mut stream).await {
        let (kind, flags, id) = (came.kind, came.flags, came.stream);
        if kind == SETTINGS && flags & ACK == 0 {
            let taken = frame(SETTINGS, ACK, 0, &[]);
            stream.write_all(&taken).await.unwrap();
        }
        let act = |nth: usize| acts[nth.min(acts.len() - 1)];
        let is_begun = kind == HEADERS && matches!(act(*read.lock().unwrap()), Do::RefuseHead);
        let is_whole = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
        if !is_begun && !is_whole {
            continue;
        }
        let nth = {
            let mut read = read.lock().unwrap();
            *read += 1;
            *read
        };
        match act(nth - 1) {
            Do::HangUp => return,
            Do::Refuse | Do::RefuseHead => {
                let refusal = frame(RST_STREAM, 0, id, &REFUSED_STREAM);
                stream.write_all(&refusal).await.unwrap();
            }
            Do::GoAway => {
                let last = [&(id - 2).to_be_bytes()[..], &[0; 4]].concat();
                stream.write_all(&frame(GOAWAY, 0, 0, &last)).await.unwrap();
            }
            Do::Answer => {
                // `:status 200` and a content type, as RFC 7541 has them in its table.
                let mut fields = vec![0x88, 0x0f, 0x10, 16];
                fields.extend(b"application/json");
                let body = answer_of(1, 1).to_string();
                let mut answer = frame(HEADERS, END_HEADERS, id, &fields);
                answer.extend(frame(DATA, END_STREAM, id, body.as_bytes()));
                stream.write_all(&answer).await.unwrap();
            }
        }
    }
}

async fn over_http2(address: SocketAddr) -> Rig {
    in_order(&[])
        .set(
            "pools.0.peers",
            json!([{"url": format!("http://{address}"), "credential": CREDENTIAL, "http2": true}]),
        )
        .start()
        .await
}

#[tokio::test]
async fn a_stream_that_was_refused_unread_is_sent_once_more() {
    let (address, read) = http2_server(&[Do::Answer, Do::Refuse, Do::Answer, Do::Refuse]).await;
    let rig = over_http2(address).await;
    let key = rig.admin().key(0).await;
    assert_eq!(ask(&rig, &key).await, 200);
    assert_eq!(ask(&rig, &key).await, 200);
    assert_eq!(*read.lock().unwrap(), 3);
    // Refused twice is refused, and yet no failure: nothing was processed.
    assert_eq!(ask(&rig, &key).await, 502);
    assert_eq!(*read.lock().unwrap(), 5);
    let url = format!("http://{address}");
    let labels = format!(r#"outcome="stale",peer="{}",pool="only""#, name_of(&url));
    counts(&rig, "upstream_attempts_total", &labels, 3).await;
    assert_eq!(state(&rig, 0).await["failures"], 0);
    // What is counted there is what the access log counts.
    let attempts = access_lines(&rig, 3).await;
    let attempts = attempts
        .iter()
        .map(|line| line["attempts"].as_u64().unwrap());
    assert_eq!(attempts.collect::<Vec<_>>(), [1, 2, 2]);
    rig.end().await;
}

/// Over HTTP/2, and behind it a fake over HTTP/1.1.
async fn before_a_fake(address: SocketAddr) -> Rig {
    let peers = json!([
        {"url": format!("http://{address}"), "credential": CREDENTIAL, "http2": true},
        {"url": "{fake0}", "credential": CREDENTIAL},
    ]);
    in_order(&[])
        .set("pools.0.peers", peers)
        .set("pools.0.cooldown", json!({"failures": 1, "for": "60s"}))
        .start()
        .await
}

/// Also where the refusal shows while more of the body than the peer takes at once is still to be sent.
#[tokio::test]
async fn what_is_refused_unread_twice_goes_to_the_next_peer_and_blames_none() {
    for (acts, size) in [(&[Do::Refuse][..], 10), (&[Do::RefuseHead], 300_000)] {
        let (address, read) = http2_server(acts).await;
        let rig = before_a_fake(address).await;
        let key = rig.admin().key(0).await;
        let mut body = chat("gpt-4o");
        body["messages"][0]["content"] = json!("word ".repeat(size / 5));
        for turn in 1..=2 {
            let answer = rig.post(CHAT, &key.secret, &body).await;
            assert_eq!(answer.status(), 200, "{size}");
            answer.bytes().await.unwrap();
            assert_eq!(*read.lock().unwrap(), 2 * turn, "{size}: it is still asked");
        }
        let lines = access_lines(&rig, 2).await;
        let failed = lines[1]["failed_attempts"].as_array().unwrap();
        let reasons: Vec<_> = failed.iter().map(|one| one["reason"].clone()).collect();
        assert_eq!(reasons, ["stale", "stale"], "{size}");
        assert_eq!(lines[1]["attempts"], 3);
        assert_eq!(state(&rig, 0).await["state"], "fit");
        assert_eq!(rig.admin().show(&key).await["request_count"], 2);
        rig.end().await;
    }
}

#[tokio::test]
async fn a_stream_that_a_goaway_leaves_out_is_sent_once_more() {
    let (address, read) = http2_server(&[Do::Answer, Do::GoAway, Do::Answer]).await;
    let rig = over_http2(address).await;
    let key = rig.admin().key(0).await;
    assert_eq!(ask(&rig, &key).await, 200);
    assert_eq!(ask(&rig, &key).await, 200);
    assert_eq!(*read.lock().unwrap(), 3);
    rig.end().await;
}

/// Many share the connection: its end says nothing of what became of each.
#[tokio::test]
async fn what_a_shared_connection_took_along_is_not_sent_again() {
    let (address, read) = http2_server(&[Do::Answer, Do::HangUp]).await;
    let rig = over_http2(address).await;
    let key = rig.admin().key(0).await;
    assert_eq!(ask(&rig, &key).await, 200);
    assert_eq!(ask(&rig, &key).await, 502);
    assert_eq!(*read.lock().unwrap(), 2);
    rig.end().await;
}
