//! The steps of quota: each moves the memory under one lock and leaves what is to be written.

use super::EmbeddedStore;
use super::state::{Reset, State};
use crate::keys::KeyId;
use crate::quota::{
    Amounts, Ask, Reservation, ReservationId, Reserved, Scope, ScopeClaim, Settled, Standing,
};
use crate::store::usage_log::{Booked, event_of_lost, share_charge};
use crate::store::usual::answer_of;
use crate::store::{
    AuditEntry, KeyFigures, Settlement, StoreError, StoreResult, Totals, UsageEvent,
};
use tokio::sync::oneshot;

impl EmbeddedStore {
    pub(super) async fn take_reservation(&self, ask: Ask) -> StoreResult<Reserved> {
        let id = ask.id;
        let (reserved, commit, repeated) = {
            let directory = self.shared.directory.read();
            let record = directory.key(ask.subject.key);
            let admitted = record.is_some_and(|r| r.version == ask.key_version && !r.deleted);
            let known = |claim: &ScopeClaim| directory.scope_number(claim.scope).is_some();
            let same_group = |claim: &ScopeClaim| match (claim.scope, ask.group_version) {
                (Scope::Group(id), Some(version)) => directory
                    .group(id)
                    .is_some_and(|group| group.version == version),
                _ => true,
            };
            let unchanged = |claim: &ScopeClaim| known(claim) && same_group(claim);
            if !admitted || !ask.scopes.iter().all(unchanged) {
                return Ok(Reserved::KeyChanged);
            }
            let mut state = self.shared.state.lock();
            state.check_room()?;
            let repeated = state.ledger.open(id).is_some();
            let reserved = state.ledger.reserve(&ask, self.shared.now());
            // Also where it is refused: what is on disk must follow time before the next grant does.
            state.note_turned();
            let reserved = reserved.map_err(|error| StoreError::Fault(error.to_string()))?;
            if !matches!(reserved, Reserved::Granted(_)) {
                return Ok(reserved);
            }
            if !repeated {
                state.note_opened(id);
            }
            if repeated {
                state.pending.flush = true;
            }
            (reserved, state.pending.commit.clone(), repeated)
        };
        self.shared.work.notify_one();
        commit.wait().await?;
        if repeated && self.shared.state.lock().ledger.open(id).is_none() {
            return Err(StoreError::Unavailable(String::from(
                "the reservation could not be kept, or was settled meanwhile",
            )));
        }
        Ok(reserved)
    }

    pub(super) async fn take_more(
        &self,
        id: ReservationId,
        claims: &[ScopeClaim],
        more: Amounts,
    ) -> StoreResult<bool> {
        let commit = {
            let mut state = self.shared.state.lock();
            state.check_room()?;
            let granted = state.ledger.top_up(id, claims, more, self.shared.now());
            state.note_turned();
            if !granted {
                return Ok(false);
            }
            state.pending.rewritten.push(id);
            state.pending.flush = true;
            state.pending.commit.clone()
        };
        self.shared.work.notify_one();
        commit.wait().await.map(|()| true)
    }

    pub(super) fn resolve(&self, settlement: Settlement) -> StoreResult<Settled> {
        let usual = answer_of(&settlement);
        let usual = usual.map(|(key, model, output)| (key, model.to_owned(), output));
        let Settlement {
            id,
            charge,
            mut event,
            mut further,
        } = settlement;
        let (settled, wake) = {
            let mut state = self.shared.state.lock();
            state.check_open()?;
            let resolution = state.ledger.settle(id, charge, self.shared.now());
            let charged = match resolution.settled {
                Settled::Already => return Ok(Settled::Already),
                Settled::Applied { charged, .. } => charged,
                Settled::Late { charged } => {
                    for event in std::iter::once(&mut event).chain(&mut further) {
                        event.reason = Some(String::from("late"));
                    }
                    charged
                }
            };
            share_charge(&mut event, &mut further, charged);
            state.note_turned();
            let booked = Booked { event, row: true };
            let wake = state.book(resolution.closed.as_ref(), &resolution.scopes, booked);
            for event in further {
                state.note_event(Booked { event, row: true });
            }
            (resolution.settled, wake)
        };
        if wake {
            self.shared.work.notify_one();
        }
        if let Some((key, model, output)) = usual {
            self.shared.usual.lock().record(key, &model, output);
        }
        Ok(settled)
    }

