//! HOW MUCH: limits and their windows, claims on them, reservations, and the ledger that decides.
//!
//! ```text
//!   claim ──reserve──▶ held ──settle──▶ used (and debt, where more was used than held)
//!                       │ ▲
//!                 lease │ │ renew / top up
//!                       ▼ │
//!                     expired ──▶ charged or released, by policy; a later settle charges the rest
//! ```

pub mod amount;
pub mod bucket;
pub mod claim;
pub mod counters;
mod decide;
pub mod ledger;
pub mod limit;
pub mod money;
pub(crate) mod recent;
pub mod reservation;
mod resolve;
mod shortage;
mod sizing;
mod slots;
pub mod window;

pub use amount::{Amounts, NANO_PER_USD, cost_of};
pub use claim::{Admission, Ask, Grant, Reserved, ScopeClaim, Shortage, Standing};
pub(crate) use decide::{Decision, decide};
pub use limit::{GroupId, Limit, LimitKind, Period, Quotas, Rates, Resource, Scope};
pub use reservation::{
    Charge, Hold, LostReservation, Reservation, ReservationId, Settled, Subject,
};
pub use resolve::{Lost, Resolution};
