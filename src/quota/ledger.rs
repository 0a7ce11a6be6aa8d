//! The ledger: counters, buckets and open reservations in memory; the one place that decides.
//!
//! Pure and deterministic: time is an argument. It is at once the engine of the embedded store and
//! the oracle every store is tested against. The life of a reservation is drawn in `crate::quota`.
//!
//! What time does here: windows follow the wall clock, which may jump (see `window` for what a step
//! back does); leases and per-minute buckets follow the steady clock.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::amount::{Amounts, MAX_AMOUNT};
use super::claim::{Ask, Grant, Reserved, ScopeClaim, Standing};
use super::counters::Counters;
use super::decide::{Decision, decide};
use super::limit::Scope;
use super::recent::Recent;
use super::reservation::{Hold, Reservation, ReservationId};
use super::resolve::Expired;
use super::sizing::Size;
use crate::time::Moment;

/// Most scopes that one ask may claim on.
pub const MAX_SCOPES: usize = 4;

/// How many settled and how many expired reservations are remembered, and for how long at the most.
const SETTLED_REMEMBERED: usize = 1 << 14;
const EXPIRED_REMEMBERED: usize = 1 << 16;
const REMEMBERED_MS: i64 = 24 * 3_600_000;

/// Why a step is refused that no caller in its right mind asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    #[error("an amount is negative or above 2^53")]
    AmountOutOfRange,
    #[error("more than {MAX_SCOPES} scopes in one ask")]
    TooManyScopes,
    #[error("the reservation id was resolved before")]
    AlreadyResolved,
}

/// An open reservation and what the ledger must know to close it.
#[derive(Clone, Debug)]
pub struct Open {
    pub reservation: Reservation,
    /// Counts up with every reservation opened: a short name for the row that keeps it.
    pub serial: i64,
    /// End of the lease on the steady clock.
    pub(super) deadline_ms: i64,
    /// What was granted first: the answer to a repeated reserve.
    pub(super) granted: Size,
    /// Tokens taken from each scope's per-minute bucket, where there was one.
    pub(super) tokens_taken: [Option<i64>; MAX_SCOPES],
}

/// Counters of every scope and every open reservation.
#[derive(Debug)]
pub struct Ledger {
    pub(super) slots: HashMap<Scope, usize, RandomState>,
    pub(super) counters: Vec<Counters>,
    pub(super) free: Vec<usize>,
    pub(super) open: HashMap<ReservationId, Open, RandomState>,
    pub(super) settled: Recent<()>,
    pub(super) expired: Recent<Expired>,
    /// Sum of what open reservations hold, each counted once.
    pub(super) held: Amounts,
    pub(super) next_serial: i64,
    /// No lease ends before this: a sweep has nothing to look for until then.
    pub(super) earliest_deadline_ms: i64,
    pub(super) turned: Vec<Scope>,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger {
            slots: HashMap::default(),
            counters: Vec::new(),
            free: Vec::new(),
            open: HashMap::default(),
            settled: Recent::new(SETTLED_REMEMBERED, REMEMBERED_MS),
            expired: Recent::new(EXPIRED_REMEMBERED, REMEMBERED_MS),
            held: Amounts::ZERO,
            next_serial: 1,
            earliest_deadline_ms: i64::MAX,
            turned: Vec::new(),
        }
    }
}

impl Ledger {
    /// Checks and takes every claim, all or nothing. Repeated with the id of an open reservation it
    /// answers what it granted first.
    ///
    /// # Errors
    /// `LedgerError`; nothing has changed then.
    pub fn reserve(&mut self, ask: &Ask, now: Moment) -> Result<Reserved, LedgerError> {
        if let Some(open) = self.open.get(&ask.id) {
            let granted = open.granted;
            return Ok(Reserved::Granted(self.grant(ask, granted, now)));
        }
        if self.settled.contains(&ask.id) || self.expired.contains(&ask.id) {
            return Err(LedgerError::AlreadyResolved);
        }
        if ask.scopes.len() > MAX_SCOPES {
            return Err(LedgerError::TooManyScopes);
        }
        if !ask.is_sound() {
            return Err(LedgerError::AmountOutOfRange);
        }
        let mut slots = [0; MAX_SCOPES];
        for (slot, claim) in slots.iter_mut().zip(&ask.scopes) {
            *slot = self.refreshed(claim, now);
        }
        let slots = &slots[..ask.scopes.len()];
        let counters = slots.iter().map(|&slot| &self.counters[slot]);
        match decide(ask, counters, now.wall)? {
            Decision::Short(shortage) => Ok(Reserved::Short(shortage)),
            Decision::Fits(size) => {
                self.open_reservation(ask, slots, size, now);
                Ok(Reserved::Granted(self.grant(ask, size, now)))
            }
        }
    }

