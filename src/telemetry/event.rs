//! Events: what is worth a log line and a metric. Each is a struct whose `emit` does both, so that
//! the two cannot part.
//!
//! Levels by what an operator must do: `error` means data was lost or someone must act, `warn` that
//! something failed and was recovered from, `info` that the process changed its state.

use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use super::access_log::{AccessLine, AccessLog};
use super::label::{Flag, RestCause, SkipReason, StoreOp, UpstreamOutcome};
use super::metrics::{Metrics, PoolMetrics};
use crate::metering::Usage;
use crate::quota::Amounts;

/// An exchange has ended, one way or another.
#[derive(Debug)]
pub struct ExchangeEnded<'a> {
    pub took: Duration,
    pub first_byte: Option<Duration>,
    /// What was used and where, where the exchange was metered.
    pub used: Option<(&'a Usage, &'a PoolMetrics)>,
    /// Tokens beyond the hold.
    pub debt_tokens: i64,
    pub flags: &'a [Flag],
    pub line: AccessLine,
}

impl ExchangeEnded<'_> {
    /// The access log is its log line.
    pub fn emit(self, metrics: &Metrics, access_log: Option<&AccessLog>) {
        let ExchangeEnded { line, .. } = self;
        metrics.exchange(&line.method, line.status, self.took, self.first_byte);
        if let Some((usage, pool)) = self.used {
            pool.used(usage, line.cost_nano);
        }
        metrics.debt(self.debt_tokens);
        for flag in self.flags {
            metrics.flag(*flag);
        }
        if let Some(access_log) = access_log {
            access_log.write(line);
        }
    }
}

/// An exchange was turned away. Its line is the access log's: refusals come in floods.
#[derive(Debug)]
pub struct Refused {
    /// The error code the caller saw.
    pub kind: &'static str,
}

impl Refused {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.refused(self.kind);
    }
}

/// An attempt at a peer has ended.
#[derive(Debug)]
pub struct AttemptEnded<'a> {
    pub pool: &'a str,
    pub peer: &'a str,
    pub request_id: &'a str,
    pub outcome: UpstreamOutcome,
    /// Our own words, or a status: never the upstream's text.
    pub detail: &'a str,
}

impl AttemptEnded<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.peers.of(self.pool, self.peer).attempt(self.outcome);
        let AttemptEnded {
            pool,
            peer,
            request_id,
            outcome,
            detail,
        } = self;
        match outcome {
            UpstreamOutcome::Ok | UpstreamOutcome::Refused => {}
            UpstreamOutcome::Stale => log::debug!(
                "peer {peer} of pool {pool} never read a request: {detail} (request {request_id})"
            ),
            UpstreamOutcome::Credential => log::error!(
                "peer {peer} of pool {pool} rejects our credential or has no quota left: {detail} (request {request_id})"
            ),
            _ => log::warn!(
                "peer {peer} of pool {pool} failed: {outcome:?} {detail} (request {request_id})"
            ),
        }
    }
}

/// A peer has left the rotation, or is back in it.
#[derive(Debug)]
pub struct PeerHealth<'a> {
    pub pool: &'a str,
    pub peer: &'a str,
    pub healthy: bool,
    /// Our own words.
    pub because: &'static str,
    /// Where it rests from now on: why, and for how long.
    pub rest: Option<(RestCause, Duration)>,
}

impl PeerHealth<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        let PeerHealth {
            pool,
            peer,
            healthy,
            because,
            ..
        } = self;
        let mut time = String::new();
        if let Some((cause, time_of_rest)) = self.rest {
            metrics.peers.of(pool, peer).rests(cause);
            time = format!(" for {} ms", time_of_rest.as_millis());
        }
        if *healthy {
            log::info!("peer {peer} of pool {pool} is in rotation: {because}");
        } else {
            log::warn!("peer {peer} of pool {pool} is out of rotation{time}: {because}");
        }
    }
}

/// A choice of peers passed one over.
#[derive(Debug)]
pub struct PeerSkipped<'a> {
    pub pool: &'a str,
    pub peer: &'a str,
    pub reason: SkipReason,
}

impl PeerSkipped<'_> {
    /// Its line is for those who look closely: every exchange may pass peers over.
    pub fn emit(&self, metrics: &Metrics) {
        let PeerSkipped { pool, peer, reason } = self;
        metrics.peers.of(pool, peer).skipped(*reason);
        log::debug!(
            "peer {peer} of pool {pool} is passed over: {}",
            reason.word()
        );
    }
}

