//! The ledger's books as such: whose counters lie where, how they follow time, and how they are
//! put back after a restart.

use super::amount::Amounts;
use super::claim::ScopeClaim;
use super::counters::{Counters, Moved};
use super::ledger::{Ledger, MAX_SCOPES, Open, Turned};
use super::limit::Scope;
use super::reservation::{Reservation, ReservationId};
use super::sizing::Size;
use crate::time::Moment;

impl Ledger {
    /// Puts a scope's counters back as they were written.
    pub fn restore_counters(&mut self, scope: Scope, counters: Counters) {
        let slot = self.slot(scope);
        self.counters[slot] = counters;
    }

    /// Puts back a reservation that was open when its process died, to be resolved at once. It gives
    /// nothing back to per-minute buckets.
    pub fn restore_reservation(&mut self, mut reservation: Reservation, serial: i64) {
        let held = reservation
            .holds
            .first()
            .map_or(Amounts::ZERO, |hold| hold.amounts);
        for hold in &mut reservation.holds {
            hold.rate_limited = false;
            let slot = self.slot(hold.scope);
            self.counters[slot].hold_more(hold.amounts, &hold.windows);
        }
        self.next_serial = self.next_serial.max(serial);
        let granted = Size {
            held,
            output_tokens: 0,
            output_left: 0,
        };
        self.insert(reservation, granted, [None; MAX_SCOPES], i64::MIN);
    }

    pub fn counters(&self, scope: Scope) -> Option<&Counters> {
        self.slots.get(&scope).map(|&slot| &self.counters[slot])
    }

    pub fn open(&self, id: ReservationId) -> Option<&Open> {
        self.open.get(&id)
    }

    /// All open reservations, in no order.
    pub fn all_open(&self) -> impl Iterator<Item = &Open> {
        self.open.values()
    }

    /// How many reservations are open, and what they hold together.
    pub fn totals(&self) -> (usize, Amounts) {
        (self.open.len(), self.held)
    }

    /// Lowers `used` by what it was when an operator reset it; what came since stays.
    pub fn reset_used(&mut self, scope: Scope, was: &Counters) {
        let Some(&slot) = self.slots.get(&scope) else {
            return;
        };
        for (count, was) in self.counters[slot].counts.iter_mut().zip(&was.counts) {
            if count.window == was.window {
                count.used = count.used.saturating_sub(was.used).max(0);
            }
        }
    }

    /// Drops a scope's counters for good; what it still holds settles into nothing.
    pub fn forget(&mut self, scope: Scope) {
        if let Some(slot) = self.slots.remove(&scope) {
            self.counters[slot] = Counters::default();
            self.free.push(slot);
        }
    }

    /// Scopes whose windows changed since this was asked last.
    pub fn take_turned(&mut self) -> Vec<Turned> {
        std::mem::take(&mut self.turned)
    }

    /// The slot of a scope, its windows and buckets brought to now.
    pub(super) fn refreshed(&mut self, claim: &ScopeClaim, now: Moment) -> usize {
        let slot = self.slot(claim.scope);
        let moved = self.counters[slot].refresh(claim, now);
        self.follow(claim.scope, moved);
        slot
    }

    /// Brings the windows of every scope of an open reservation to now.
    pub(super) fn turn_scopes_of(&mut self, id: &ReservationId, now: Moment) {
        let Some(open) = self.open.get(id) else {
            return;
        };
        let mut stale = [None; MAX_SCOPES];
        for (stale, hold) in stale.iter_mut().zip(&open.reservation.holds) {
            *stale = self.slots.get(&hold.scope).map(|&slot| (slot, hold.scope));
        }
        for (slot, scope) in stale.into_iter().flatten() {
            self.turn_slot(slot, scope, now);
        }
    }

    pub(super) fn turn_slot(&mut self, slot: usize, scope: Scope, now: Moment) {
        if self.counters[slot].is_current(now.wall) {
            return;
        }
        let moved = self.counters[slot].turn_windows(now.wall);
        self.follow(scope, moved);
    }

    /// Renames the windows of the scope's holds, so that they still settle where they came from.
    fn follow(&mut self, scope: Scope, moved: Moved) {
        if !moved.turned {
            return;
        }
        let rebased = moved.rebased.iter().any(Option::is_some);
        self.turned.push(Turned { scope, rebased });
        if !rebased {
            return;
        }
        let Some(&slot) = self.slots.get(&scope) else {
            return;
        };
        let counts = &mut self.counters[slot].counts;
        for (count, rebased) in counts.iter_mut().zip(moved.rebased) {
            if rebased.is_some() {
                count.held = 0;
            }
        }
        let open = self.open.values_mut();
        let holds = open.flat_map(|open| &mut open.reservation.holds);
        for hold in holds.filter(|hold| hold.scope == scope) {
            let amounts = hold.amounts.to_array();
            for (resource, count) in counts.iter_mut().enumerate() {
                let Some((from, to)) = moved.rebased[resource] else {
                    continue;
                };
                let start = &mut hold.windows[resource];
                if *start == from || *start == to {
                    *start = to;
                    count.held = count.held.saturating_add(amounts[resource]);
                }
            }
        }
    }

    fn slot(&mut self, scope: Scope) -> usize {
        if let Some(&slot) = self.slots.get(&scope) {
            return slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.counters.push(Counters::default());
            self.counters.len() - 1
        });
        self.slots.insert(scope, slot);
        slot
    }
}