    fn open_reservation(&mut self, ask: &Ask, slots: &[usize], size: Size, now: Moment) {
        let mut holds = Vec::with_capacity(slots.len());
        let mut tokens_taken = [None; MAX_SCOPES];
        for (at, (&slot, claim)) in slots.iter().zip(&ask.scopes).enumerate() {
            let counters = &mut self.counters[slot];
            counters.hold(size.held);
            if ask.rate_limited {
                tokens_taken[at] = counters.draw_on_rates(size.held.tokens);
            }
            holds.push(Hold {
                scope: claim.scope,
                amounts: size.held,
                windows: counters.windows(),
                rate_limited: ask.rate_limited,
            });
        }
        let lease_ms = ask.lease_ms.max(0);
        let deadline_ms = now.steady_ms.saturating_add(lease_ms);
        let reservation = Reservation {
            id: ask.id,
            holds,
            opened_at: now.wall,
            expires_at: now.wall.plus_ms(lease_ms),
            subject: ask.subject.clone(),
        };
        self.insert(reservation, size, tokens_taken, deadline_ms);
    }

    pub(super) fn insert(
        &mut self,
        reservation: Reservation,
        granted: Size,
        tokens_taken: [Option<i64>; MAX_SCOPES],
        deadline_ms: i64,
    ) {
        self.held = self.held.plus(granted.held);
        self.earliest_deadline_ms = self.earliest_deadline_ms.min(deadline_ms);
        let open = Open {
            serial: self.next_serial,
            deadline_ms,
            granted,
            tokens_taken,
            reservation,
        };
        self.next_serial += 1;
        self.open.insert(open.reservation.id, open);
    }

    fn grant(&self, ask: &Ask, size: Size, now: Moment) -> Grant {
        Grant {
            id: ask.id,
            output_tokens: size.output_tokens,
            held: size.held,
            output_left: size.output_left,
            standings: ask
                .scopes
                .iter()
                .map(|claim| self.standing(claim, now))
                .collect(),
        }
    }

    /// Takes `more` for an open reservation where the whole of it fits every quota. Per-minute
    /// buckets bear it without being asked: a running answer is not cut for them.
    pub fn top_up(
        &mut self,
        id: ReservationId,
        claims: &[ScopeClaim],
        more: Amounts,
        now: Moment,
    ) -> bool {
        let sound = more.to_array().iter().all(|n| (0..=MAX_AMOUNT).contains(n));
        if !sound || !self.open.contains_key(&id) {
            return false;
        }
        for claim in claims {
            let slot = self.refreshed(claim, now);
            let left = self.counters[slot].left(&claim.quotas);
            if left.iter().zip(more.to_array()).any(|(left, n)| n > *left) {
                return false;
            }
        }
        self.turn_scopes_of(&id, now);
        let Some(open) = self.open.get_mut(&id) else {
            return false;
        };
        let holds = open.reservation.holds.iter_mut();
        for (hold, taken) in holds.zip(&mut open.tokens_taken) {
            hold.amounts = hold.amounts.plus(more);
            let Some(&slot) = self.slots.get(&hold.scope) else {
                continue;
            };
            let counters = &mut self.counters[slot];
            counters.hold_more(more, &hold.windows);
            if let (Some(taken), Some(bucket)) = (taken, &mut counters.tokens_bucket) {
                bucket.take(more.tokens);
                *taken = taken.saturating_add(more.tokens);
            }
        }
        self.held = self.held.plus(more);
        true
    }

    /// Extends the leases of those still open to now + `lease_ms`.
    pub fn renew(&mut self, ids: &[ReservationId], lease_ms: i64, now: Moment) {
        let lease_ms = lease_ms.max(0);
        for id in ids {
            if let Some(open) = self.open.get_mut(id) {
                open.deadline_ms = now.steady_ms.saturating_add(lease_ms);
                open.reservation.expires_at = now.wall.plus_ms(lease_ms);
            }
        }
    }

    /// The counters of a scope under these limits, as a claim would find them now.
    pub fn standing(&self, claim: &ScopeClaim, now: Moment) -> Standing {
        let slot = self.slots.get(&claim.scope);
        let mut counters = slot.map_or_else(Counters::default, |&slot| self.counters[slot]);
        counters.refresh(claim, now);
        counters.standing(claim)
    }
}

impl Open {
    /// For how long its lease has been over, in milliseconds; negative while it lasts.
    pub fn overdue_ms(&self, now: Moment) -> i64 {
        now.steady_ms.saturating_sub(self.deadline_ms)
    }

    /// What it holds in each of its scopes.
    pub fn held(&self) -> Amounts {
        let first = self.reservation.holds.first();
        first.map_or(Amounts::ZERO, |hold| hold.amounts)
    }
}
