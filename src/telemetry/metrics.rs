//! All metric families, on a registry that a [`Metrics`] owns.
//!
//! An exchange costs a few atomic additions: what it counts into is resolved before (a pool's
//! counters once per pool, a method and status through a table), never looked up by text.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::RwLock;
use prometheus::{
    Counter, CounterVec, Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use super::family::Maker;
use super::label::{
    FLAGS, Flag, METHODS, STATUS_SLOTS, STORE_OPS, StoreOp, TOKEN_KINDS, TokenKind,
    UPSTREAM_OUTCOMES, UpstreamOutcome,
};
use super::peers::PeerFamilies;
use crate::metering::Usage;
use crate::quota::{Amounts, NANO_PER_USD};

/// Seconds; from a memory step to a store at its deadline.
const STORE_BUCKETS: &[f64] = &[
    0.000_01, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0,
];

/// The counters of one pool, resolved once and kept beside it.
#[derive(Debug)]
pub struct PoolMetrics {
    tokens: [IntCounter; TOKEN_KINDS.len()],
    cost_usd: Counter,
    outcomes: [IntCounter; UPSTREAM_OUTCOMES.len()],
}

impl PoolMetrics {
    /// Counts what an exchange used; `nano_usd` is its cost.
    pub fn used(&self, usage: &Usage, nano_usd: i64) {
        let written = usage
            .cache_write_5m_tokens
            .saturating_add(usage.cache_write_1h_tokens);
        self.tokens(TokenKind::Input, usage.input_tokens);
        self.tokens(TokenKind::Output, usage.output_tokens);
        self.tokens(TokenKind::Cached, usage.cached_tokens);
        self.tokens(TokenKind::CacheWrite, written);
        self.tokens(TokenKind::Reasoning, usage.reasoning_tokens);
        if nano_usd > 0 {
            self.cost_usd.inc_by(nano_usd as f64 / NANO_PER_USD as f64);
        }
    }

    fn tokens(&self, kind: TokenKind, count: i64) {
        if let Ok(count @ 1..) = u64::try_from(count) {
            self.tokens[kind as usize].inc_by(count);
        }
    }

    pub fn attempt(&self, outcome: UpstreamOutcome) {
        self.outcomes[outcome as usize].inc();
    }
}

/// What exchanges count into.
#[derive(Debug)]
struct ExchangeFamilies {
    requests: IntCounterVec,
    /// `requests` by method × status, each filled when it is first seen.
    requests_table: Box<[OnceLock<IntCounter>]>,
    duration: Histogram,
    first_byte: Histogram,
    in_flight: IntGauge,
    flags: [IntCounter; FLAGS.len()],
    refusals: IntCounterVec,
}

impl ExchangeFamilies {
    fn new(make: Maker<'_>) -> Result<Self, prometheus::Error> {
        let flags = make.counters(
            "quota_exchanges_flagged_total",
            "Exchanges whose figures need a word.",
            &["flag"],
        )?;
        Ok(ExchangeFamilies {
            requests: make.counters(
                "relay_requests_total",
                "Exchanges by method and status; 0: ended before an answer was begun.",
                &["method", "status"],
            )?,
            requests_table: (0..METHODS.len() * STATUS_SLOTS)
                .map(|_| OnceLock::new())
                .collect(),
            duration: make.seconds(
                "proxy_duration_seconds",
                "From request head to the end of the answer.",
            )?,
            first_byte: make.seconds(
                "proxy_first_byte_seconds",
                "From request head to the first byte of the answer.",
            )?,
            in_flight: make.gauge("relay_exchanges_in_flight", "Exchanges running now.")?,
            flags: FLAGS.map(|flag| flags.with_label_values(&[flag])),
            refusals: make.counters(
                "quota_refusals_total",
                "Exchanges turned away, by cause.",
                &["kind"],
            )?,
        })
    }
}

/// What pools and their peers count into.
#[derive(Debug)]
struct UpstreamFamilies {
    tokens: IntCounterVec,
    cost: CounterVec,
    attempts: IntCounterVec,
}

impl UpstreamFamilies {
    fn new(make: Maker<'_>) -> Result<Self, prometheus::Error> {
        let cost = Opts::new("relay_cost_usd_total", "What exchanges cost, USD.");
        Ok(UpstreamFamilies {
            tokens: make.counters(
                "relay_tokens_total",
                "Tokens used; cached, cache_write and reasoning lie inside input and output.",
                &["pool", "kind"],
            )?,
            cost: make.keep(CounterVec::new(cost, &["pool"])?)?,
            attempts: make.counters(
                "upstream_attempts_total",
                "Attempts at peers by how they ended.",
                &["pool", "outcome"],
            )?,
        })
    }
}

/// What the books count into.
#[derive(Debug)]
struct StoreFamilies {
    seconds: [Histogram; STORE_OPS.len()],
    errors: [IntCounter; STORE_OPS.len()],
    debt_tokens: IntCounter,
    reconciled: IntCounter,
    overrun_requests: IntGauge,
    overrun_tokens: IntGauge,
    overrun_usd: Gauge,
    reservations_open: IntGauge,
    held_tokens: IntGauge,
    held_usd: Gauge,
}

impl StoreFamilies {
    fn new(make: Maker<'_>) -> Result<Self, prometheus::Error> {
        let seconds = HistogramOpts::new("store_step_seconds", "Time of a store step.")
            .buckets(STORE_BUCKETS.to_vec());
        let seconds = make.keep(HistogramVec::new(seconds, &["op"])?)?;
        let errors = make.counters("store_errors_total", "Store steps that failed.", &["op"])?;
        Ok(StoreFamilies {
            seconds: STORE_OPS.map(|op| seconds.with_label_values(&[op])),
            errors: STORE_OPS.map(|op| errors.with_label_values(&[op])),
            debt_tokens: make.counter(
                "quota_debt_tokens_total",
                "Tokens used beyond what was held.",
            )?,
            reconciled: make.counter(
                "store_reconciled_exchanges_total",
                "Exchanges served while the store was away and booked on its return.",
            )?,
            overrun_requests: make.gauge(
                "quota_overrun_requests",
                "How far keys and groups were over their request limits after the last outage.",
            )?,
            overrun_tokens: make.gauge(
                "quota_overrun_tokens",
                "How far keys and groups were over their token limits after the last outage.",
            )?,
            overrun_usd: make.keep(Gauge::new(
                "quota_overrun_usd",
                "How far keys and groups were over their USD limits after the last outage.",
            )?)?,
            reservations_open: make
                .gauge("quota_reservations_open", "Reservations not settled yet.")?,
            held_tokens: make.gauge("quota_held_tokens", "Tokens held by open reservations.")?,
            held_usd: make.keep(Gauge::new(
                "quota_held_usd",
                "USD held by open reservations.",
            )?)?,
        })
    }
}

/// Every family of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    exchanges: ExchangeFamilies,
    upstream: UpstreamFamilies,
    /// Each peer's state.
    pub peers: PeerFamilies,
    store: StoreFamilies,
    pools: RwLock<HashMap<String, Arc<PoolMetrics>>>,
    access_log_dropped: IntCounter,
    login_failures: IntCounter,
}

