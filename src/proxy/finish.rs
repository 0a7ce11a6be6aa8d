//! The end of a request: failures told to the client, the exchange closed, one line and its metrics.

use std::sync::Arc;
use std::time::Duration;

use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType};

use super::{Ctx, Edge, cut, late, retry, withheld};
use crate::exchange::{Closed, End, Exchange, Refusal, RefusedFacts};
use crate::metering::Usage;
use crate::quota::Settled;
use crate::store::UsageEvent;
use crate::telemetry::access_log::{AccessLine, NotServed};
use crate::telemetry::event::{ExchangeEnded, Refused};
use crate::telemetry::label::Flag;
use crate::time::UnixMs;

impl Edge {
    /// Tells the client of a failure where that is still possible; answers the status written, or 0.
    pub(super) async fn answer_failure(
        &self,
        session: &mut Session,
        e: &Error,
        ctx: &mut Ctx,
    ) -> u16 {
        if cut::is_cut(e) {
            // The error event is out; what is missing is the end of the body.
            if session.write_response_body(None, true).await.is_err() {
                log::debug!("a cut stream's client was gone");
            }
            return 0;
        }
        if withheld::is_withheld(e) {
            return Self::show_withheld(session, ctx).await;
        }
        Self::forget_withheld(session, ctx);
        // After a head nothing can be said any more: the connection breaks, so that a truncated
        // answer does not look like a whole one.
        if withheld::has_begun(session) {
            if ctx.is_overdue() && *e.esource() == ErrorSource::Upstream {
                ctx.refused = Some((504, Refusal::UpstreamTimeout.code()));
                late::Words::of(ctx).tell(session).await;
            }
            return 0;
        }
        let max_upload = self.desk.live.load().config.edge.max_upload;
        let Some(refusal) = retry::refusal(e, max_upload) else {
            return 0;
        };
        session.set_keepalive(None);
        if self.refuse(session, ctx, &refusal).await.is_err() {
            log::debug!("a refused client was gone");
        }
        ctx.refused.map_or(0, |(status, _)| status)
    }

    /// Closes the exchange, or books the refusal; emits the one event of this request.
    pub(super) async fn finish(&self, session: &mut Session, e: Option<&Error>, ctx: &mut Ctx) {
        let status = session
            .response_written()
            .map_or(0, |head| head.status.as_u16());
        match ctx.exchange.take() {
            Some(exchange) => self.close(exchange, status, e, ctx).await,
            None => self.refused(session, status, ctx).await,
        }
    }

    async fn close(&self, mut exchange: Exchange, status: u16, e: Option<&Error>, ctx: &Ctx) {
        let end = self.end_of(&exchange, e, ctx);
        let code = ctx
            .refused
            .map(|(_, code)| code)
            .or((end == End::Cut).then_some("QUOTA_EXCEEDED"))
            .or((ctx.line.pace.is_late() && ctx.is_overdue())
                .then_some(Refusal::UpstreamTimeout.code()));
        let error = code.map(|code| (code, e.map_or("", |e| e.etype().as_str())));
        // One whose answer was drained ended well, and yet nobody was there to read it.
        if ctx.line.client_is_gone() {
            exchange.client_left();
        }
        let must_count = exchange.must_count_text();
        let mut ended = if must_count {
            let error = error.map(|(code, text)| (code, text.to_owned()));
            let counted = tokio::task::spawn_blocking(move || {
                let error = error.as_ref().map(|(code, text)| (*code, text.as_str()));
                exchange.ended(end, error)
            });
            // A panic in there dropped the exchange, and its drop has settled it.
            let Ok(counted) = counted.await else { return };
            counted
        } else {
            exchange.ended(end, error)
        };
        self.answer_ended(&mut ended.exchange, end, ctx.is_overdue());
        let closed = ended.settle().await;
        self.metrics.exchange_ended();
        if let Some(closed) = closed {
            self.emit(&ended.exchange, closed, status, code, ctx);
        }
    }

    fn end_of(&self, exchange: &Exchange, e: Option<&Error>, ctx: &Ctx) -> End {
        let gone = ctx.line.client_is_gone();
        let late = ctx.line.pace.is_late();
        match e {
            _ if ctx.cutting.is_cut() => End::Cut,
            Some(e) if withheld::is_withheld(e) => End::Answered,
            // A WebSocket on which nothing is said any more is over.
            Some(e) if exchange.is_socket() && (late || is_silence(e)) => End::Answered,
            Some(_) if late && exchange.body_has_begun() => End::UpstreamBroke,
            Some(_) if late => End::Failed,
            // Its upload came too slowly: no upstream got it whole.
            Some(e) if retry::is_of_slow_client(e) && exchange.status() == 0 => End::Failed,
            Some(e) if *e.esource() == ErrorSource::Downstream && !retry::is_status(e) => {
                End::ClientGone
            }
            Some(_) if gone => End::ClientGone,
            Some(_) if exchange.body_has_begun() => End::UpstreamBroke,
            Some(_) => End::Failed,
            None => End::Answered,
        }
    }

