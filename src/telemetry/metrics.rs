//! Metric families, on a registry that a [`Metrics`] owns. Those of the books: `store_metrics`.
//!
//! An exchange costs a few atomic additions: what it counts into is resolved before (a pool's
//! counters once per pool, a method and status through a table), never looked up by text.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::RwLock;
use prometheus::{
    Counter, CounterVec, Encoder, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use super::family::Maker;
use super::label::{FLAGS, Flag, METHODS, STATUS_SLOTS, TOKEN_KINDS, TokenKind};
use super::peers::PeerFamilies;
use super::store_metrics::StoreFamilies;
use crate::metering::Usage;
use crate::quota::NANO_PER_USD;
use crate::time::UnixMs;

/// The counters of one pool, resolved once and kept beside it.
#[derive(Debug)]
pub struct PoolMetrics {
    tokens: [IntCounter; TOKEN_KINDS.len()],
    cost_usd: Counter,
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

/// What pools count into.
#[derive(Debug)]
struct UpstreamFamilies {
    tokens: IntCounterVec,
    cost: CounterVec,
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
        })
    }
}

/// Every family of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    exchanges: ExchangeFamilies,
    upstream: UpstreamFamilies,
    /// Each peer's state and what it counts into.
    pub peers: PeerFamilies,
    pub(super) store: StoreFamilies,
    pools: RwLock<HashMap<String, Arc<PoolMetrics>>>,
    access_log_dropped: IntCounter,
    config_good: IntGauge,
    certificates: IntGaugeVec,
    login_failures: IntCounter,
    /// For a new connection, and of a new one.
    edge_full: [IntCounter; 2],
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
        let config_good = make.gauge(
            "quota_proxy_config_last_reload_successful",
            "1 where the configuration that was read last holds, 0 where it was refused.",
        )?;
        config_good.set(1);
        let edge_full = make.counters(
            "proxy_connections_full_total",
            "Connections closed at edge.max_connections: idle ones for a new one, or the new one.",
            &["closed"],
        )?;
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
            config_good,
            certificates: make.gauges(
                "edge_certificate_expiry_timestamp_seconds",
                "When the first of a listener's certificates expires, Unix time.",
                &["listen"],
            )?,
            login_failures: make
                .counter("admin_login_failures_total", "Refused sign-ins and tokens.")?,
            edge_full: ["idle", "new"].map(|closed| edge_full.with_label_values(&[closed])),
            registry,
        })
    }

    /// A connection was closed since the edge has as many as it may have: the new one, or an idle one.
    pub fn edge_full(&self, is_new: bool) {
        self.edge_full[usize::from(is_new)].inc();
    }

    /// A configuration was read while the process runs: it holds, or was refused.
    pub fn reloaded(&self, holds: bool) {
        self.config_good.set(i64::from(holds));
    }

    /// The listeners with TLS, and when the first certificate of each expires.
    pub fn certificates(&self, expiries: &[(String, UnixMs)]) {
        self.certificates.reset();
        for (listen, at) in expiries {
            let gauge = self.certificates.with_label_values(&[listen.as_str()]);
            gauge.set(at.0.div_euclid(1_000));
        }
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

    pub fn exchange_began(&self) {
        self.exchanges.in_flight.inc();
    }

    pub fn exchange_ended(&self) {
        self.exchanges.in_flight.dec();
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
pub(super) mod tests {
    use super::*;
    use crate::telemetry::peers::PeerState;

    pub(in crate::telemetry) fn rendered(act: impl Fn(&Metrics)) -> String {
        let metrics = Metrics::new().unwrap();
        act(&metrics);
        metrics.render().unwrap()
    }

    #[track_caller]
    pub(in crate::telemetry) fn has(text: &str, line: &str) {
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
    }

    #[test]
    fn the_rest_is_shown() {
        let text = rendered(|m| {
            m.refused("insufficient_quota");
            m.flag(Flag::Cut);
            m.peers.show(vec![PeerState {
                pool: String::from("p"),
                peer: String::from("a:1"),
                healthy: true,
                down: false,
                running: 0,
            }]);
        });
        has(
            &text,
            r#"quota_refusals_total{kind="insufficient_quota"} 1"#,
        );
        has(&text, r#"quota_exchanges_flagged_total{flag="cut"} 1"#);
        has(&text, r#"upstream_peer_healthy{peer="a:1",pool="p"} 1"#);
        let build = format!(
            r#"quota_proxy_build_info{{version="{}"}} 1"#,
            env!("CARGO_PKG_VERSION")
        );
        has(&text, &build);
    }
}
