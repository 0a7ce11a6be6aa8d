//! The one thread that writes: takes what is pending, commits it in one transaction, wakes those
//! who wait for it.
//!
//! ```text
//!   steps ──▶ Pending ──take──▶ Batch ──one transaction──▶ on disk ──▶ waiters woken
//!                ▲                │ failed
//!                └── settlements kept for the next try; opened reservations undone, refused
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::{error, warn};
use parking_lot::MutexGuard;
use rusqlite::{Connection, TransactionBehavior};

use super::commit::Commit;
use super::directory::Directory;
use super::rows::{self, CountersRow};
use super::state::{Job, Reset, Settled, Shared, State};
use super::usage_rows;
use crate::quota::counters::Counters;
use crate::quota::{Reservation, Scope};
use crate::store::usage_log::Sums;
use crate::store::{StoreError, StoreResult};
use crate::time::Moment;

/// How long settlements gather before they are written, and how many at the most.
const GATHER: Duration = Duration::from_millis(10);
const GATHER_MOST: usize = 1_024;

/// Under load reservations gather too: when two came together, or one so soon after the last, the next
/// commit lets more of them come first. Each shares the cost of a commit and of two thread switches;
/// alone, one never waits.
const CROWD: usize = 2;
const SOON: Duration = Duration::from_micros(250);
const GATHER_CROWD: Duration = Duration::from_micros(500);

/// How long the writer waits before it tries failed settlements again.
const RETRY: Duration = Duration::from_millis(100);

pub(super) struct Writer {
    shared: Arc<Shared>,
    connection: Connection,
    /// Settlements that could not be written yet.
    kept: Settled,
    retry_at: Option<Instant>,
    /// Tells events of one millisecond apart.
    running: i64,
    /// The last commit had a crowd of reservations.
    crowded: bool,
    /// When reservations were last taken.
    opened_at: Option<Instant>,
}

