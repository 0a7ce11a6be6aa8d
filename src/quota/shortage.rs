//! Which limit refuses, and when the same claim could succeed.

use super::claim::{ScopeClaim, Shortage};
use super::counters::{Count, Counters};
use super::limit::{Limit, LimitKind};
use crate::time::UnixMs;

/// When running exchanges may have given something back: a guess.
const SOON_MS: i64 = 1000;

const QUOTAS: [LimitKind; 3] = [LimitKind::Requests, LimitKind::Tokens, LimitKind::Usd];

/// The first quota, in the order of `LimitKind` and then of the scopes, that does not bear `least`.
pub(super) fn of_quotas<'a>(
    claimed: impl Iterator<Item = (&'a ScopeClaim, &'a Counters)> + Clone,
    least: [i64; 3],
    now: UnixMs,
) -> Option<Shortage> {
    for (resource, kind) in QUOTAS.into_iter().enumerate() {
        for (claim, counters) in claimed.clone() {
            let quota = claim.quotas.to_array()[resource];
            let count = &counters.counts[resource];
            let requested = least[resource];
            let left = quota.limit.saturating_sub(count.used);
            if quota.is_unlimited() || requested <= left.saturating_sub(count.held) {
                continue;
            }
            return Some(Shortage {
                kind,
                limit: quota.limit,
                used: count.used,
                held: count.held,
                requested,
                retry_after_ms: quota_retry_ms(quota, count, requested, now),
                standing: counters.standing(claim),
            });
        }
    }
    None
}

fn quota_retry_ms(quota: Limit, count: &Count, requested: i64, now: UnixMs) -> Option<i64> {
    if requested > quota.limit {
        return None;
    }
    let window_ends = count.window.end.map(|end| (end - now.0).max(1));
    if count.used.saturating_add(requested) <= quota.limit {
        return Some(window_ends.map_or(SOON_MS, |ms| ms.min(SOON_MS)));
    }
    window_ends
}

/// The first per-minute limit or concurrency that does not bear an exchange of `tokens`. An exchange
/// larger than a bucket needs it full: it is late, never refused for ever.
pub(super) fn of_rates<'a>(
    claimed: impl Iterator<Item = (&'a ScopeClaim, &'a Counters)> + Clone,
    tokens: i64,
) -> Option<Shortage> {
    let rates = |(claim, counters): (&ScopeClaim, &Counters)| {
        [
            (counters.requests_bucket, claim.rates.requests_per_minute, 1),
            (
                counters.tokens_bucket,
                claim.rates.tokens_per_minute,
                tokens,
            ),
        ]
    };
    let kinds = [LimitKind::RequestsPerMinute, LimitKind::TokensPerMinute];
    for (at, kind) in kinds.into_iter().enumerate() {
        for (claim, counters) in claimed.clone() {
            let (Some(bucket), limit, asked) = rates((claim, counters))[at] else {
                continue;
            };
            let requested = asked.min(bucket.limit());
            let wait_ms = bucket.wait_ms(requested);
            if wait_ms > 0 {
                return Some(Shortage {
                    kind,
                    limit,
                    used: limit.saturating_sub(bucket.units()),
                    held: 0,
                    requested,
                    retry_after_ms: Some(wait_ms),
                    standing: counters.standing(claim),
                });
            }
        }
    }
    let mut claimed = claimed;
    let (claim, counters) = claimed.find(|(claim, counters)| {
        let most = claim.rates.concurrency;
        most > 0 && counters.running >= most
    })?;
    Some(Shortage {
        kind: LimitKind::Concurrency,
        limit: claim.rates.concurrency,
        used: 0,
        held: counters.running,
        requested: 1,
        retry_after_ms: Some(SOON_MS),
        standing: counters.standing(claim),
    })
}
