//! Request bodies: read whole (or peeked at), and made to reach the upstream, on every attempt.
//!
//! This is the only file that knows the replay trap. Pingora forwards a body that was read in
//! `request_filter` only if its retry buffer still has something of it: the buffer takes 64 KiB,
//! starts when it is enabled, and empties itself for good when it overflows. When an attempt begins,
//! a buffer with content is handed to `request_body_filter`, which may put any bytes in its place.
//!
//! - With a length: the buffer is enabled when at most 64 KiB remain, so that it always ends with a
//!   tail of the body in it; the filter replaces the tail by the whole.
//! - Without a length (chunked, HTTP/2): the end is not known ahead. Up to 64 KiB the buffer holds
//!   all of it; above, nothing remains, and the request goes through a [`super::relay`], an inner
//!   request whose body is known.
//! - Streamed uploads: the head that was peeked at is put before the first piece of each attempt.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pingora::proxy::Session;

use super::budget::Share;
use super::form::is_multipart;
use super::late;
use crate::exchange::Refusal;
use crate::metering::{FormModel, multipart_model};

/// Pingora's retry buffer, in bytes.
const REPLAY: usize = 64 * 1024;

/// Bytes of a streamed upload that are looked at for its `model` field.
const PEEK: usize = 64 * 1024;

/// How a request says how long its body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Empty,
    Length(usize),
    Unknown,
}

impl Framing {
    fn length(self) -> Option<usize> {
        match self {
            Framing::Length(length) => Some(length),
            Framing::Empty | Framing::Unknown => None,
        }
    }
}

/// A request body on its way upstream.
#[derive(Debug)]
pub enum Body {
    /// None, or not looked at: passes as it comes.
    Passing,
    /// Held whole: these bytes go out on each attempt, whatever was read.
    Held(Bytes),
    /// Peeked at: this head goes before what is still to come, on each attempt. `length` is that of the
    /// whole, where it is not what the client said.
    Headed {
        head: Bytes,
        due: bool,
        length: Option<usize>,
    },
}

/// The bounds a body is read under.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub max_body: usize,
    pub max_upload: usize,
    /// For how long more of it may be waited for at a stretch.
    pub patience: Duration,
    /// When the whole body must have come, however fast it comes.
    pub last: Instant,
}

/// A body read whole.
#[derive(Debug)]
pub struct Whole {
    pub bytes: Bytes,
    /// Pingora can replay it by itself on this session; otherwise it needs a relay.
    pub replays: bool,
}

fn framing(session: &mut Session) -> Framing {
    if session.as_mut().is_body_empty() {
        return Framing::Empty;
    }
    let length = session
        .req_header()
        .headers
        .get(http::header::CONTENT_LENGTH);
    let length = length
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    length.map_or(Framing::Unknown, Framing::Length)
}

/// Checks the declared length; tells a client that waits for it to go on (RFC 9110 section 10.1.1).
async fn begin(
    session: &mut Session,
    bounds: &Bounds,
    limit: usize,
    expects_continue: bool,
) -> Result<Framing, Refusal> {
    let framing = framing(session);
    if let Framing::Length(length) = framing
        && length > limit
    {
        return Err(Refusal::BodyTooLarge { limit });
    }
    if expects_continue && framing != Framing::Empty {
        let told = session.as_mut().write_continue_response().await;
        told.map_err(|_| client_gone())?;
    }
    if framing != Framing::Empty {
        late::expect_body(session, bounds.patience, bounds.last);
    }
    Ok(framing)
}

/// The session's watch ends a wait that is too long.
async fn next_piece(session: &mut Session) -> Result<Option<Bytes>, Refusal> {
    let read = session.as_mut().read_request_body().await;
    read.map_err(|_| {
        if late::ran_out(session) {
            too_slow()
        } else {
            client_gone()
        }
    })
}

