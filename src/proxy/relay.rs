//! An inner request in a client's place, where Pingora cannot carry the client's own.
//!
//! Three cases need it: a body without a length that outgrew the replay buffer (see [`super::body`]);
//! an upstream that is to be read to its end although the client has left (`on_client_gone: drain`);
//! and a pool whose `first_byte` and `idle` time-outs differ, which Pingora cannot tell apart. The
//! exchange moves into an inner request; the outer one pumps the answer to the client and looks at
//! the clock. One that is late with its first byte comes back, for another peer or for a refusal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use pingora::protocols::http::HttpTask;
use pingora::proxy::subrequest::{BodyMode, Ctx as SubrequestCtx};
use pingora::proxy::{Session, SubrequestSpawner};
use pingora::{Error, ErrorType, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::pace::Pace;
use super::{Ctx, Edge, late, retry, withheld};
use crate::config::RetryOn;
use crate::exchange::Refusal;

/// Longest time an upstream is read after its client left.
const DRAIN: Duration = Duration::from_secs(30);

/// What the outer request hands to the inner one.
pub struct Passenger {
    ctx: Mutex<Option<Box<Ctx>>>,
}

/// What the outer request tells the inner one.
#[derive(Debug, Default)]
pub struct Line {
    client_gone: AtomicBool,
    pub pace: Pace,
}

impl Line {
    pub fn client_is_gone(&self) -> bool {
        self.client_gone.load(Ordering::Acquire)
    }
}

/// The way back of a context whose upstream was late.
pub type WayBack = oneshot::Sender<Box<Ctx>>;

/// How an inner request went.
enum Ride {
    Whole,
    Broken,
    /// No first byte in time.
    Back(Box<Ctx>),
}

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

impl Edge {
    /// Runs inner requests until one has answered. `Ok` when an answer went out whole.
    pub(super) async fn relay(
        &self,
        session: &mut Session,
        mut ctx: Box<Ctx>,
        drain: bool,
    ) -> Result<()> {
        let Some(spawner) = session.subrequest_spawner.take() else {
            return Error::e_explain(
                ErrorType::InternalError,
                "no inner requests on this session",
            );
        };
        let (deadline, words) = (ctx.deadline, late::Words::of(&ctx));
        loop {
            match run(session, &spawner, ctx, drain).await? {
                Ride::Whole => return Ok(()),
                Ride::Broken => {
                    if Instant::now() >= deadline.into() {
                        words.tell(session).await;
                    }
                    let why = "the answer was not whole";
                    return Error::e_explain(ErrorType::ConnectionClosed, why);
                }
                Ride::Back(back) => ctx = back,
            }
            let mut error = Error::explain(ErrorType::ReadTimedout, "no first byte").into_up();
            if self.came_late(&mut ctx, &mut error) {
                continue;
            }
            session.set_keepalive(None);
            let refused = self
                .refuse(session, &mut ctx, &Refusal::UpstreamTimeout)
                .await;
            self.finish(session, Some(&error), &mut ctx).await;
            return refused;
        }
    }

    /// Gives a context back whose upstream was late with its first byte; false where it was not.
    pub(super) fn goes_back(&self, ctx: &mut Box<Ctx>) -> bool {
        let unanswered = ctx.exchange.as_ref().is_some_and(|one| one.status() == 0);
        if !unanswered || !ctx.line.pace.is_late() {
            return false;
        }
        let Some(way_back) = ctx.way_back.take() else {
            return false;
        };
        let inner = std::mem::replace(ctx, Box::new(Ctx::new(self.active.enter())));
        match way_back.send(inner) {
            Ok(()) => true,
            // Nobody waits for it any more.
            Err(inner) => {
                *ctx = inner;
                false
            }
        }
    }

    /// Books an attempt without a first byte in time; true where another one is to follow.
    fn came_late(&self, ctx: &mut Ctx, error: &mut Error) -> bool {
        ctx.refused = None;
        let overdue = ctx.is_overdue();
        let Some(exchange) = ctx.exchange.as_mut() else {
            return false;
        };
        self.attempt_failed(exchange, error);
        !overdue && retry::wants_another(exchange, Some(RetryOn::Timeout))
    }
}

async fn run(
    session: &mut Session,
    spawner: &SubrequestSpawner,
    mut ctx: Box<Ctx>,
    drain: bool,
) -> Result<Ride> {
    let line = Arc::clone(&ctx.line);
    line.pace.begin(ctx.deadline);
    let (give_back, back) = oneshot::channel();
    ctx.way_back = Some(give_back);
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
    let done = pump(session, &mut answer, &line, drain).await;
    drop((answer, input));
    if let Err(fault) = inner.await {
        log::error!("an inner request failed: {fault}");
    }
    Ok(match back.await {
        _ if done => Ride::Whole,
        Ok(ctx) => Ride::Back(ctx),
        Err(_) => Ride::Broken,
    })
}

async fn pump(
    session: &mut Session,
    answer: &mut mpsc::Receiver<HttpTask>,
    line: &Line,
    drain: bool,
) -> bool {
    let mut done = false;
    let deadline = tokio::time::sleep(Duration::from_secs(0));
    tokio::pin!(deadline);
    let leave = |deadline: std::pin::Pin<&mut tokio::time::Sleep>| {
        line.client_gone.store(true, Ordering::Release);
        deadline.reset(Instant::now() + DRAIN);
    };
    loop {
        let here = !line.client_is_gone();
        tokio::select! {
            task = answer.recv() => {
                let Some(task) = task else { return done };
                if here && !done && !withheld::is_not_yet(&task) {
                    match session.write_response_tasks(vec![task]).await {
                        Ok(end) => done = end,
                        Err(_) if drain => leave(deadline.as_mut()),
                        Err(_) => { line.client_gone.store(true, Ordering::Release); return false }
                    }
                }
                line.pace.piece_came();
            }
            _ = session.downstream_session.read_body_or_idle(true), if here && !done => {
                if !drain {
                    line.client_gone.store(true, Ordering::Release);
                    return false;
                }
                leave(deadline.as_mut());
            }
            () = line.pace.runs_out(), if here && !done => return false,
            () = &mut deadline, if !here => return false,
        }
    }
}
