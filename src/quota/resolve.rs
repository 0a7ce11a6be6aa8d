//! How reservations end: settled once, late after an expiry, lost with their lease, or undone.

use super::amount::Amounts;
use super::ledger::{Ledger, Open};
use super::limit::Scope;
use super::reservation::{Charge, Hold, LostReservation, ReservationId, Settled};
use crate::time::Moment;

/// What remains of a reservation whose lease ran out.
#[derive(Debug)]
pub(super) enum Expired {
    Unsettled { holds: Vec<Hold>, charged: Amounts },
    SettledLate,
}

/// What a settle step did, and the reservation it closed.
#[derive(Debug)]
pub struct Resolution {
    pub settled: Settled,
    /// `None` where nothing was closed: already settled, unknown, or late.
    pub closed: Option<Open>,
    /// Whose counters moved.
    pub scopes: Vec<Scope>,
}

/// A reservation that a sweep resolved.
#[derive(Debug)]
pub struct Lost {
    pub open: Open,
    pub charged: Amounts,
}

impl Ledger {
    /// Resolves a reservation, once. An excess over the hold is booked always.
    pub fn settle(&mut self, id: ReservationId, charge: Charge, now: Moment) -> Resolution {
        self.turn_scopes_of(&id, now);
        let Some(open) = self.open.remove(&id) else {
            return self.settle_late(id, charge, now);
        };
        let held = open.held();
        let charged = charge.of(held);
        self.close(&open, charged, charge == Charge::Void, now);
        self.settled.insert(id, (), now.steady_ms);
        Resolution {
            settled: Settled::Applied {
                charged,
                debt: charged.minus(held).max(Amounts::ZERO),
            },
            scopes: open.reservation.holds.iter().map(|h| h.scope).collect(),
            closed: Some(open),
        }
    }

    /// After an expiry: what the reservation was not charged then is charged now, once.
    fn settle_late(&mut self, id: ReservationId, charge: Charge, now: Moment) -> Resolution {
        let nothing = Resolution {
            settled: Settled::Already,
            closed: None,
            scopes: Vec::new(),
        };
        let Some(expired) = self.expired.get_mut(&id) else {
            return nothing;
        };
        let Expired::Unsettled { holds, charged } =
            std::mem::replace(expired, Expired::SettledLate)
        else {
            return nothing;
        };
        let held = holds.first().map_or(Amounts::ZERO, |hold| hold.amounts);
        let rest = charge.of(held).minus(charged).max(Amounts::ZERO);
        for hold in &holds {
            let Some(&slot) = self.slots.get(&hold.scope) else {
                continue;
            };
            self.turn_slot(slot, hold.scope, now);
            let counters = &mut self.counters[slot];
            counters.refill_buckets(now.steady_ms);
            counters.charge(rest, &hold.windows);
            if hold.rate_limited
                && let Some(bucket) = &mut counters.tokens_bucket
            {
                bucket.take(rest.tokens);
            }
        }
        Resolution {
            settled: Settled::Late { charged: rest },
            closed: None,
            scopes: holds.iter().map(|hold| hold.scope).collect(),
        }
    }

    /// Gives the hold back and charges; `void` says that per-minute limits get theirs back too.
    fn close(&mut self, open: &Open, charged: Amounts, void: bool, now: Moment) {
        self.held = self.held.minus(open.held());
        for (hold, taken) in open.reservation.holds.iter().zip(open.tokens_taken) {
            let Some(&slot) = self.slots.get(&hold.scope) else {
                continue;
            };
            let counters = &mut self.counters[slot];
            counters.refill_buckets(now.steady_ms);
            counters.release(hold);
            counters.charge(charged, &hold.windows);
            if !hold.rate_limited {
                continue;
            }
            if let (Some(taken), Some(bucket)) = (taken, &mut counters.tokens_bucket) {
                bucket.give_back(taken.saturating_sub(charged.tokens));
            }
            if void && let Some(bucket) = &mut counters.requests_bucket {
                bucket.give_back(1);
            }
        }
    }

    /// Resolves every reservation whose lease has run out.
    pub fn sweep(&mut self, now: Moment, policy: LostReservation) -> Vec<Lost> {
        if now.steady_ms < self.earliest_deadline_ms {
            return Vec::new();
        }
        let ids = self.ids_where(|open| open.deadline_ms <= now.steady_ms);
        let lost = self.lose(&ids, now, policy);
        let deadlines = self.open.values().map(|open| open.deadline_ms);
        self.earliest_deadline_ms = deadlines.min().unwrap_or(i64::MAX);
        lost
    }

    /// Resolves all that is open, whatever the lease: what a dead process left behind.
    pub fn abandon_all(&mut self, now: Moment, policy: LostReservation) -> Vec<Lost> {
        let ids = self.ids_where(|_| true);
        self.lose(&ids, now, policy)
    }

    /// In the order they were opened, so that the same steps always come to the same.
    fn ids_where(&self, chosen: impl Fn(&Open) -> bool) -> Vec<ReservationId> {
        let open = self.open.values().filter(|open| chosen(open));
        let mut ids: Vec<_> = open
            .map(|open| (open.serial, open.reservation.id))
            .collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    fn lose(&mut self, ids: &[ReservationId], now: Moment, policy: LostReservation) -> Vec<Lost> {
        let mut all_lost = Vec::with_capacity(ids.len());
        for id in ids {
            self.turn_scopes_of(id, now);
            let Some(open) = self.open.remove(id) else {
                continue;
            };
            let charged = match policy {
                LostReservation::Charge => open.held(),
                LostReservation::Release => Amounts::ZERO,
            };
            self.close(&open, charged, policy == LostReservation::Release, now);
            let holds = open.reservation.holds.clone();
            let expired = Expired::Unsettled { holds, charged };
            self.expired.insert(*id, expired, now.steady_ms);
            all_lost.push(Lost { open, charged });
        }
        all_lost
    }

    /// Undoes a reserve that could not be made to last: as if it had never been asked.
    pub fn undo_reserve(&mut self, id: ReservationId, now: Moment) -> Option<Open> {
        self.turn_scopes_of(&id, now);
        let open = self.open.remove(&id)?;
        self.close(&open, Amounts::ZERO, true, now);
        Some(open)
    }
}