/// Reads the body to its end. Not cancel safe: what was read is lost with the future.
pub async fn read_whole(
    session: &mut Session,
    bounds: &Bounds,
    share: &mut Share,
    expects_continue: bool,
) -> Result<Whole, Refusal> {
    let framing = begin(session, bounds, bounds.max_body, expects_continue).await?;
    if framing == Framing::Empty {
        return Ok(Whole {
            bytes: Bytes::new(),
            replays: true,
        });
    }
    read_all(session, framing, bounds, share).await
}

async fn read_all(
    session: &mut Session,
    framing: Framing,
    bounds: &Bounds,
    share: &mut Share,
) -> Result<Whole, Refusal> {
    let mut held = BytesMut::new();
    let mut first: Option<Bytes> = None;
    if framing == Framing::Unknown {
        session.as_mut().enable_retry_buffering();
    }
    loop {
        let so_far = first.as_ref().map_or(held.len(), Bytes::len);
        if let Framing::Length(length) = framing {
            if so_far >= length {
                break;
            }
            if length - so_far <= REPLAY {
                session.as_mut().enable_retry_buffering();
            }
        }
        let Some(piece) = next_piece(session).await? else {
            break;
        };
        let total = so_far + piece.len();
        if total > bounds.max_body {
            return Err(Refusal::BodyTooLarge {
                limit: bounds.max_body,
            });
        }
        share.grow_to(total)?;
        // Most bodies come in one piece: it is kept as it is, without a copy.
        match first.take() {
            None if held.is_empty() => first = Some(piece),
            None => held.extend_from_slice(&piece),
            Some(one) => {
                held.extend_from_slice(&one);
                held.extend_from_slice(&piece);
            }
        }
    }
    // HTTP/2 says the end apart from the last piece.
    while !session.as_mut().is_body_done() {
        match next_piece(session).await? {
            Some(piece) if !piece.is_empty() => return Err(longer_than_declared()),
            Some(_) => {}
            None => break,
        }
    }
    let bytes = first.unwrap_or_else(|| held.freeze());
    let replays = bytes.is_empty() || !session.as_ref().retry_buffer_truncated();
    Ok(Whole { bytes, replays })
}

/// What a peek at a streamed upload found.
#[derive(Debug)]
pub struct Peeked {
    pub model: Option<FormModel>,
    /// Bytes of the whole, where the client said so.
    pub length: Option<usize>,
    pub body: Body,
    /// The upload was short, came without a length and is here whole: it needs a relay.
    pub whole: Option<Bytes>,
}

/// Looks into the head of a body that is not held, for the form field `model` before the file.
pub async fn peek_upload(
    session: &mut Session,
    bounds: &Bounds,
    content_type: &str,
    expects_continue: bool,
) -> Result<Peeked, Refusal> {
    let framing = begin(session, bounds, bounds.max_upload, expects_continue).await?;
    if framing == Framing::Empty || !is_multipart(content_type) {
        return Ok(Peeked {
            model: None,
            length: None,
            body: Body::Passing,
            whole: None,
        });
    }
    let mut head = BytesMut::new();
    let mut model = None;
    let mut ended = false;
    // Without a length, all of a short one: it can be sent again then.
    while (model.is_none() || framing == Framing::Unknown) && head.len() < PEEK && !ended {
        if let Framing::Length(length) = framing {
            let remaining = length.saturating_sub(head.len());
            if remaining <= REPLAY {
                // What remains will be replayed by Pingora; the part before is ours to put back.
                session.as_mut().enable_retry_buffering();
                return peek_tail(session, head, length, content_type).await;
            }
        }
        match next_piece(session).await? {
            Some(piece) => head.extend_from_slice(&piece),
            None => ended = true,
        }
        ended |= session.as_mut().is_body_done();
        model = model.or_else(|| multipart_model(content_type, &head));
    }
    let head = head.freeze();
    let whole = ended.then(|| head.clone());
    Ok(Peeked {
        model,
        length: framing.length(),
        body: Body::Headed {
            head,
            due: true,
            length: None,
        },
        whole,
    })
}

