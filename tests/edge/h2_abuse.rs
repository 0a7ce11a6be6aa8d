//! Clients that misuse HTTP/2: floods of resets, streams, headers and empty frames. What they cost is
//! bounded, they are ended or refused, and others on the same port do not notice.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::json;

use crate::support::h2_wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, H2Wire, HEADERS, PING, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, head,
};
use crate::support::rig::{CHAT, Rig, chat, chat_stream};
use crate::support::soak::soak;

/// `RST_STREAM` with `CANCEL`.
const CANCEL: [u8; 4] = 8_u32.to_be_bytes();

/// How they misuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Abuse {
    /// Streams that are opened and reset in one breath (CVE-2023-44487).
    Resets,
    /// The same a little slower, so that each is admitted before it is reset.
    Admitted,
    /// Far more streams than are allowed at once, none of which ends.
    Streams,
    /// A head that goes on for ever (CVE-2024-27316).
    Continuations,
    /// A whole head that is far too large.
    LargeHead,
    /// A body of nothing, for ever.
    EmptyData,
    /// What is to be acknowledged, each time (CVE-2019-9512).
    Pings,
    /// The same (CVE-2019-9515).
    Settings,
    /// Room for answers, byte by byte.
    Windows,
    /// An order of streams that are never opened.
    Priorities,
}

const ALL: [Abuse; 10] = [
    Abuse::Resets,
    Abuse::Admitted,
    Abuse::Streams,
    Abuse::Continuations,
    Abuse::LargeHead,
    Abuse::EmptyData,
    Abuse::Pings,
    Abuse::Settings,
    Abuse::Windows,
    Abuse::Priorities,
];

/// Frames that are allowed in any number: they may cost work, but neither memory nor others' time.
const ALLOWED: [Abuse; 4] = [
    Abuse::Pings,
    Abuse::Settings,
    Abuse::Windows,
    Abuse::Priorities,
];

fn times() -> u32 {
    2_000 * if soak() > 1 { 20 } else { 1 }
}

/// How it went for one of them.
#[derive(Debug, Default)]
struct Went {
    /// Turns until the connection was closed, or all of them.
    turns: u32,
    closed: bool,
    /// Why the connection was ended, as far as that could still be read.
    reason: Option<u32>,
    /// Streams that were reset or refused, one by one.
    reset: usize,
    /// Answers that began.
    answered: usize,
}

/// One turn of it, as bytes.
fn turn(how: Abuse, at: u32, bearer: &str) -> Vec<u8> {
    let mut chat_head = head("POST", CHAT);
    chat_head.push(("authorization", bearer));
    let large = "x".repeat(16_000);
    let field = block(&[("x-large", &large)]);
    let chat_head = block(&chat_head);
    let stream = 2 * at + 1;
    let open = || frame(HEADERS, END_HEADERS, stream, &chat_head);
    let reset = frame(RST_STREAM, 0, stream, &CANCEL);
    match how {
        Abuse::Resets => [open(), reset].concat(),
        Abuse::Admitted => {
            let body = chat_stream("gpt-4o").to_string();
            let before = at.checked_sub(1).map(|at| {
                let stream = 2 * at + 1;
                frame(RST_STREAM, 0, stream, &CANCEL)
            });
            let body = frame(DATA, END_STREAM, stream, body.as_bytes());
            [open(), body, before.unwrap_or_default()].concat()
        }
        Abuse::Streams => open(),
        Abuse::Continuations if at == 0 => frame(HEADERS, 0, 1, &chat_head),
        Abuse::Continuations => frame(CONTINUATION, 0, 1, &field),
        Abuse::LargeHead => {
            let first = frame(HEADERS, 0, stream, &chat_head);
            let more = frame(CONTINUATION, 0, stream, &field).repeat(7);
            [
                first,
                more,
                frame(CONTINUATION, END_HEADERS, stream, &field),
            ]
            .concat()
        }
        Abuse::EmptyData if at == 0 => open(),
        Abuse::EmptyData => frame(DATA, 0, 1, &[]).repeat(100),
        Abuse::Pings => frame(PING, 0, 0, &[7; 8]).repeat(20),
        // SETTINGS_INITIAL_WINDOW_SIZE, which concerns every stream.
        Abuse::Settings => frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, at as u8]).repeat(20),
        Abuse::Windows => frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()).repeat(20),
        // Exclusively below the connection: RFC 7540 section 6.3.
        Abuse::Priorities => frame(PRIORITY, 0, stream, &[0x80, 0, 0, 0, 15]).repeat(20),
    }
}

/// Misuses one connection until it is closed, or for so many turns; then hears what was said to it.
async fn misuse(rig: &Rig, key: &str, how: Abuse) -> Went {
    let mut wire = H2Wire::connect(rig.edge()).await;
    let bearer = format!("Bearer {key}");
    let mut went = Went::default();
    while went.turns < times() && wire.send_raw(&turn(how, went.turns, &bearer)).await {
        went.turns += 1;
        if ALLOWED.contains(&how) {
            // Who does not read what is acknowledged is not read from any more.
            wire.take_ready();
        }
        if how == Abuse::Admitted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    // What is asked last of all is answered behind all the rest, where the connection still serves.
    let last = 2 * times() + 1;
    let asked = wire.open(last, &head("GET", "/healthz"), true).await;
    went.closed = !asked || went.turns < times();
    loop {
        let Some(frame) = wire.frame().await else {
            went.closed = true;
            return went;
        };
        match frame.kind {
            GOAWAY => went.reason = frame.payload[4..8].try_into().ok().map(u32::from_be_bytes),
            RST_STREAM => went.reset += 1,
            HEADERS => went.answered += 1,
            _ => {}
        }
        if frame.stream == last && frame.flags & END_STREAM != 0 {
            return went;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_misuses_http2_is_bounded_and_nobody_else_notices() {
    let rig = Rig::builder()
        .set("edge.request_timeout", json!("5s"))
        .start()
        .await;
    let key = rig.admin().key(1_000_000_000).await;
    let good_key = rig.admin().key(0).await;
    for how in ALL {
        let before = rig.process().resident();
        rig.process().forget_peak();
        let over = AtomicBool::new(false);
        let abuse = async {
            let all = (0..4).map(|_| misuse(&rig, &key.secret, how));
            let went = futures_util::future::join_all(all).await;
            over.store(true, Relaxed);
            went
        };
        let good = async {
            let (mut served, h2) = (0, rig.h2());
            while served < 10 || !over.load(Relaxed) {
                let url = format!("{}{CHAT}", rig.url());
                let request = h2.post(url).bearer_auth(&good_key.secret);
                let answer = request.json(&chat("gpt-4o")).send().await.unwrap();
                assert_eq!(answer.status(), 200, "{how:?}");
                answer.bytes().await.unwrap();
                served += 1;
            }
            served
        };
        let (went, served) = tokio::join!(abuse, good);
        rig.admin().settled().await;
        let grown = rig.process().peak().saturating_sub(before) >> 20;
        let is_ended = |one: &Went| one.closed != ALLOWED.contains(&how);
        assert!(went.iter().all(is_ended), "{how:?}: {went:?}");
        println!("{how:?}: {served} served meanwhile, {grown} MiB more; {went:?}");
        assert!(grown < 100, "{how:?}: {grown} MiB");
    }
    rig.end().await;
}
