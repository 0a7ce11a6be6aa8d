//! Prices per kind of token, and what a usage costs. Integer arithmetic throughout.

use super::usage::Usage;

/// Prices of one model, in nano-USD per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    pub input: i64,
    pub output: i64,
    pub cache_read: i64,
    pub cache_write_5m: i64,
    pub cache_write_1h: i64,
    /// Nano-USD for each request.
    pub per_request: i64,
    /// Most tokens the model takes and gives together, where known: a report beyond it is absurd.
    pub context_window: Option<i64>,
}

impl Price {
    /// Nano-USD of `usage`: every kind at its own price, rounded up once.
    pub fn cost(&self, usage: &Usage) -> i64 {
        let cached = usage.cached_tokens.clamp(0, usage.input_tokens.max(0));
        let write_5m = usage.cache_write_5m_tokens.max(0);
        let write_1h = usage.cache_write_1h_tokens.max(0);
        let plain = (usage.input_tokens - cached - write_5m - write_1h).max(0);
        let kinds = [
            (plain, self.input),
            (cached, self.cache_read),
            (write_5m, self.cache_write_5m),
            (write_1h, self.cache_write_1h),
            (usage.output_tokens.max(0), self.output),
        ];
        let exact: i128 = kinds
            .iter()
            .map(|&(n, price)| i128::from(n) * i128::from(price))
            .sum();
        let nano = (exact + 999_999) / 1_000_000 + i128::from(self.per_request);
        i64::try_from(nano).unwrap_or(crate::quota::amount::MAX_AMOUNT)
    }
}
