//! One slice of this edge and its way through the steps.
//!
//! ```text
//!  opening ──granted──▶ open ──changed, lost, small, idle──▶ draining ──all ended──▶ ended
//!     └─────────────────── not granted ─────────────────────────▲
//! ```
//!
//! Only while open is anything admitted. At most one step is under way; one whose answer was lost is
//! sent again, unchanged, under the same number.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use uuid::Uuid;

use super::batch::{Batch, Finished, Need, Terms};
use super::demand::Demand;
use super::slice::Slice;
use super::step::{Answer, Code};
use super::view::View;
use crate::quota::counters::Counters;
use crate::quota::{Amounts, Ask, Grant, ScopeClaim};
use crate::time::DAY_MS;

/// What has ended is booked so soon, or as soon as there are [`MOST_EVENTS`].
const FLUSH: Duration = Duration::from_millis(100);
/// Events that one step books, of at most two days.
const MOST_EVENTS: usize = 200;
/// While it admits, a slice asks so often whether it still may.
const CHECK: Duration = Duration::from_millis(400);
/// Without an answer for so long, it admits nothing more.
const STALE: Duration = Duration::from_secs(1);
/// Without an admission for so long, all that is unspent goes back.
const IDLE: Duration = Duration::from_secs(2);
/// Between a step and one that only draws more.
const GAP: Duration = Duration::from_millis(5);
/// Before a step that was not answered is sent again.
const AGAIN: Duration = Duration::from_millis(50);
/// Exchanges that wait to be booked, from which on no more are admitted.
const MOST_WAITING: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Opening,
    Open,
    Draining,
    Ended,
}

#[derive(Debug)]
pub(super) struct Cell {
    pub terms: Terms,
    pub wake: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub slice: Slice,
    stage: Stage,
    demand: Demand,
    seq: i64,
    finished: VecDeque<Finished>,
    needs: VecDeque<Need>,
    pending: Option<Arc<Batch>>,
    /// Who waits for the need of the pending step.
    needy: Option<Need>,
    /// Counters as last answered, and what they held for this slice.
    base: Vec<Counters>,
    base_held: Amounts,
    /// When the last answered step, and the last one at all, was begun.
    answered_at: Option<Instant>,
    stepped_at: Instant,
    used_at: Instant,
    admitted_since: bool,
    is_low: bool,
    must_step: bool,
    again_at: Instant,
}

impl Cell {
    pub fn new(terms: Terms, held: Amounts, now: Instant) -> Cell {
        let state = State {
            slice: Slice::new(&terms.scopes),
            stage: Stage::Opening,
            demand: Demand::new(held, now),
            seq: 0,
            finished: VecDeque::new(),
            needs: VecDeque::new(),
            pending: None,
            needy: None,
            base: Vec::new(),
            base_held: Amounts::ZERO,
            answered_at: None,
            stepped_at: now,
            used_at: now,
            admitted_since: false,
            is_low: false,
            must_step: false,
            again_at: now,
        };
        Cell {
            terms,
            wake: Notify::new(),
            state: Mutex::new(state),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.terms.lease_ms).unwrap_or(0))
    }

    /// Admits from memory, where the whole of it fits.
    pub fn admit(&self, ask: &Ask, now: Instant) -> Option<Grant> {
        let mut state = self.state();
        let held = ask.amounts_for(ask.output_tokens);
        state.demand.asked(held);
        state.used_at = now;
        let fresh = |at: Instant| now.saturating_duration_since(at) < STALE;
        let may = state.stage == Stage::Open
            && state.answered_at.is_some_and(fresh)
            && state.waiting() < MOST_WAITING;
        let fits = may && state.slice.fits(held);
        let first = fits && !state.admitted_since;
        if fits {
            state.slice.admit(held);
            state.admitted_since = true;
        }
        let low = !fits || state.slice.is_low();
        let newly_low = low && !state.is_low;
        state.is_low |= low;
        if first || newly_low {
            self.wake.notify_one();
        }
        fits.then(|| state.view(&self.terms.scopes).grant(ask, held))
    }

    /// How long there is nothing to do, unless something happens.
    pub fn pause(&self, now: Instant) -> Duration {
        let state = self.state();
        let until = match state.pending {
            Some(_) => state.again_at,
            None => state.due_at(self.lease()),
        };
        until.saturating_duration_since(now)
    }

    /// The step that is due, if any.
    pub fn next_step(&self, now: Instant) -> Option<Arc<Batch>> {
        let lease = self.lease();
        let mut state = self.state();
        if let Some(pending) = &state.pending {
            let pending = (now >= state.again_at).then(|| Arc::clone(pending));
            state.stepped_at = now;
            return pending;
        }
        if state.stage == Stage::Ended || state.due_at(lease) > now {
            return None;
        }
        if state.stage == Stage::Open && now.saturating_duration_since(state.used_at) >= IDLE {
            state.stage = Stage::Draining;
        }
        let batch = Arc::new(state.batch(now));
        state.pending = Some(Arc::clone(&batch));
        Some(batch)
    }
}

impl State {
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Admits nothing more and gives back what is unspent.
    pub fn drain(&mut self) {
        if matches!(self.stage, Stage::Opening | Stage::Open) {
            self.stage = Stage::Draining;
            self.must_step = true;
        }
    }

    /// An exchange has ended. True where the task must hear of it.
    pub fn finish(&mut self, finished: Finished, held: Amounts) -> bool {
        self.slice.end(held, finished.charged);
        self.finished.push_back(finished);
        let ends = self.stage == Stage::Draining && self.slice.running() == 0;
        self.finished.len() == 1 || self.finished.len() == MOST_EVENTS || ends
    }

