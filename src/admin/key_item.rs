//! A key as the admin API and its own caller see it: figures of the record and of the store together.

use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Admin, usd};
use crate::keys::{KeyId, KeyRecord};
use crate::quota::{GroupId, Period, Rates, Scope, ScopeClaim, Standing};
use crate::store::{KeyActivity, KeyFigures, Store, StoreResult};
use crate::time::UnixMs;

/// One limit's figures. `used` and `remaining` are `None` where it is unlimited.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    pub limit: i64,
    pub used: Option<i64>,
    pub remaining: Option<i64>,
    /// Percent of the limit, two decimals; 0 where it is unlimited.
    pub percentage: f64,
}

impl Figures {
    pub fn new(limit: i64, used: i64, held: i64) -> Self {
        if limit == 0 {
            return Figures {
                limit,
                used: None,
                remaining: None,
                percentage: 0.0,
            };
        }
        let left = limit.saturating_sub(used).saturating_sub(held).max(0);
        let hundredths = i128::from(used) * 10_000 / i128::from(limit);
        Figures {
            limit,
            used: Some(used),
            remaining: Some(left),
            percentage: hundredths as f64 / 100.0,
        }
    }

    /// Whether settled usage has reached the limit.
    pub fn is_exceeded(&self) -> bool {
        self.used.is_some_and(|used| used >= self.limit)
    }

    fn usd(self) -> (Value, Option<Value>, Option<Value>) {
        let used = self.used.map(usd::show);
        (usd::show(self.limit), used, self.remaining.map(usd::show))
    }
}

/// The figures of a key's token quota.
pub fn tokens(standing: &Standing) -> Figures {
    let limit = standing.quotas.tokens.limit;
    Figures::new(limit, standing.used.tokens, standing.held.tokens)
}

/// The figures of a key's request quota.
pub fn requests(standing: &Standing) -> Figures {
    let limit = standing.quotas.requests.limit;
    Figures::new(limit, standing.used.requests, standing.held.requests)
}

/// Asks for the counters of a key. The tier's rates go along: a store that is asked about other rates
/// would take them for a change of the tier.
fn claim(key: &KeyRecord, rates: Rates) -> ScopeClaim {
    ScopeClaim {
        scope: Scope::Key(key.id),
        quotas: key.quotas,
        rates,
    }
}

/// The counters of a key, whose tier has these rates.
pub async fn standing(store: &dyn Store, key: &KeyRecord, rates: Rates) -> StoreResult<Standing> {
    store.standing(claim(key, rates)).await
}

/// Counters and activity of a page of keys, in its order.
pub(super) async fn figures(
    admin: &Admin,
    keys: &[Arc<KeyRecord>],
) -> StoreResult<Vec<KeyFigures>> {
    let claims = keys.iter().map(|key| claim(key, admin.rates(&key.tier)));
    admin.store().key_figures(claims.collect()).await
}

/// Whether the key's time is over.
pub fn is_expired(key: &KeyRecord, now: UnixMs) -> bool {
    key.expires_at.is_some_and(|end| end <= now)
}

/// A key and what it has used. Limits of 0 are unlimited: what is used and left of them is null.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyItem {
    #[schema(value_type = Uuid)]
    id: KeyId,
    name: String,
    description: Option<String>,
    /// The secret as it may be shown.
    key_prefix: String,
    token_limit: i64,
    token_used: Option<i64>,
    token_remaining: Option<i64>,
    /// Percent of the token limit.
    usage_percentage: f64,
    rate_limit_tier: String,
    /// Requests that were charged.
    request_count: i64,
    /// Failed answers and refusals.
    error_count: i64,
    is_active: bool,
    #[schema(value_type = String, format = DateTime)]
    created_at: UnixMs,
    #[schema(value_type = String, format = DateTime)]
    updated_at: UnixMs,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_used_at: Option<UnixMs>,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<UnixMs>,
    /// The key's number.
    seq: i64,
    prefix: String,
    #[schema(value_type = Option<Uuid>)]
    group: Option<GroupId>,
    request_limit: i64,
    request_used: Option<i64>,
    request_remaining: Option<i64>,
    #[schema(value_type = f64)]
    usd_limit: Value,
    #[schema(value_type = Option<f64>)]
    usd_used: Option<Value>,
    #[schema(value_type = Option<f64>)]
    usd_remaining: Option<Value>,
    /// `total`, `daily`, `weekly` or `monthly`.
    #[schema(value_type = String)]
    period: Period,
    #[schema(value_type = Vec<String>)]
    allowed_ips: Vec<IpNet>,
    #[schema(value_type = Vec<String>)]
    denied_ips: Vec<IpNet>,
    allowed_origins: Vec<String>,
    allowed_models: Vec<String>,
    #[schema(value_type = Object)]
    metadata: Value,
}

impl KeyItem {
    pub fn new(key: &KeyRecord, standing: &Standing, activity: &KeyActivity) -> Self {
        let tokens = tokens(standing);
        let requests = requests(standing);
        let (used, held) = (standing.used, standing.held);
        let usd = Figures::new(key.quotas.usd.limit, used.nano_usd, held.nano_usd);
        let (usd_limit, usd_used, usd_remaining) = usd.usd();
        KeyItem {
            id: key.id,
            name: key.name.clone(),
            description: key.description.clone(),
            key_prefix: key.masked.clone(),
            token_limit: tokens.limit,
            token_used: tokens.used,
            token_remaining: tokens.remaining,
            usage_percentage: tokens.percentage,
            rate_limit_tier: key.tier.clone(),
            request_count: activity.request_count,
            error_count: activity.error_count,
            is_active: key.active && !key.deleted,
            created_at: key.created_at,
            updated_at: key.updated_at,
            last_used_at: activity.last_used_at,
            expires_at: key.expires_at,
            seq: key.seq,
            prefix: key.prefix.clone(),
            group: key.group,
            request_limit: requests.limit,
            request_used: requests.used,
            request_remaining: requests.remaining,
            usd_limit,
            usd_used,
            usd_remaining,
            period: key.quotas.tokens.period,
            allowed_ips: key.allowed_ips.clone(),
            denied_ips: key.denied_ips.clone(),
            allowed_origins: key.allowed_origins.clone(),
            allowed_models: key.allowed_models.clone(),
            metadata: key.metadata.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_limit() {
        let figures = Figures::new(1_000, 333, 100);
        assert_eq!(figures.remaining, Some(567));
        assert_eq!(figures.percentage, 33.3);
        assert!(!figures.is_exceeded());
    }

    #[test]
    fn a_debt_leaves_nothing_and_no_negative() {
        let figures = Figures::new(1_000, 1_500, 0);
        assert_eq!(figures.remaining, Some(0));
        assert_eq!(figures.percentage, 150.0);
        assert!(figures.is_exceeded());
    }

    #[test]
    fn an_unlimited_quota_has_no_figures() {
        let figures = Figures::new(0, 1_500, 10);
        assert_eq!((figures.used, figures.remaining), (None, None));
        assert!(!figures.is_exceeded());
    }
}
