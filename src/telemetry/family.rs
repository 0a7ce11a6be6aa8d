//! How a family of metrics is made and registered.

use prometheus::core::Collector;
use prometheus::{
    Error, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// Seconds; from an answer out of memory to a long stream.
const EXCHANGE_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

/// Makes families and registers them.
#[derive(Clone, Copy)]
pub(super) struct Maker<'a>(pub &'a Registry);

impl Maker<'_> {
    pub fn keep<C: Collector + Clone + 'static>(self, family: C) -> Result<C, Error> {
        self.0.register(Box::new(family.clone()))?;
        Ok(family)
    }

    pub fn counter(self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.keep(IntCounter::new(name, help)?)
    }

    pub fn counters(self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    pub fn gauge(self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.keep(IntGauge::new(name, help)?)
    }

    pub fn gauges(self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, Error> {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    /// The duration of something an exchange does.
    pub fn seconds(self, name: &str, help: &str) -> Result<Histogram, Error> {
        let opts = HistogramOpts::new(name, help).buckets(EXCHANGE_BUCKETS.to_vec());
        self.keep(Histogram::with_opts(opts)?)
    }
}