    pub fn need(&mut self, need: Need) {
        self.needs.push_back(need);
    }

    /// A step is due at once: it renews the lease.
    pub fn renew(&mut self) {
        self.must_step = true;
    }

    /// Exchanges that have ended and are not booked yet.
    pub fn waiting(&self) -> usize {
        let pending = self.pending.as_ref().map_or(0, |batch| batch.events.len());
        self.finished.len() + pending
    }

    /// Nothing unspent is held any more.
    pub fn has_given_back(&self) -> bool {
        let drained = self.stage == Stage::Draining
            && !self.must_step
            && self.pending.is_none()
            && !self.slice.has_unspent();
        drained || self.stage == Stage::Ended
    }

    /// The same, and everything that has ended is booked.
    pub fn is_quiet(&self) -> bool {
        let runs = self.slice.running() > 0 && self.finished.is_empty();
        self.stage == Stage::Ended || (runs && self.has_given_back())
    }

    fn due_at(&self, lease: Duration) -> Instant {
        let at_once = match self.stage {
            Stage::Opening => self.seq == 0,
            Stage::Open => false,
            Stage::Draining => self.slice.running() == 0,
            Stage::Ended => false,
        };
        let full = self.finished.len() >= MOST_EVENTS;
        if at_once || full || self.must_step || !self.needs.is_empty() {
            return self.stepped_at;
        }
        let mut due = self.stepped_at + lease / 3;
        let gives_back = self.stage == Stage::Draining && self.slice.has_unspent();
        if gives_back || !self.finished.is_empty() {
            due = due.min(self.stepped_at + FLUSH);
        }
        if self.stage == Stage::Open {
            due = due.min(self.used_at + IDLE);
            if self.is_low {
                due = due.min(self.stepped_at + GAP);
            }
            if self.admitted_since {
                due = due.min(self.stepped_at + CHECK);
            }
        }
        due
    }

    fn batch(&mut self, now: Instant) -> Batch {
        let draining = self.stage == Stage::Draining;
        if draining {
            self.slice.give_back();
        }
        let events = self.take_finished();
        let mut charged = Amounts::ZERO;
        for finished in &events {
            charged = charged.plus(finished.charged);
        }
        if self.is_low && !draining {
            self.demand.ran_low(now);
        }
        let report = self.slice.report(charged);
        let nothing_runs = self.slice.running() == 0 && self.finished.is_empty();
        if nothing_runs {
            // Those who asked have ended: they hear of it by the sender's end.
            self.needs.clear();
        }
        self.needy = self.needs.pop_front();
        let (wanted, least) = if draining {
            (Amounts::ZERO, Amounts::ZERO)
        } else {
            let unspent = self.slice.unspent();
            let depth = self.slice.ruled(self.demand.depth());
            let wanted = depth.minus(unspent).max(Amounts::ZERO);
            (wanted, self.slice.ruled(self.demand.worth()))
        };
        self.seq += 1;
        self.stepped_at = now;
        (self.admitted_since, self.is_low, self.must_step) = (false, false, false);
        Batch {
            id: Uuid::new_v4(),
            seq: self.seq,
            last: draining && nothing_runs && self.needy.is_none(),
            report,
            wanted,
            least,
            need: self.needy.as_ref().map(|need| (need.id, need.more)),
            events,
            charged,
        }
    }

    fn take_finished(&mut self) -> Vec<Finished> {
        let mut days: Vec<i64> = Vec::new();
        let (mut count, mut events) = (0, 0);
        for finished in &self.finished {
            events += 1 + finished.further.len();
            for event in finished.events() {
                let day = event.created_at.0.div_euclid(DAY_MS);
                if !days.contains(&day) {
                    days.push(day);
                }
            }
            // One that has more than a step takes goes by itself: its events are booked together.
            if count > 0 && (days.len() > 2 || events > MOST_EVENTS) {
                break;
            }
            count += 1;
        }
        self.finished.drain(..count).collect()
    }

    /// No answer, or none that helps: the same step is due again after a while.
    pub fn unanswered(&mut self, now: Instant) {
        self.again_at = now + AGAIN;
    }

    /// Takes the answer to the pending step. What it met of a need is for the caller to hand on.
    pub fn answered(&mut self, batch: &Batch, answer: Answer) -> Option<(Need, bool)> {
        self.pending = None;
        self.answered_at = Some(self.stepped_at);
        match answer.code {
            Code::Granting => {
                if self.stage == Stage::Opening {
                    self.stage = Stage::Open;
                }
                self.slice.grant(answer.granted, answer.shares);
                self.base = answer.counters;
                let met = batch.need.filter(|_| answer.met);
                let met = met.map_or(Amounts::ZERO, |(_, more)| more);
                self.base_held = batch.report.keep.plus(answer.granted).plus(met);
            }
            Code::Stopped => {
                self.slice.grant(answer.granted, answer.shares);
                self.drain();
            }
            Code::Lost => {
                self.slice.give_back();
                self.drain();
            }
        }
        if batch.last {
            self.stage = Stage::Ended;
        }
        self.needy.take().map(|need| (need, answer.met))
    }

    fn view<'a>(&'a self, scopes: &'a [ScopeClaim]) -> View<'a> {
        let pending = self.pending.as_ref();
        let unbooked = pending.map_or(Amounts::ZERO, |batch| batch.charged);
        View {
            scopes,
            base: &self.base,
            base_held: self.base_held,
            unbooked: unbooked.plus(self.slice.waiting()),
            in_use: self.slice.in_use(),
            unspent: self.slice.unspent(),
        }
    }
}