    pub(super) fn refuse(&self, mut event: UsageEvent) -> StoreResult<()> {
        event.set_charged(Amounts::ZERO);
        let wake = {
            let directory = self.shared.directory.read();
            if directory.key(event.api_key_id).is_none() {
                return Err(StoreError::NotFound);
            }
            let mut state = self.shared.state.lock();
            state.check_room()?;
            let steady_ms = self.shared.now().steady_ms;
            let row = state.flood.allows_row(event.api_key_id, steady_ms);
            state.book(None, &[], Booked { event, row })
        };
        if wake {
            self.shared.work.notify_one();
        }
        Ok(())
    }

    pub(super) fn sweep_leases(&self) -> StoreResult<usize> {
        let (count, wake) = {
            let mut state = self.shared.state.lock();
            state.check_open()?;
            let now = self.shared.now();
            let lost = state
                .ledger
                .sweep(now, self.shared.options.lost_reservation);
            state.note_turned();
            let mut wake = false;
            for lost in &lost {
                let reservation = &lost.open.reservation;
                let event = event_of_lost(reservation, lost.charged, "lease_expired", now.wall);
                let scopes = scopes_of(reservation);
                wake |= state.book(Some(&lost.open), &scopes, Booked { event, row: true });
            }
            let count = lost.len() + std::mem::take(&mut state.lost_at_open);
            (count, wake)
        };
        if wake {
            self.shared.work.notify_one();
        }
        Ok(count)
    }

    pub(super) fn standing_now(&self, claim: &ScopeClaim) -> StoreResult<Standing> {
        let state = self.shared.state.lock();
        state.check_open()?;
        Ok(state.ledger.standing(claim, self.shared.now()))
    }

    /// Under one lock: the figures of a page belong together.
    pub(super) fn figures(&self, claims: &[ScopeClaim]) -> StoreResult<Vec<KeyFigures>> {
        let state = self.shared.state.lock();
        state.check_open()?;
        let now = self.shared.now();
        let figures = claims.iter().map(|claim| KeyFigures {
            standing: state.ledger.standing(claim, now),
            activity: state.activity_of(claim.scope),
        });
        Ok(figures.collect())
    }

    pub(super) async fn reset(&self, scope: Scope, audit: AuditEntry) -> StoreResult<()> {
        let known = self.shared.directory.read().scope_number(scope);
        if known.is_none() {
            return Err(StoreError::NotFound);
        }
        let (done, is_done) = oneshot::channel();
        {
            let mut state = self.shared.state.lock();
            state.check_open()?;
            state.pending.resets.push(Reset { scope, audit, done });
        }
        self.shared.work.notify_one();
        is_done
            .await
            .unwrap_or_else(|_| Err(super::state::closed()))
    }

    pub(super) fn sum(&self) -> StoreResult<Totals> {
        let state = self.shared.state.lock();
        state.check_open()?;
        let (open, held) = state.ledger.totals();
        Ok(Totals {
            open_reservations: i64::try_from(open).unwrap_or(i64::MAX),
            held,
        })
    }

    /// Before a query: what was settled shows in it. Where the disk refuses, what is there must do.
    pub(super) async fn written(&self) {
        drop(self.shared.flush().await);
    }

    pub(super) fn usual(&self, key: KeyId, model: &str) -> Option<i64> {
        self.shared.usual.lock().p95(key, model)
    }
}

impl State {
    /// A reservation was opened: its row is to be written before anyone is told.
    fn note_opened(&mut self, id: ReservationId) {
        if let Some(open) = self.ledger.open(id) {
            let row = (open.serial, open.reservation.clone());
            self.pending.opened.push(row);
        }
    }
}

fn scopes_of(reservation: &Reservation) -> Vec<Scope> {
    reservation.holds.iter().map(|hold| hold.scope).collect()
}
