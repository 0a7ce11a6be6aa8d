//! The counters of one scope: what is used and held of each resource in its window, the exchanges
//! running, and the per-minute buckets.

use serde::{Deserialize, Serialize};

use super::amount::Amounts;
use super::bucket::Bucket;
use super::claim::{ScopeClaim, Standing};
use super::limit::{Limit, Period, Quotas};
use super::reservation::Hold;
use super::window::{Turn, Window};
use crate::time::{Moment, UnixMs};

/// One resource of one scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Settled in the window. May exceed the limit: debt.
    pub used: i64,
    /// Held in the window by open reservations.
    #[serde(skip)]
    pub held: i64,
    /// Everything ever settled, in this and all earlier windows: the sum of all usage events.
    pub booked: i64,
    pub window: Window,
    /// Counts up by one with each later window; another date for the same window keeps it.
    pub number: i64,
}

/// The counters of one scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// In the order of `Resource`.
    pub counts: [Count; 3],
    /// Open rate-limited reservations.
    pub running: i64,
    /// `None` while unlimited, or never drawn on: then full.
    pub requests_bucket: Option<Bucket>,
    pub tokens_bucket: Option<Bucket>,
}

impl Quotas {
    /// In the order of `Resource`.
    pub fn to_array(&self) -> [Limit; 3] {
        [self.requests, self.tokens, self.usd]
    }
}

impl Counters {
    /// Brings windows and buckets to `now` under the claim's limits. True where a window changed.
    pub(crate) fn refresh(&mut self, claim: &ScopeClaim, now: Moment) -> bool {
        let periods = claim.quotas.to_array().map(|quota| quota.period);
        let rates = claim.rates;
        let steady_ms = now.steady_ms;
        refill(
            &mut self.requests_bucket,
            rates.requests_per_minute,
            steady_ms,
        );
        refill(&mut self.tokens_bucket, rates.tokens_per_minute, steady_ms);
        self.turn(periods, now.wall)
    }

    /// Brings the buckets to now under the limits they have: what is given back or taken late must not
    /// depend on who asked meanwhile.
    pub(super) fn refill_buckets(&mut self, steady_ms: i64) {
        let buckets = [&mut self.requests_bucket, &mut self.tokens_bucket];
        for bucket in buckets.into_iter().flatten() {
            bucket.refill(bucket.limit(), steady_ms);
        }
    }

    /// Brings the windows to `now` under the periods they have. True where one changed.
    pub(super) fn turn_windows(&mut self, now: UnixMs) -> bool {
        self.turn(self.counts.map(|count| count.window.period), now)
    }

    fn turn(&mut self, periods: [Period; 3], now: UnixMs) -> bool {
        let mut turned = false;
        for (count, period) in self.counts.iter_mut().zip(periods) {
            match count.window.turn(period, now) {
                Turn::Stay => continue,
                Turn::Roll(window) => {
                    count.window = window;
                    count.number += 1;
                    count.used = 0;
                    count.held = 0;
                }
                Turn::Rebase(window) => count.window = window,
            }
            turned = true;
        }
        turned
    }

    pub fn used(&self) -> Amounts {
        Amounts::from_array(self.counts.map(|count| count.used))
    }

    pub fn held(&self) -> Amounts {
        Amounts::from_array(self.counts.map(|count| count.held))
    }

    pub fn booked(&self) -> Amounts {
        Amounts::from_array(self.counts.map(|count| count.booked))
    }

    /// The numbers of the present windows.
    pub(super) fn windows(&self) -> [i64; 3] {
        self.counts.map(|count| count.number)
    }

    /// What is left of each resource, below 0 where more is used than the limit; `i64::MAX` where
    /// unlimited.
    pub(super) fn left(&self, quotas: &Quotas) -> [i64; 3] {
        let mut left = quotas.to_array().map(|quota| quota.limit);
        for (left, count) in left.iter_mut().zip(&self.counts) {
            *left = match *left {
                0 => i64::MAX,
                limit => limit.saturating_sub(count.used).saturating_sub(count.held),
            };
        }
        left
    }

    pub(super) fn hold(&mut self, amounts: Amounts) {
        for (count, amount) in self.counts.iter_mut().zip(amounts.to_array()) {
            count.held = count.held.saturating_add(amount);
        }
    }

    /// More for a hold, where its window is still the present one.
    pub(super) fn hold_more(&mut self, more: Amounts, windows: &[i64; 3]) {
        self.each_present(more, windows, |count, amount| {
            count.held = count.held.saturating_add(amount);
        });
    }

    /// Takes a request and `tokens` (a full bucket at most) from the per-minute buckets, and counts
    /// the exchange as running. Answers the tokens taken, where there is a bucket.
    pub(super) fn draw_on_rates(&mut self, tokens: i64) -> Option<i64> {
        self.running += 1;
        if let Some(bucket) = &mut self.requests_bucket {
            bucket.take(1);
        }
        let bucket = self.tokens_bucket.as_mut()?;
        let taken = tokens.min(bucket.limit());
        bucket.take(taken);
        Some(taken)
    }

    /// Gives a hold back; one that came from an earlier window has gone with it.
    pub(super) fn release(&mut self, hold: &Hold) {
        self.running -= i64::from(hold.rate_limited);
        self.each_present(hold.amounts, &hold.windows, |count, amount| {
            count.held = count.held.saturating_sub(amount);
        });
    }

    /// Books what was used, in the windows the hold came from.
    pub(super) fn charge(&mut self, charged: Amounts, windows: &[i64; 3]) {
        for (count, amount) in self.counts.iter_mut().zip(charged.to_array()) {
            count.booked = count.booked.saturating_add(amount);
        }
        self.each_present(charged, windows, |count, amount| {
            count.used = count.used.saturating_add(amount);
        });
    }

    fn each_present(
        &mut self,
        amounts: Amounts,
        windows: &[i64; 3],
        step: impl Fn(&mut Count, i64),
    ) {
        let amounts = amounts.to_array().into_iter().zip(windows);
        for (count, (amount, number)) in self.counts.iter_mut().zip(amounts) {
            if count.number == *number {
                step(count, amount);
            }
        }
    }

    pub fn standing(&self, claim: &ScopeClaim) -> Standing {
        let rates = claim.rates;
        let units = |bucket: &Option<Bucket>, limit: i64| bucket.map_or(limit, |b| b.units());
        Standing {
            scope: claim.scope,
            quotas: claim.quotas,
            rates,
            used: self.used(),
            held: self.held(),
            running: self.running,
            requests_in_bucket: units(&self.requests_bucket, rates.requests_per_minute),
            tokens_in_bucket: units(&self.tokens_bucket, rates.tokens_per_minute),
            resets_at: self.counts.map(|count| count.window.end.map(UnixMs)),
        }
    }
}

fn refill(bucket: &mut Option<Bucket>, limit: i64, steady_ms: i64) {
    match bucket {
        _ if limit <= 0 => *bucket = None,
        Some(bucket) => bucket.refill(limit, steady_ms),
        None => *bucket = Some(Bucket::full(limit, steady_ms)),
    }
}
