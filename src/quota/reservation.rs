//! Reservations: claims granted together, settled exactly once.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::amount::Amounts;
use super::limit::Scope;
use crate::keys::KeyId;
use crate::time::UnixMs;

/// Identifies a reservation, its exchange and its usage event: settling is idempotent by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReservationId(pub Uuid);

/// What the books know of an exchange before its end: enough for an event if its edge dies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    pub key: KeyId,
    pub request_id: String,
    pub method: String,
    pub path: String,
    pub model: Option<String>,
    pub pool: Option<String>,
    pub end_user: Option<String>,
    /// The estimate that was reserved for the input.
    pub input_tokens: i64,
}

/// What one scope holds for a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub scope: Scope,
    pub amounts: Amounts,
    /// Numbers of the requests, tokens and USD windows the hold came from: it settles there, or
    /// nowhere once a later window has begun.
    pub windows: [i64; 3],
    /// Whether per-minute buckets and concurrency were drawn on.
    pub rate_limited: bool,
}

/// An open reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub id: ReservationId,
    pub holds: Vec<Hold>,
    pub opened_at: UnixMs,
    pub expires_at: UnixMs,
    pub subject: std::sync::Arc<Subject>,
}

/// What becomes of a reservation whose lease ran out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LostReservation {
    #[default]
    Charge,
    Release,
}

/// How a reservation is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Charge {
    /// This was used, more or less than held.
    Exact(Amounts),
    /// At least what was held was used (the true figure is unknown).
    AtLeast(Amounts),
    /// Nothing was used: everything goes back and no request is counted.
    Void,
}

impl Charge {
    /// What is charged where `held` was held.
    pub fn of(self, held: Amounts) -> Amounts {
        match self {
            Charge::Exact(amounts) => amounts.clamped(),
            Charge::AtLeast(amounts) => amounts.clamped().max(held),
            Charge::Void => Amounts::ZERO,
        }
    }
}

/// What a settle step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settled {
    /// First settlement: this was charged; `debt` is what exceeded the hold.
    Applied { charged: Amounts, debt: Amounts },
    /// The lease had run out before: `charged` is what this step added.
    Late { charged: Amounts },
    /// It was settled before, or never known: nothing changed.
    Already,
}
