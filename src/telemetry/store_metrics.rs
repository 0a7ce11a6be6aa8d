//! The metric families of the books: how long their steps take, and what is held, owed and overrun.

use std::time::Duration;

use prometheus::{Error, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntGauge};

use super::family::Maker;
use super::label::{STORE_OPS, StoreOp};
use super::metrics::Metrics;
use crate::quota::{Amounts, NANO_PER_USD};

/// Seconds; from a memory step to a store at its deadline.
const STORE_BUCKETS: &[f64] = &[
    0.000_01, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0,
];

/// What the books count into.
#[derive(Debug)]
pub(super) struct StoreFamilies {
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
    pub fn new(make: Maker<'_>) -> Result<Self, Error> {
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

impl Metrics {
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

    /// What the store holds now; asked of it when metrics are read.
    pub fn held(&self, open: i64, tokens: i64, nano_usd: i64) {
        self.store.reservations_open.set(open);
        self.store.held_tokens.set(tokens);
        self.store
            .held_usd
            .set(nano_usd as f64 / NANO_PER_USD as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::tests::{has, rendered};
    use super::*;

    #[test]
    fn what_the_books_count_is_shown() {
        let text = rendered(|m| {
            m.debt(7);
            m.debt(-7);
            m.store_step(StoreOp::Refusal, Duration::from_micros(20), false);
            m.held(3, 400, 1_500_000_000);
            let overrun = Amounts {
                requests: 1,
                tokens: 20,
                nano_usd: 2_500_000_000,
            };
            m.reconciled(2, overrun);
            m.reconciled(3, overrun);
        });
        has(&text, "quota_debt_tokens_total 7");
        has(&text, r#"store_errors_total{op="refusal"} 1"#);
        has(
            &text,
            r#"store_step_seconds_bucket{op="refusal",le="0.00005"} 1"#,
        );
        has(&text, "quota_reservations_open 3");
        has(&text, "quota_held_tokens 400");
        has(&text, "quota_held_usd 1.5");
        has(&text, "store_reconciled_exchanges_total 5");
        has(&text, "quota_overrun_requests 1");
        has(&text, "quota_overrun_tokens 20");
        has(&text, "quota_overrun_usd 2.5");
    }
}
