//! What is asked of the limits before an exchange, and what they answer.

use serde::{Deserialize, Serialize};

use super::amount::{Amounts, cost_of};
use super::limit::{LimitKind, Quotas, Rates, Scope};
use super::reservation::{ReservationId, Subject};
use crate::time::UnixMs;

/// How much must be left for an exchange to be admitted (SPEC section 2, `quota.admission`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admission {
    /// The input estimate and one output token must fit; the hold shrinks to what is left.
    #[default]
    Clamp,
    /// The whole estimate must fit.
    Strict,
    /// Anything left admits; the hold is what is left of the estimate, the excess becomes debt.
    Open,
}

/// One scope's limits as they stand for this claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeClaim {
    pub scope: Scope,
    pub quotas: Quotas,
    pub rates: Rates,
}

/// Everything one reservation asks for. All scopes grant it together, or none does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ask {
    pub id: ReservationId,
    /// The version of the key record that admitted the caller: another one in the store refuses.
    pub key_version: i64,
    /// The same of the group whose limits are claimed; `None` where there is none to compare.
    pub group_version: Option<i64>,
    /// The key's own claim, then its group's.
    pub scopes: Vec<ScopeClaim>,
    pub admission: Admission,
    /// Requests to draw, 1 for an exchange.
    pub requests: i64,
    /// Estimated input tokens: must fit whole, whatever the admission.
    pub input_tokens: i64,
    /// Output tokens to hold; clamping may grant fewer, never fewer than `least_output_tokens`.
    pub output_tokens: i64,
    /// Output tokens without which the answer makes no sense: one for each choice asked for.
    pub least_output_tokens: i64,
    /// Nano-USD that do not depend on the output: input and per-request price.
    pub fixed_nano_usd: i64,
    /// Price of the output, nano-USD per million tokens.
    pub output_nano_per_million: i64,
    /// False for draws that per-minute limits and concurrency do not rule.
    pub rate_limited: bool,
    /// How long the reservation lives unless renewed, in milliseconds.
    pub lease_ms: i64,
    /// What the books say of the exchange should it never settle.
    pub subject: std::sync::Arc<Subject>,
}

impl Ask {
    /// What is held when `output_tokens` of output are granted.
    pub fn amounts_for(&self, output_tokens: i64) -> Amounts {
        Amounts {
            requests: self.requests,
            tokens: self.input_tokens.saturating_add(output_tokens),
            nano_usd: self
                .fixed_nano_usd
                .saturating_add(cost_of(output_tokens, self.output_nano_per_million)),
        }
    }
}

/// One scope's counters after a step, for headers and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub scope: Scope,
    pub quotas: Quotas,
    pub rates: Rates,
    /// Settled in the current windows.
    pub used: Amounts,
    /// Held by running exchanges in the current windows.
    pub held: Amounts,
    /// Exchanges running now.
    pub running: i64,
    /// What is in the per-minute buckets now (may be negative: debt), in whole requests and tokens.
    pub requests_in_bucket: i64,
    pub tokens_in_bucket: i64,
    /// When the requests, tokens and USD windows end; `None` for `total`.
    pub resets_at: [Option<UnixMs>; 3],
}

impl Standing {
    /// What is left of the request quota; `None` where it is unlimited.
    pub fn requests_left(&self) -> Option<i64> {
        let taken = self.used.requests.saturating_add(self.held.requests);
        let limit = self.quotas.requests;
        (!limit.is_unlimited()).then(|| limit.limit.saturating_sub(taken).max(0))
    }
}

/// A granted reservation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Grant {
    pub id: ReservationId,
    /// Output tokens granted: at most those asked for.
    pub output_tokens: i64,
    pub held: Amounts,
    /// Output tokens that the quotas would still bear beyond the hold, `i64::MAX` where unlimited.
    pub output_left: i64,
    pub standings: Vec<Standing>,
}

/// Why a claim was refused: the first limit, in the order of `LimitKind`, that could not bear it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    pub kind: LimitKind,
    pub limit: i64,
    pub used: i64,
    pub held: i64,
    /// What was asked of this limit at the least.
    pub requested: i64,
    /// After how many milliseconds the same claim could succeed: a bucket refills, a window ends, or
    /// running exchanges give back (then a guess of one second). `None` when time does not help.
    pub retry_after_ms: Option<i64>,
    pub standing: Standing,
}

/// The answer of a reserve step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reserved {
    Granted(Grant),
    Short(Box<Shortage>),
    /// The key record has changed (disabled, edited, deleted): look it up again and decide anew.
    KeyChanged,
}