    fn emit(
        &self,
        exchange: &Exchange,
        closed: Closed,
        status: u16,
        code: Option<&'static str>,
        ctx: &Ctx,
    ) {
        let Closed {
            event,
            settled,
            capped,
            attempts,
        } = closed;
        let mut flags = Vec::new();
        let mut flag = |is: bool, flag| {
            if is {
                flags.push(flag);
            }
        };
        let gone = event.client_disconnected;
        flag(event.estimated, Flag::Estimated);
        flag(capped, Flag::Capped);
        flag(matches!(settled, Some(Settled::Late { .. })), Flag::Late);
        flag(gone, Flag::ClientDisconnected);
        flag(ctx.cutting.is_cut(), Flag::Cut);
        let debt_tokens = match settled {
            Some(Settled::Applied { debt, .. }) => debt.tokens,
            _ => 0,
        };
        let usage = usage_of(&event);
        let pool = self.metrics.pool(&exchange.route().pool.config.name);
        let millis = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        ExchangeEnded {
            took: ctx.started.elapsed(),
            first_byte: event.first_byte_ms.map(millis),
            used: Some((&usage, &pool)),
            debt_tokens,
            flags: &flags,
            line: AccessLine {
                time: event.created_at,
                request_id: event.request_id,
                key: Some(event.api_key_id),
                method: event.request_method,
                path: event.request_path,
                status,
                model: event.model,
                pool: event.pool.map(Arc::from),
                peer: event.peer.map(Arc::from),
                attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
                failed_attempts: failed_attempts(exchange),
                passed_over: ctx.passed_over.clone(),
                prompt_tokens: event.prompt_tokens,
                completion_tokens: event.completion_tokens,
                cached_tokens: event.cached_tokens,
                cost_nano: event.total_cost_nano,
                duration_ms: event.response_time_ms,
                first_byte_ms: event.first_byte_ms,
                bytes_in: i64::try_from(ctx.request_size).unwrap_or(i64::MAX),
                bytes_out: event.response_size,
                code,
                client_disconnected: gone,
                estimated: event.estimated,
                reason: event.reason,
            },
        }
        .emit(&self.metrics, self.access_log.as_deref());
    }

    async fn refused(&self, session: &Session, status: u16, ctx: &Ctx) {
        let Some(facts) = ctx.facts.as_deref() else {
            return;
        };
        let took = ctx.started.elapsed();
        let took_ms = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
        let code = ctx.refused.map(|(_, code)| code);
        if let Some(kind) = code {
            Refused { kind }.emit(&self.metrics);
        }
        if let (Some(key), Some(code)) = (&ctx.key, code) {
            let refused = RefusedFacts {
                id: ctx.id,
                method: &facts.method,
                path: &facts.path,
                model: ctx.model.as_deref(),
                status,
                code,
                request_size: i64::try_from(ctx.request_size).unwrap_or(i64::MAX),
                took_ms,
            };
            self.desk.book_refusal(key, refused).await;
        }
        let line = AccessLine {
            time: UnixMs::now(),
            request_id: ctx.request_id(),
            key: ctx.key.as_ref().map(|key| key.id),
            method: facts.method.clone(),
            path: facts.path.clone(),
            status,
            model: ctx.model.clone(),
            duration_ms: took_ms,
            bytes_in: i64::try_from(session.body_bytes_read()).unwrap_or(i64::MAX),
            bytes_out: i64::try_from(session.body_bytes_sent()).unwrap_or(i64::MAX),
            code,
            ..AccessLine::default()
        };
        ExchangeEnded {
            took,
            first_byte: None,
            used: None,
            debt_tokens: 0,
            flags: &[],
            line,
        }
        .emit(&self.metrics, self.access_log.as_deref());
    }
}

/// Whether a peer had nothing to say for as long as it may.
fn is_silence(error: &Error) -> bool {
    *error.esource() == ErrorSource::Upstream && *error.etype() == ErrorType::ReadTimedout
}

fn failed_attempts(exchange: &Exchange) -> Vec<NotServed> {
    let failures = exchange.failures().iter();
    let shown = failures.map(|failure| NotServed {
        pool: failure.pool.clone(),
        peer: failure.peer.clone(),
        reason: failure.reason,
    });
    shown.collect()
}

fn usage_of(event: &UsageEvent) -> Usage {
    Usage {
        input_tokens: event.prompt_tokens,
        cached_tokens: event.cached_tokens,
        cache_write_5m_tokens: event.cache_write_tokens,
        cache_write_1h_tokens: 0,
        output_tokens: event.completion_tokens,
        reasoning_tokens: event.reasoning_tokens,
    }
}
