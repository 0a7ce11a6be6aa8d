//! The Pingora shell: one callback per phase, each a few lines, and nothing that decides.
//!
//! | phase | file |
//! |---|---|
//! | a connection, an HTTP/2 stream | `door`: `watched`, by a `watch` that ends what takes too long |
//! | `request_filter` | `facts`, `socket` (head), `entry` (body, then the exchange is opened), `local` (answered here), `relay` |
//! | `upstream_peer` | `peer`, `addresses`; `edit` and `form` make the body of another pool |
//! | `upstream_request_filter` | `headers` |
//! | `request_body_filter` | `body` |
//! | `fail_to_connect`, `error_while_proxy`, `upstream_response_filter` | `retry`, `verdict` |
//! | `response_filter` | `headers`; the exchange chooses its meter |
//! | `response_body_filter` | the exchange's meter; `cut`, `withheld` |
//! | `fail_to_proxy` | `reply` |
//! | whose time is over | `tempo` (a body), `pace` (an upstream), `late` (who was it) |
//! | `logging` | `finish`: the exchange is closed, one line and its metrics |

mod active;
mod addresses;
pub mod ask;
mod body;
mod budget;
mod ctx;
mod cut;
pub mod door;
mod edit;
mod entry;
mod facts;
mod finish;
mod form;
mod h2_stream;
mod headers;
mod late;
mod local;
mod models;
mod pace;
mod peer;
mod places;
mod relay;
mod reply;
mod retry;
mod socket;
mod target;
mod tempo;
pub mod tls;
pub mod trip;
mod verdict;
mod watch;
mod watched;
mod withheld;

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, Result};

use crate::admin::EdgePort;
use crate::exchange::{Desk, Verdict};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;

use addresses::Addresses;
use body::Body;
use budget::Budget;
use ctx::{Ctx, Upload};
use entry::Next;

pub use active::{Active, ActiveRequest};

/// The proxy service.
pub struct Edge {
    desk: Arc<Desk>,
    metrics: Arc<Metrics>,
    access_log: Option<Arc<AccessLog>>,
    addresses: Addresses,
    trust: peer::Trust,
    budget: Arc<Budget>,
    models: models::ModelLists,
    port: EdgePort,
    active: Active,
}

impl Edge {
    pub fn new(
        desk: Arc<Desk>,
        metrics: Arc<Metrics>,
        access_log: Option<Arc<AccessLog>>,
        port: EdgePort,
        active: Active,
    ) -> Self {
        Edge {
            desk,
            metrics,
            access_log,
            addresses: Addresses::default(),
            trust: peer::Trust::default(),
            budget: Arc::default(),
            models: models::ModelLists::default(),
            port,
            active,
        }
    }
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edge").finish_non_exhaustive()
    }
}

#[async_trait]
impl ProxyHttp for Edge {
    type CTX = Box<Ctx>;

    fn new_ctx(&self) -> Self::CTX {
        Box::new(Ctx::new(self.active.enter()))
    }

    fn init_downstream_modules(&self, modules: &mut HttpModules) {
        modules.add_module(Box::new(withheld::Gates));
    }