impl Metrics {
    /// Fails only if two families had one name, which a test rules out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let make = Maker(&registry);
        let build = make.gauges(
            "quota_proxy_build_info",
            "1, with the version.",
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Metrics {
            exchanges: ExchangeFamilies::new(make)?,
            upstream: UpstreamFamilies::new(make)?,
            peers: PeerFamilies::new(make)?,
            store: StoreFamilies::new(make)?,
            pools: RwLock::default(),
            access_log_dropped: make.counter(
                "access_log_dropped_total",
                "Access log lines that could not be kept.",
            )?,
            login_failures: make
                .counter("admin_login_failures_total", "Refused sign-ins and tokens.")?,
            registry,
        })
    }

    /// Counts an exchange that has ended. `status` 0: no answer was begun.
    pub fn exchange(
        &self,
        method: &str,
        status: u16,
        took: Duration,
        first_byte: Option<Duration>,
    ) {
        let m = METHODS
            .iter()
            .position(|known| *known == method)
            .unwrap_or(METHODS.len() - 1);
        let s = usize::from(status)
            .checked_sub(99)
            .filter(|slot| (1..STATUS_SLOTS).contains(slot))
            .unwrap_or(0);
        self.exchanges.requests_table[m * STATUS_SLOTS + s]
            .get_or_init(|| {
                let status = if s == 0 { 0 } else { status };
                self.exchanges
                    .requests
                    .with_label_values(&[METHODS[m], &status.to_string()])
            })
            .inc();
        self.exchanges.duration.observe(took.as_secs_f64());
        if let Some(first_byte) = first_byte {
            self.exchanges.first_byte.observe(first_byte.as_secs_f64());
        }
    }

    /// The counters of a pool. Takes a lock: ask once per pool and keep the answer.
    pub fn pool(&self, name: &str) -> Arc<PoolMetrics> {
        if let Some(known) = self.pools.read().get(name) {
            return known.clone();
        }
        let mut pools = self.pools.write();
        let made = pools.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(PoolMetrics {
                tokens: TOKEN_KINDS
                    .map(|kind| self.upstream.tokens.with_label_values(&[name, kind])),
                cost_usd: self.upstream.cost.with_label_values(&[name]),
                outcomes: UPSTREAM_OUTCOMES
                    .map(|outcome| self.upstream.attempts.with_label_values(&[name, outcome])),
            })
        });
        made.clone()
    }

    /// `kind` is a word of ours (`insufficient_quota`, `rate_limit_exceeded` …), never a caller's text.
    pub fn refused(&self, kind: &'static str) {
        self.exchanges.refusals.with_label_values(&[kind]).inc();
    }

    pub fn flag(&self, flag: Flag) {
        self.exchanges.flags[flag as usize].inc();
    }

    /// Tokens that an answer used beyond its hold.
    pub fn debt(&self, tokens: i64) {
        if let Ok(tokens @ 1..) = u64::try_from(tokens) {
            self.store.debt_tokens.inc_by(tokens);
        }
    }

    /// Exchanges were booked that had been served while the store was away.
    pub fn reconciled(&self, exchanges: usize, overrun: Amounts) {
        self.store.reconciled.inc_by(exchanges as u64);
        self.store.overrun_requests.set(overrun.requests);
        self.store.overrun_tokens.set(overrun.tokens);
        self.store
            .overrun_usd
            .set(overrun.nano_usd as f64 / NANO_PER_USD as f64);
    }

    pub fn store_step(&self, op: StoreOp, took: Duration, ok: bool) {
        self.store.seconds[op as usize].observe(took.as_secs_f64());
        if !ok {
            self.store.errors[op as usize].inc();
        }
    }

    pub fn exchange_began(&self) {
        self.exchanges.in_flight.inc();
    }

    pub fn exchange_ended(&self) {
        self.exchanges.in_flight.dec();
    }

    /// What the store holds now; asked of it when metrics are read.
    pub fn held(&self, open: i64, tokens: i64, nano_usd: i64) {
        self.store.reservations_open.set(open);
        self.store.held_tokens.set(tokens);
        self.store
            .held_usd
            .set(nano_usd as f64 / NANO_PER_USD as f64);
    }

    pub fn access_log_dropped(&self, lines: u64) {
        self.access_log_dropped.inc_by(lines);
    }

    pub fn login_failed(&self) {
        self.login_failures.inc();
    }

    /// The Prometheus text format, version 0.0.4.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(act: impl Fn(&Metrics)) -> String {
        let metrics = Metrics::new().unwrap();
        act(&metrics);
        metrics.render().unwrap()
    }

    #[track_caller]
    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|l| l == line), "no `{line}` in\n{text}");
    }

    #[test]
    fn exchanges_by_method_and_status() {
        let text = rendered(|m| {
            let took = Duration::from_millis(30);
            m.exchange("POST", 200, took, Some(took));
            m.exchange("POST", 200, took, None);
            m.exchange("BREW", 418, took, None);
            m.exchange("GET", 0, took, None);
            m.exchange("GET", 600, took, None);
            m.exchange("GET", 99, took, None);
            m.exchange("GET", 100, took, None);
            m.exchange("GET", 599, took, None);
        });
        has(
            &text,
            r#"relay_requests_total{method="POST",status="200"} 2"#,
        );
        has(
            &text,
            r#"relay_requests_total{method="OTHER",status="418"} 1"#,
        );
        has(&text, r#"relay_requests_total{method="GET",status="0"} 3"#);
        has(
            &text,
            r#"relay_requests_total{method="GET",status="100"} 1"#,
        );
        has(
            &text,
            r#"relay_requests_total{method="GET",status="599"} 1"#,
        );
        has(&text, r#"proxy_duration_seconds_bucket{le="0.05"} 8"#);
        has(&text, "proxy_duration_seconds_count 8");
        has(&text, "proxy_first_byte_seconds_count 1");
    }

    #[test]
    fn usage_and_cost_by_pool() {
        let text = rendered(|m| {
            let usage = Usage {
                input_tokens: 10,
                cached_tokens: 4,
                output_tokens: 5,
                ..Usage::default()
            };
            m.pool("openai").used(&usage, 250_000_000);
            m.pool("openai").used(&usage, 500_000_000);
            m.pool("openai").attempt(UpstreamOutcome::Broken);
        });
        has(
            &text,
            r#"relay_tokens_total{kind="input",pool="openai"} 20"#,
        );
        has(
            &text,
            r#"relay_tokens_total{kind="cached",pool="openai"} 8"#,
        );
        has(
            &text,
            r#"relay_tokens_total{kind="output",pool="openai"} 10"#,
        );
        has(&text, r#"relay_cost_usd_total{pool="openai"} 0.75"#);
        has(
            &text,
            r#"upstream_attempts_total{outcome="broken",pool="openai"} 1"#,
        );
    }

    #[test]
    fn the_rest_is_shown() {
        let text = rendered(|m| {
            m.refused("insufficient_quota");
            m.flag(Flag::Cut);
            m.debt(7);
            m.debt(-7);
            m.store_step(StoreOp::Refusal, Duration::from_micros(20), false);
            m.held(3, 400, 1_500_000_000);
            m.peers.healthy("p", "a:1", true);
        });
        has(
            &text,
            r#"quota_refusals_total{kind="insufficient_quota"} 1"#,
        );
        has(&text, r#"quota_exchanges_flagged_total{flag="cut"} 1"#);
        has(&text, "quota_debt_tokens_total 7");
        has(&text, r#"store_errors_total{op="refusal"} 1"#);
        has(
            &text,
            r#"store_step_seconds_bucket{op="refusal",le="0.00005"} 1"#,
        );
        has(&text, "quota_reservations_open 3");
        has(&text, "quota_held_tokens 400");
        has(&text, "quota_held_usd 1.5");
        has(&text, r#"upstream_peer_healthy{peer="a:1",pool="p"} 1"#);
        let build = format!(
            r#"quota_proxy_build_info{{version="{}"}} 1"#,
            env!("CARGO_PKG_VERSION")
        );
        has(&text, &build);
    }
}