/// What goes to disk together.
struct Batch {
    opened: Vec<(i64, Reservation)>,
    rewritten: Vec<(i64, Reservation)>,
    counters: Vec<CountersRow>,
    resets: Vec<Reset>,
    /// Counters as they were when they were reset.
    were: Vec<(Scope, Counters)>,
    with_settled: bool,
    now: Moment,
    commit: Arc<Commit>,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, connection: Connection) -> Writer {
        Writer {
            shared,
            connection,
            kept: Settled::default(),
            retry_at: None,
            running: 0,
            crowded: false,
            opened_at: None,
        }
    }

    /// Until the store is closed and everything that can be written is.
    pub fn run(mut self) {
        loop {
            let (batch, jobs, last) = self.next();
            self.write(batch);
            for job in jobs {
                job(&mut self.connection, &self.shared);
            }
            if last {
                break;
            }
        }
        if !self.kept.events.is_empty() {
            let lost = self.kept.events.len();
            error!("closed with {lost} usage events unwritten; their holds are still on disk");
        }
    }

    /// Waits for work and takes it. True with the last there will be.
    fn next(&mut self) -> (Batch, Vec<Job>, bool) {
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        if self.crowded && !state.closed {
            // Asleep, not waiting on the condition: steps that come need no system call to wake us,
            // and the threads that serve are not interrupted for each.
            MutexGuard::unlocked(&mut state, || std::thread::sleep(GATHER_CROWD));
        }
        loop {
            let due_at = self.settlements_due_at(&state);
            let now = Instant::now();
            if state.closed || has_urgent_work(&state) || due_at.is_some_and(|at| at <= now) {
                break;
            }
            match due_at {
                Some(at) => drop(shared.work.wait_until(&mut state, at)),
                None => shared.work.wait(&mut state),
            }
        }
        // Locks are taken in order: the directory first. What is pending can only have grown.
        let directory = MutexGuard::unlocked(&mut state, || shared.directory.read());
        let jobs = std::mem::take(&mut state.pending.jobs).into();
        let last = state.closed;
        (self.take(&mut state, &directory), jobs, last)
    }

    fn settlements_due_at(&self, state: &State) -> Option<Instant> {
        if !self.kept.is_empty() {
            return self.retry_at;
        }
        let settled = &state.pending.settled;
        if settled.events.len() >= GATHER_MOST {
            return settled.since;
        }
        settled.since.map(|since| since + GATHER)
    }

    fn take(&mut self, state: &mut State, directory: &Directory) -> Batch {
        let now = self.shared.now();
        let due_at = self.settlements_due_at(state);
        let pending = &mut state.pending;
        let with_settled = pending.flush
            || state.closed
            || !self.kept.is_empty()
            || !pending.resets.is_empty()
            || due_at.is_some_and(|at| at <= Instant::now());
        pending.flush = false;
        let opened = std::mem::take(&mut pending.opened);
        if !opened.is_empty() {
            let taken_at = Instant::now();
            let since = self.opened_at.replace(taken_at).map(|last| taken_at - last);
            self.crowded = opened.len() >= CROWD || since.is_some_and(|since| since < SOON);
        } else {
            self.crowded = false;
        }
        let resets = std::mem::take(&mut pending.resets);
        let commit = std::mem::take(&mut pending.commit);
        let mut rewritten = std::mem::take(&mut pending.rewritten);
        rewritten.sort_unstable();
        rewritten.dedup();
        let rewritten = rewritten
            .into_iter()
            .filter_map(|id| state.ledger.open(id))
            .map(|open| (open.serial, open.reservation.clone()))
            .collect();
        let mut batch = Batch {
            opened,
            rewritten,
            counters: Vec::new(),
            resets,
            were: Vec::new(),
            with_settled,
            now,
            commit,
        };
        if with_settled {
            self.kept.absorb(std::mem::take(&mut state.pending.settled));
            state.backlog = self.kept.events.len();
            let scopes = self.kept.dirty.iter();
            batch.counters = scopes
                .filter_map(|scope| counters_row(state, directory, *scope))
                .collect();
            batch.take_resets(state, directory);
        }
        batch
    }

    fn write(&mut self, mut batch: Batch) {
        if batch.is_empty() && self.kept.is_empty() {
            return batch.commit.end(Ok(()));
        }
        match self.commit(&batch) {
            Ok(()) => {
                self.shared.commits.fetch_add(1, Ordering::Relaxed);
                if batch.with_settled {
                    self.kept = Settled::default();
                    self.retry_at = None;
                }
                self.finish_resets(&mut batch, Ok(()));
                batch.commit.end(Ok(()));
            }
            Err(error) => {
                warn!("the books could not be written, will try again: {error}");
                let error = StoreError::Unavailable(error.to_string());
                self.undo(&batch);
                self.retry_at = Some(Instant::now() + RETRY);
                self.finish_resets(&mut batch, Err(&error));
                batch.commit.end(Err(&error));
            }
        }
    }

    fn commit(&mut self, batch: &Batch) -> rusqlite::Result<()> {
        let directory = self.shared.directory.read();
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let number = |scope| directory.scope_number(scope);
        if !batch.opened.is_empty() {
            rows::put_reservations(&transaction, &batch.opened, number)?;
        }
        if !batch.rewritten.is_empty() {
            rows::put_reservations(&transaction, &batch.rewritten, number)?;
        }
        if batch.with_settled {
            let settled = &self.kept;
            rows::delete_reservations(&transaction, &settled.closed)?;
            let with_row = settled.events.iter().filter(|booked| booked.row);
            let events = with_row.map(|booked| &booked.event);
            usage_rows::put_events(&transaction, events, &directory, &mut self.running)?;
            usage_rows::add_sums(&transaction, &Sums::of(&settled.events), &directory)?;
            rows::put_counters(&transaction, &batch.counters, batch.now)?;
            for reset in &batch.resets {
                rows::put_audit(&transaction, &reset.audit)?;
            }
        }
        drop(directory);
        transaction.commit()
    }

    /// Gives back in memory what did not get to disk.
    fn undo(&mut self, batch: &Batch) {
        let mut state = self.shared.state.lock();
        for (_, reservation) in &batch.opened {
            state.ledger.undo_reserve(reservation.id, batch.now);
        }
        let out_of_date = batch.rewritten.iter().map(|(_, row)| row.id);
        state.pending.rewritten.extend(out_of_date);
    }

    fn finish_resets(&self, batch: &mut Batch, result: Result<(), &StoreError>) {
        if batch.resets.is_empty() {
            return;
        }
        let result: StoreResult<()> = result.map_err(StoreError::clone);
        if result.is_ok() {
            let mut state = self.shared.state.lock();
            for (scope, was) in &batch.were {
                state.ledger.reset_used(*scope, was);
            }
        }
        for reset in batch.resets.drain(..) {
            // Nobody to answer: the caller has gone.
            drop(reset.done.send(result.clone()));
        }
    }
}

/// Should the thread end where it should not, nobody is left waiting, and nothing more is taken.
impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        state.pending.commit.end(Err(&super::state::closed()));
        state.pending.jobs.clear();
        state.pending.resets.clear();
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.commit.end(Err(&super::state::closed()));
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.opened.is_empty()
            && self.rewritten.is_empty()
            && self.counters.is_empty()
            && self.resets.is_empty()
    }

    /// Writes zeros for scopes to be reset; the memory follows when they are on disk.
    fn take_resets(&mut self, state: &State, directory: &Directory) {
        for reset in &self.resets {
            let Some(mut row) = counters_row(state, directory, reset.scope) else {
                continue;
            };
            self.were.push((reset.scope, row.counters));
            for count in &mut row.counters.counts {
                count.used = 0;
            }
            self.counters.retain(|other| other.scope != row.scope);
            self.counters.push(row);
        }
    }
}

fn has_urgent_work(state: &State) -> bool {
    let pending = &state.pending;
    pending.flush
        || !pending.opened.is_empty()
        || !pending.jobs.is_empty()
        || !pending.resets.is_empty()
}

pub(super) fn counters_row(
    state: &State,
    directory: &Directory,
    scope: Scope,
) -> Option<CountersRow> {
    let number = directory.scope_number(scope)?;
    Some(CountersRow {
        scope: number,
        counters: state.ledger.counters(scope).copied().unwrap_or_default(),
        activity: state.activity_of(scope),
    })
}