    fn allow_spawning_subrequest(&self, session: &Session, _ctx: &Self::CTX) -> bool {
        session.subrequest_ctx.is_none()
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<bool> {
        trip::wire(session, "request_filter");
        if let Some(boarded) = relay::board(session)? {
            *ctx = boarded;
            relay::prime(session).await?;
            return Ok(false);
        }
        match self.enter(session, ctx).await {
            Ok(Next::Forward) => {
                trip::wire(session, "admitted");
                Ok(false)
            }
            Ok(Next::Answered) => Ok(true),
            Ok(Next::Relay { drain }) => {
                let inner = std::mem::replace(ctx, Box::new(Ctx::new(self.active.enter())));
                ctx.relayed = true;
                self.relay(session, inner, drain).await.map(|()| true)
            }
            Err(refusal) => self.refuse(session, ctx, &refusal).await.map(|()| true),
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Self::CTX,
    ) -> Result<Box<HttpPeer>> {
        trip::wire(session, "upstream_peer");
        self.choose_peer(ctx).await.map(Box::new)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _fd: RawFd,
        digest: Option<&Digest>,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        ctx.crossing = if reused {
            retry::crossing_time(digest)
        } else {
            Duration::ZERO
        };
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream_request: &mut RequestHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        trip::wire(session, "upstream_request_filter");
        ctx.body.attempt_begins();
        let length = ctx.body.length();
        let exchange = ctx.exchange.as_mut().ok_or_else(Self::no_peer)?;
        exchange.sent(ctx.upload == Upload::Comes);
        if ctx.way_back.is_some() {
            ctx.line.pace.sent(exchange.route().pool.config.timeouts);
        }
        let dialect = exchange.dialect;
        let peer = exchange.peer().ok_or_else(Self::no_peer)?;
        let is_socket = ctx
            .facts
            .as_ref()
            .is_some_and(|facts| facts.socket.is_some());
        if !is_socket {
            // What was not admitted as a WebSocket must not become one.
            upstream_request.remove_header(&http::header::UPGRADE);
            upstream_request.remove_header(&http::header::CONNECTION);
        }
        let alias = exchange.route().upstream_model.as_deref();
        headers::to_upstream(upstream_request, peer, dialect, length, alias)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        trip::wire(session, "request_body_filter");
        if !matches!(ctx.body, Body::Held(_)) {
            let came = body.as_ref().map_or(0, Bytes::len);
            self.upload_passes(session, ctx, came, end_of_stream)?;
        }
        ctx.body.outgoing(body, end_of_stream);
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Self::CTX,
        mut e: Box<Error>,
    ) -> Box<Error> {
        self.connect_failed(ctx, peer._address.as_inet().copied(), &mut e);
        e
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        e: Box<Error>,
        ctx: &mut Self::CTX,
        client_reused: bool,
    ) -> Box<Error> {
        self.after_failure(session, peer, e, ctx, client_reused)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        upstream_response: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        trip::wire(session, "upstream_response_filter");
        let Some(exchange) = ctx.exchange.as_mut() else {
            return Ok(());
        };
        let can_replay = retry::can_replay(session, &ctx.body);
        self.judge(exchange, upstream_response, can_replay)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        upstream_response: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        trip::wire(session, "response_filter");
        let status = upstream_response.status;
        if status.is_informational() && status != http::StatusCode::SWITCHING_PROTOCOLS {
            let peer = ctx.exchange.as_ref().and_then(|exchange| exchange.peer());
            if let Some(peer) = peer {
                headers::scrub_answer(upstream_response, peer);
            }
            return Ok(());
        }
        self.answer_begins(session, upstream_response, ctx)
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        trip::wire(session, "response_body_filter");
        if ctx.cutting.is_cut() {
            *body = None;
            return ctx.cutting.swallow().map(|()| None);
        }
        let Some(exchange) = ctx.exchange.as_mut() else {
            return Ok(None);
        };
        if Instant::now() > ctx.deadline {
            return Err(late::too_long());
        }
        if ctx.upload == Upload::Sent {
            let idle = exchange.route().pool.config.timeouts.idle;
            late::expect_answer(session, ctx.deadline, idle);
        }
        let chunk = body.clone().unwrap_or_default();
        let verdict = exchange.passes(&chunk, end_of_stream);
        if ctx.withheld.is_some() {
            *body = Self::withheld_passes(session, &chunk, end_of_stream, ctx)?;
            return Ok(None);
        }
        match verdict {
            Verdict::Forward => {}
            Verdict::Replace(bytes) => *body = (!bytes.is_empty()).then_some(bytes),
            Verdict::Cut => *body = Some(ctx.cutting.cut(exchange)?),
        }
        Ok(None)
    }

    fn upstream_response_trailer_filter(
        &self,
        session: &mut Session,
        _trailers: &mut http::HeaderMap,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        // They end a body of HTTP/2 whose last piece did not say so.
        Self::withheld_passes(session, &[], true, ctx).map(|_| ())
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        e: &Error,
        ctx: &mut Self::CTX,
    ) -> FailToProxy {
        let error_code = self.answer_failure(session, e, ctx).await;
        FailToProxy {
            error_code,
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, session: &mut Session, e: Option<&Error>, ctx: &mut Self::CTX) {
        trip::wire(session, "logging");
        late::end(session);
        if !ctx.relayed && !self.goes_back(ctx) {
            self.finish(session, e, ctx).await;
        }
    }

    /// Every failure has its own event; Pingora's line would repeat it with the raw target in it.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Self::CTX, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Self::CTX,
        _error: &Error,
        _context: pingora::proxy::ProxyWarnLogContext,
    ) -> bool {
        true
    }

    fn request_summary(&self, _session: &Session, ctx: &Self::CTX) -> String {
        ctx.request_id()
    }
}
