//! What metrics are told apart by: closed sets, so that no caller can make a series.

use crate::store::Condition;

/// The methods that have a label of their own; the last one stands for all others, so that a client
/// cannot make labels.
pub(super) const METHODS: [&str; 8] = [
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "OTHER",
];
/// Statuses 100..=599, and a slot for exchanges that ended before an answer was begun (`0`).
pub(super) const STATUS_SLOTS: usize = 501;

/// The kinds of tokens that are counted; all but the first two lie inside those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    Input,
    Output,
    Cached,
    CacheWrite,
    Reasoning,
}

pub(super) const TOKEN_KINDS: [&str; 5] = ["input", "output", "cached", "cache_write", "reasoning"];

/// What is remarkable in the figures of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// No usage was reported.
    Estimated,
    /// The report was absurd.
    Capped,
    /// Settled after its lease had run out.
    Late,
    /// Its lease ran out unsettled.
    Expired,
    ClientDisconnected,
    /// Cut because a top-up was refused.
    Cut,
}

pub(super) const FLAGS: [&str; 6] = [
    "estimated",
    "capped",
    "late",
    "expired",
    "client_disconnected",
    "cut",
];

/// A step of the store whose time is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOp {
    Lookup,
    Reserve,
    TopUp,
    Renew,
    Settle,
    Refusal,
}

pub(super) const STORE_OPS: [&str; 6] =
    ["lookup", "reserve", "top_up", "renew", "settle", "refusal"];

/// The conditions of a store.
pub(super) const CONDITIONS: [Condition; 3] =
    [Condition::Serving, Condition::Degraded, Condition::Away];

pub(super) fn condition_label(condition: Condition) -> &'static str {
    match condition {
        Condition::Serving => "serving",
        Condition::Degraded => "degraded",
        Condition::Away => "away",
    }
}

/// How one attempt at a peer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamOutcome {
    Ok,
    /// No connection.
    Connect,
    Timeout,
    /// It answered with a client error (400–499, save for the next two).
    Refused,
    TooManyRequests,
    /// It rejected our credential, or our account there is empty.
    Credential,
    /// It refused with 401 to 403 what the caller may be the cause of.
    Denied,
    ServerError,
    /// The answer broke off.
    Broken,
    /// Its peer never read the request: a connection ended before it was through, or it says so itself.
    Stale,
    /// Its client left after it had waited long for a head.
    ClientGone,
}

impl UpstreamOutcome {
    /// As metrics and the access log name it.
    pub fn word(self) -> &'static str {
        UPSTREAM_OUTCOMES[self as usize]
    }
}

pub(super) const UPSTREAM_OUTCOMES: [&str; 11] = [
    "ok",
    "connect",
    "timeout",
    "refused",
    "too_many_requests",
    "credential",
    "denied",
    "server_error",
    "broken",
    "stale",
    "client_gone",
];

/// Why a peer rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestCause {
    /// It failed too often in a row, or as its probe.
    Failures,
    /// Its provider asked for it.
    Asked,
}

pub(super) const REST_CAUSES: [&str; 2] = ["failures", "asked"];

/// Why a peer was not asked although it was its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// It has too little room before its provider's limit.
    Tight,
    Resting,
}

impl SkipReason {
    /// As metrics and the access log name it.
    pub fn word(self) -> &'static str {
        SKIP_REASONS[self as usize]
    }
}

pub(super) const SKIP_REASONS: [&str; 2] = ["tight", "resting"];
