//! The ledger's books as such: whose counters lie where, how they follow time, and how they are
//! put back after a restart.

use super::amount::Amounts;
use super::claim::ScopeClaim;
use super::counters::Counters;
use super::ledger::{Ledger, MAX_SCOPES, Open};
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
    pub fn restore_reservation(&mut self, reservation: Reservation, serial: i64) {
        self.put_back(reservation, serial, false, i64::MIN);
    }

    /// Puts back a reservation whose exchange goes on in the process that had these books before. Its
    /// lease begins anew.
    pub fn adopt_reservation(
        &mut self,
        reservation: Reservation,
        serial: i64,
        lease_ms: i64,
        now: Moment,
    ) {
        let deadline_ms = now.steady_ms.saturating_add(lease_ms);
        // What outlives a step and is written is an exchange; draws that no rate rules never do.
        self.put_back(reservation, serial, true, deadline_ms);
    }

    fn put_back(
        &mut self,
        mut reservation: Reservation,
        serial: i64,
        running: bool,
        deadline_ms: i64,
    ) {
        let held = reservation
            .holds
            .first()
            .map_or(Amounts::ZERO, |hold| hold.amounts);
        let mut tokens_taken = [None; MAX_SCOPES];
        for (hold, taken) in reservation.holds.iter_mut().zip(&mut tokens_taken) {
            hold.rate_limited = running;
            let slot = self.slot(hold.scope);
            let counters = &mut self.counters[slot];
            counters.hold_more(hold.amounts, &hold.windows);
            if running {
                counters.running += 1;
                // What it drew when it was opened, as far as the limit is the same still.
                let bucket = counters.tokens_bucket.as_ref();
                *taken = bucket.map(|bucket| held.tokens.min(bucket.limit()));
            }
        }
        self.next_serial = self.next_serial.max(serial);
        let granted = Size {
            held,
            output_tokens: 0,
            output_left: 0,
        };
        self.insert(reservation, granted, tokens_taken, deadline_ms);
    }

    pub fn counters(&self, scope: Scope) -> Option<&Counters> {
        self.slots.get(&scope).map(|&slot| &self.counters[slot])
    }

    pub fn open(&self, id: ReservationId) -> Option<&Open> {
        self.open.get(&id)
    }

    /// Every open reservation, in no order.
    pub fn each_open(&self) -> impl Iterator<Item = &Open> {
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
            if count.number == was.number {
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

    /// Scopes whose windows changed since this was asked last: what is on disk of them must not lag
    /// behind their reservations.
    pub fn take_turned(&mut self) -> Vec<Scope> {
        std::mem::take(&mut self.turned)
    }

    /// The slot of a scope, its windows and buckets brought to now.
    pub(super) fn refreshed(&mut self, claim: &ScopeClaim, now: Moment) -> usize {
        let slot = self.slot(claim.scope);
        if self.counters[slot].refresh(claim, now) {
            self.turned.push(claim.scope);
        }
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
        if self.counters[slot].turn_windows(now.wall) {
            self.turned.push(scope);
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
