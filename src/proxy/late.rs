//! Who was late, where a failure is one of time, and what a client is told whose answer had begun.
//!
//! A peer that says nothing and a client that sends or reads nothing look alike to Pingora: a read that
//! did not come in time. A peer must not be blamed for a client's slowness, or a few slow uploads would
//! take it out of the rotation.

use std::time::{Duration, Instant};

use http::header;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType};

use super::Ctx;
use super::reply::Reply;
use super::watch::Watch;
use super::watched::watch;
use crate::exchange::Refusal;
use crate::language::Language;
use crate::metering::Dialect;

/// For how much longer than the request's time its client is listened to: a peer that is read until
/// then has its time-out noticed first, as its own.
const AFTER_ALL: Duration = Duration::from_millis(100);

/// The client's connection ends with the request's time.
pub fn begin(session: &Session, ctx: &Ctx) {
    if let Some(watch) = watch(&session.downstream_session) {
        watch.request_until(ctx.deadline + AFTER_ALL);
    }
}

/// The body, or the rest of it, must come in its time: see `tempo`.
pub fn expect_body(session: &Session, patience: Duration, last: Instant) {
    if let Some(watch) = watch(&session.downstream_session) {
        watch.body_until(patience, last);
    }
}

/// The client is listened to for so long, whatever it was late with.
pub fn listen(session: &Session, time: Duration) {
    if let Some(watch) = watch(&session.downstream_session) {
        watch.request_until(Instant::now() + time);
    }
}

/// Whether a read was ended because the client was too slow.
pub fn ran_out(session: &Session) -> bool {
    watch(&session.downstream_session).is_some_and(|watch| watch.ran_out())
}

/// A streamed body is sent: the answer, or more of it, must come in this time. Where both its sides are
/// streams, no time-out of Pingora's can tell them apart.
pub fn expect_answer(session: &Session, deadline: Instant, allowed: Duration) {
    if let Some(watch) = watch(&session.downstream_session) {
        watch.request_until((Instant::now() + allowed).min(deadline + AFTER_ALL));
    }
}

/// The request is over, and its connection may bring another.
pub fn end(session: &Session) {
    if let Some(watch) = watch(&session.downstream_session) {
        watch.request_ended();
    }
}

/// A failure in the terms of who was late; any other one as it is.
pub fn attributed(session: &mut Session, error: Box<Error>) -> Box<Error> {
    let ran_out = *error.esource() == ErrorSource::Downstream && ran_out(session);
    if !ran_out && *error.etype() != ErrorType::ReadTimedout {
        return error;
    }
    let watch = watch(&session.downstream_session);
    if watch.is_some_and(Watch::is_body_overdue) && !session.as_mut().is_body_done() {
        slow_body()
    } else if ran_out {
        too_long()
    } else {
        error
    }
}

/// The rest of the body did not come in time.
fn slow_body() -> Box<Error> {
    Error::explain(ErrorType::ReadTimedout, "the body came too slowly").into_down()
}

/// The exchange goes on beyond `edge.request_timeout`.
pub fn too_long() -> Box<Error> {
    let why = "the answer takes longer than edge.request_timeout";
    Error::explain(ErrorType::ReadTimedout, why).into_up()
}

/// What a client is told whose stream of events has no more time.
#[derive(Debug)]
pub struct Words {
    dialect: Dialect,
    request_id: String,
}

impl Words {
    pub fn of(ctx: &Ctx) -> Words {
        Words {
            dialect: ctx.dialect(),
            request_id: ctx.request_id(),
        }
    }

    /// Ends the stream with its dialect's error event. Any other answer can only be broken off: nothing
    /// legible can be put behind a half of it.
    pub async fn tell(&self, session: &mut Session) {
        let is_stream = session.response_written().is_some_and(|head| {
            let kind = head.headers.get(header::CONTENT_TYPE);
            head.status.is_success()
                && !head.headers.contains_key(header::CONTENT_ENCODING)
                && kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
        });
        if !is_stream {
            return;
        }
        let (id, refusal) = (&self.request_id, Refusal::UpstreamTimeout);
        let reply = Reply::new(&refusal, self.dialect, id, Language::English);
        // It may have stopped inside an event.
        let words = [b"\n\n", &reply.stream_event(self.dialect)[..]].concat();
        let told = session.write_response_body(Some(words.into()), true).await;
        if told.is_err() {
            log::debug!("the client of a stream without time was gone");
        }
    }
}