/// The upload is short enough to be read to its end: then it is simply held.
async fn peek_tail(
    session: &mut Session,
    mut head: BytesMut,
    length: usize,
    content_type: &str,
) -> Result<Peeked, Refusal> {
    while head.len() < length {
        match next_piece(session).await? {
            Some(piece) => head.extend_from_slice(&piece),
            None => break,
        }
    }
    let bytes = head.freeze();
    Ok(Peeked {
        model: multipart_model(content_type, &bytes),
        length: Some(length),
        body: Body::Held(bytes),
        whole: None,
    })
}

impl Body {
    /// An attempt begins: a head that was sent to another peer is due again.
    pub fn attempt_begins(&mut self) {
        if let Body::Headed { due, .. } = self {
            *due = true;
        }
    }

    /// What goes to the upstream in place of `piece`.
    pub fn outgoing(&mut self, piece: &mut Option<Bytes>, end: bool) {
        match self {
            Body::Passing => {}
            Body::Held(bytes) => *piece = end.then(|| bytes.clone()),
            Body::Headed { head, due, .. } => {
                if *due {
                    *due = false;
                    let mut joined =
                        BytesMut::with_capacity(head.len() + piece.as_ref().map_or(0, Bytes::len));
                    joined.extend_from_slice(head);
                    joined.extend_from_slice(piece.as_deref().unwrap_or_default());
                    *piece = Some(joined.freeze());
                }
            }
        }
        // An empty last piece would end a chunked upstream request twice (pingora#935).
        if end && piece.as_ref().is_some_and(Bytes::is_empty) {
            *piece = None;
        }
        // An empty piece before the end would do the same.
        if !end && piece.is_none() {
            *piece = Some(Bytes::new());
        }
    }

    /// The length to declare upstream, where it is known better than the client's own word.
    pub fn length(&self) -> Option<usize> {
        match self {
            Body::Held(bytes) => Some(bytes.len()),
            Body::Headed { length, .. } => *length,
            Body::Passing => None,
        }
    }
}

fn client_gone() -> Refusal {
    Refusal::bad("the request body ended early")
}

pub fn too_slow() -> Refusal {
    Refusal::bad("the request body came too slowly")
}

fn longer_than_declared() -> Refusal {
    Refusal::bad("the request body is longer than its Content-Length")
}

/// Takes what a refused client still sends, so that it reads the refusal instead of a reset: at most
/// 64 MiB or 2 seconds.
pub async fn drain(session: &mut Session) {
    const MOST_BYTES: usize = 64 * 1024 * 1024;
    const LONGEST: Duration = Duration::from_secs(2);
    late::listen(session, LONGEST);
    let drained = async {
        let mut taken = 0;
        while taken < MOST_BYTES && !session.as_mut().is_body_done() {
            match session.as_mut().read_request_body().await {
                Ok(Some(piece)) => taken += piece.len(),
                Ok(None) | Err(_) => break,
            }
        }
    };
    // A client that is slower than that loses its answer: it had its chance.
    drop(tokio::time::timeout(LONGEST, drained).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_body_goes_out_whole_at_the_end_of_each_attempt() {
        let mut body = Body::Held(Bytes::from_static(b"whole"));
        for _ in 0..2 {
            body.attempt_begins();
            let mut piece = Some(Bytes::from_static(b"tail"));
            body.outgoing(&mut piece, true);
            assert_eq!(piece.as_deref(), Some(&b"whole"[..]));
        }
    }

    #[test]
    fn a_head_goes_before_the_first_piece_of_each_attempt() {
        let mut body = Body::Headed {
            head: Bytes::from_static(b"ab"),
            due: true,
            length: None,
        };
        for _ in 0..2 {
            body.attempt_begins();
            let mut piece = Some(Bytes::from_static(b"cd"));
            body.outgoing(&mut piece, false);
            assert_eq!(piece.as_deref(), Some(&b"abcd"[..]));
            let mut next = Some(Bytes::from_static(b"ef"));
            body.outgoing(&mut next, true);
            assert_eq!(next.as_deref(), Some(&b"ef"[..]));
        }
    }

    #[test]
    fn an_empty_last_piece_becomes_none() {
        let mut piece = Some(Bytes::new());
        Body::Passing.outgoing(&mut piece, true);
        assert_eq!(piece, None);
    }
}
