//! An inner request in a client's place, where Pingora cannot carry the client's own.
//!
//! Two cases need it: a body without a length that outgrew the replay buffer (see [`super::body`]),
//! and an upstream that is to be read to its end although the client has left (`on_client_gone:
//! drain`). The exchange moves into an inner request; the outer one pumps the answer to the client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use pingora::protocols::http::HttpTask;
use pingora::proxy::Session;
use pingora::proxy::subrequest::{BodyMode, Ctx as SubrequestCtx};
use pingora::{Error, ErrorType, Result};

use super::Ctx;

/// Longest time an upstream is read after its client left.
const DRAIN: Duration = Duration::from_secs(30);

/// What the outer request hands to the inner one.
pub struct Passenger {
    ctx: Mutex<Option<Box<Ctx>>>,
}

/// Whether the client is still there, as the inner request sees it.
pub type ClientGone = Arc<AtomicBool>;

/// Takes the outer request's context out of an inner session; `None` for ordinary sessions.
///
/// An HTTP/1 session makes the inner head of the outer one as it was received, whatever was changed
/// in it since: what it says of the body is corrected here, one byte stands for it. Must come before
/// anything asks the inner session about its body.
pub fn board(session: &mut Session) -> Result<Option<Box<Ctx>>> {
    let Some(ctx) = passenger(session) else {
        return Ok(None);
    };
    let head = session.req_header_mut();
    head.remove_header(&http::header::TRANSFER_ENCODING);
    head.remove_header("expect");
    head.insert_header(http::header::CONTENT_LENGTH, "1")?;
    Ok(Some(ctx))
}

fn passenger(session: &Session) -> Option<Box<Ctx>> {
    let user = session.subrequest_ctx.as_ref()?.user_ctx()?;
    user.downcast_ref::<Passenger>()?.ctx.lock().take()
}

/// Reads the one byte that stands for the body, so that Pingora's replay buffer is never empty.
pub async fn prime(session: &mut Session) -> Result<()> {
    session.as_mut().enable_retry_buffering();
    while session.as_mut().read_request_body().await?.is_some() {}
    Ok(())
}

/// Runs the inner request and pumps its answer. `Ok` when the answer went out whole.
pub async fn run(session: &mut Session, ctx: Box<Ctx>, drain: bool) -> Result<()> {
    let gone = Arc::clone(&ctx.client_gone);
    let spawner = session.subrequest_spawner.take();
    let Some(spawner) = spawner else {
        return Error::e_explain(
            ErrorType::InternalError,
            "no inner requests on this session",
        );
    };
    let head = session.req_header_mut();
    // The inner request is made from this head as HTTP/1.1 text, whatever the client speaks.
    head.set_version(http::Version::HTTP_11);
    head.remove_header(&http::header::TRANSFER_ENCODING);
    head.remove_header("expect");
    head.insert_header(http::header::CONTENT_LENGTH, "1")?;
    let passenger = Passenger {
        ctx: Mutex::new(Some(ctx)),
    };
    let inner_ctx = SubrequestCtx::builder()
        .body_mode(BodyMode::ExpectBody)
        .user_ctx(Box::new(passenger))
        .build();
    let (prepared, handle) = spawner.create_subrequest(session, inner_ctx);
    let inner = tokio::spawn(prepared.run());
    let stand_in = HttpTask::Body(Some(Bytes::from_static(b"{")), true);
    let mut answer = handle.rx;
    let input = handle.tx;
    if input.send(stand_in).await.is_err() {
        log::debug!("an inner request ended before it took its body");
    }
    let done = pump(session, &mut answer, &gone, drain).await;
    drop((answer, input));
    if let Err(fault) = inner.await {
        log::error!("an inner request failed: {fault}");
    }
    if done {
        Ok(())
    } else {
        Error::e_explain(ErrorType::ConnectionClosed, "the answer was not whole")
    }
}

async fn pump(
    session: &mut Session,
    answer: &mut tokio::sync::mpsc::Receiver<HttpTask>,
    gone: &ClientGone,
    drain: bool,
) -> bool {
    let mut done = false;
    let deadline = tokio::time::sleep(Duration::from_secs(0));
    tokio::pin!(deadline);
    let leave = |deadline: std::pin::Pin<&mut tokio::time::Sleep>| {
        gone.store(true, Ordering::Release);
        deadline.reset(tokio::time::Instant::now() + DRAIN);
    };
    loop {
        let here = !gone.load(Ordering::Acquire);
        tokio::select! {
            task = answer.recv() => {
                let Some(task) = task else { return done };
                if here && !done {
                    match session.write_response_tasks(vec![task]).await {
                        Ok(end) => done = end,
                        Err(_) if drain => leave(deadline.as_mut()),
                        Err(_) => { gone.store(true, Ordering::Release); return false }
                    }
                }
            }
            _ = session.downstream_session.read_body_or_idle(true), if here && !done => {
                if !drain {
                    gone.store(true, Ordering::Release);
                    return false;
                }
                leave(deadline.as_mut());
            }
            () = &mut deadline, if !here => return false,
        }
    }
}
