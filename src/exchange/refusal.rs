//! Why an exchange is turned away, in domain terms. How it looks on the wire is the shell's matter.

use crate::metering::Dialect;
use crate::quota::Shortage;

/// Every cause of SPEC section 3's table, with what its message needs.
#[derive(Clone, Debug)]
pub enum Refusal {
    NoKey,
    UnknownKey,
    /// Two places of the request name two keys.
    TwoKeys,
    KeyExpired,
    KeyDisabled,
    IpNotAllowed,
    OriginNotAllowed,
    ModelNotAllowed {
        model: String,
    },
    /// Spend whose usage does not pass here, for a key with a token or USD quota.
    Unmetered,
    QuotaExceeded(Box<Shortage>),
    RateLimited(Box<Shortage>),
    BadRequest {
        message: String,
        param: Option<String>,
    },
    NoPoolForModel {
        model: String,
    },
    /// The path speaks one dialect, the pool of its model another.
    OtherDialect {
        model: String,
        dialect: Dialect,
    },
    NotFound,
    BodyTooLarge {
        limit: usize,
    },
    /// All held bodies together reached their bound: this passes.
    Overloaded,
    /// The held bodies of this key reached their part of that bound.
    KeyOverloaded,
    UpstreamUnavailable,
    UpstreamTimeout,
    StoreUnavailable,
    Internal,
}

impl Refusal {
    /// A request that makes no sense, in words for its sender.
    pub fn bad(message: &str) -> Refusal {
        Refusal::BadRequest {
            message: message.to_owned(),
            param: None,
        }
    }

    /// The code that logs, events and `/api/v1/*` answers carry.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::NoKey | Refusal::UnknownKey => "UNAUTHORIZED",
            Refusal::KeyExpired => "KEY_EXPIRED",
            Refusal::KeyDisabled => "KEY_DISABLED",
            Refusal::IpNotAllowed
            | Refusal::OriginNotAllowed
            | Refusal::ModelNotAllowed { .. }
            | Refusal::Unmetered => "FORBIDDEN",
            Refusal::QuotaExceeded(_) => "QUOTA_EXCEEDED",
            Refusal::RateLimited(_) => "RATE_LIMITED",
            Refusal::BadRequest { .. } | Refusal::TwoKeys => "INVALID_REQUEST",
            Refusal::NoPoolForModel { .. } | Refusal::OtherDialect { .. } => "MODEL_NOT_FOUND",
            Refusal::NotFound => "NOT_FOUND",
            Refusal::BodyTooLarge { .. } => "PAYLOAD_TOO_LARGE",
            Refusal::UpstreamUnavailable | Refusal::Overloaded | Refusal::KeyOverloaded => {
                "UPSTREAM_UNAVAILABLE"
            }
            Refusal::UpstreamTimeout => "UPSTREAM_TIMEOUT",
            Refusal::StoreUnavailable => "STORE_UNAVAILABLE",
            Refusal::Internal => "INTERNAL_ERROR",
        }
    }
}