/// A store step on the way of an exchange has ended.
#[derive(Debug)]
pub struct StoreStep<E> {
    pub op: StoreOp,
    pub took: Duration,
    pub failure: Option<E>,
}

impl<E: Display> StoreStep<E> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.store_step(self.op, self.took, self.failure.is_none());
        let op = self.op;
        match (&self.failure, op) {
            (None, _) => {}
            // A settlement that fails leaves usage unbooked until its lease ends.
            (Some(error), StoreOp::Settle) => log::error!("store step {op:?} failed: {error}"),
            (Some(error), _) => log::warn!("store step {op:?} failed: {error}"),
        }
    }
}

/// Leases ran out before their exchanges settled.
#[derive(Debug)]
pub struct LeasesExpired {
    pub count: usize,
}

impl LeasesExpired {
    pub fn emit(&self, metrics: &Metrics) {
        for _ in 0..self.count {
            metrics.flag(Flag::Expired);
        }
        if self.count > 0 {
            log::warn!(
                "{} reservations were resolved because their leases ran out",
                self.count
            );
        }
    }
}

/// The store is back: what was served without it is in the books.
#[derive(Debug)]
pub struct OutageReconciled {
    pub exchanges: usize,
    /// How far keys and groups are over their limits now.
    pub overrun: Amounts,
}

impl OutageReconciled {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.reconciled(self.exchanges, self.overrun);
        log::warn!(
            "{} exchanges that were served without the store are booked; over the limits: {} requests, {} tokens, {} nano-USD",
            self.exchanges,
            self.overrun.requests,
            self.overrun.tokens,
            self.overrun.nano_usd
        );
    }
}

/// An upstream reported a usage that cannot be.
#[derive(Debug)]
pub struct UsageCapped<'a> {
    pub request_id: &'a str,
    pub model: &'a str,
    pub reported: i64,
    pub cap: i64,
}

impl UsageCapped<'_> {
    /// The metric is the exchange's own flag, [`Flag::Capped`].
    pub fn emit(&self) {
        let UsageCapped {
            request_id,
            model,
            reported,
            cap,
        } = self;
        log::warn!(
            "{reported} tokens were reported for {model:?}, capped at {cap} (request {request_id})"
        );
    }
}

/// A sign-in or a token was refused.
#[derive(Debug)]
pub struct LoginRefused {
    pub from: Option<IpAddr>,
    /// Our own words.
    pub cause: &'static str,
}

impl LoginRefused {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.login_failed();
        match self.from {
            Some(from) => log::warn!("admin access from {from} refused: {}", self.cause),
            None => log::warn!("admin access refused: {}", self.cause),
        }
    }
}

/// A connection came while the edge had as many as it may have.
#[derive(Debug)]
pub struct EdgeIsFull {
    /// It was closed; else an idle one was.
    pub turned_away: bool,
    /// Whether a line is due: connections come in floods.
    pub tell: bool,
}

impl EdgeIsFull {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.edge_full(self.turned_away);
        if !self.tell {
            return;
        }
        let what = match self.turned_away {
            true => "new ones are closed, since all are in use",
            false => "idle ones are closed for new ones",
        };
        log::warn!("the edge has edge.max_connections connections: {what}");
    }
}

/// The configuration was read again.
#[derive(Debug)]
pub struct Reloaded<'a> {
    /// Why it was refused, where it was.
    pub refused: Option<&'a str>,
}

impl Reloaded<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.reloaded(self.refused.is_none());
        match self.refused {
            None => log::info!("configuration reloaded"),
            Some(faults) => log::error!("configuration not reloaded, the old one stays: {faults}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_exchange_is_counted_once_everywhere() {
        let metrics = Metrics::new().unwrap();
        let pool = metrics.pool("p");
        let usage = Usage {
            input_tokens: 3,
            output_tokens: 2,
            ..Usage::default()
        };
        let ended = ExchangeEnded {
            took: Duration::from_millis(3),
            first_byte: None,
            used: Some((&usage, &pool)),
            debt_tokens: 1,
            flags: &[Flag::Estimated],
            line: AccessLine {
                method: String::from("POST"),
                status: 200,
                cost_nano: 500_000_000,
                ..AccessLine::default()
            },
        };
        ended.emit(&metrics, None);
        let text = metrics.render().unwrap();
        for line in [
            r#"relay_requests_total{method="POST",status="200"} 1"#,
            r#"relay_tokens_total{kind="output",pool="p"} 2"#,
            r#"relay_cost_usd_total{pool="p"} 0.5"#,
            r#"quota_exchanges_flagged_total{flag="estimated"} 1"#,
            "quota_debt_tokens_total 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}");
        }
    }
}
