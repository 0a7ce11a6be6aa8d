//! The state in memory that every step moves, and what of it is yet to be written.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use parking_lot::{Condvar, Mutex, RwLock};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::EmbeddedOptions;
use super::commit::Commit;
use super::directory::Directory;
use crate::keys::KeyId;
use crate::quota::ledger::{Ledger, Open};
use crate::quota::{Reservation, ReservationId, Scope};
use crate::store::usage_log::{Booked, FloodGuard};
use crate::store::usual::UsualOutputs;
use crate::store::{AuditEntry, KeyActivity, StoreError, StoreResult};
use crate::time::{Clock, Moment, UnixMs};

/// Events that may wait for the disk before new exchanges are refused: bounds the memory.
const MOST_EVENTS_WAITING: usize = 50_000;
const MOST_OPENED_WAITING: usize = 20_000;

/// What the threads of one store share. Locks are taken in the order of the fields.
pub(super) struct Shared {
    pub options: EmbeddedOptions,
    pub directory: RwLock<Directory>,
    pub state: Mutex<State>,
    /// Wakes the writer.
    pub work: Condvar,
    /// Wakes the durability thread when the store is closed.
    pub rest: Condvar,
    /// Commits made: moves when there is something to sync.
    pub commits: AtomicU64,
    pub usual: Mutex<UsualOutputs>,
}

/// Work for the writer thread that is not a step of quota: it answers by itself.
pub(super) type Job = Box<dyn FnOnce(&mut Connection, &Shared) + Send>;

pub(super) struct State {
    pub ledger: Ledger,
    pub activity: HashMap<KeyId, KeyActivity, RandomState>,
    pub flood: FloodGuard,
    pub pending: Pending,
    /// Events in the writer's hands that could not be written yet.
    pub backlog: usize,
    pub closed: bool,
    /// Reservations of a process that died; told with the first sweep.
    pub lost_at_open: usize,
}

/// What is in memory and not on disk. Opened reservations have somebody waiting for them and are
/// written at once; settlements are not waited for, gather for some milliseconds, and go together.
#[derive(Default)]
pub(super) struct Pending {
    pub opened: Vec<(i64, Reservation)>,
    /// Open reservations whose rows are out of date: topped up.
    pub rewritten: Vec<ReservationId>,
    pub settled: Settled,
    pub resets: Vec<Reset>,
    pub jobs: VecDeque<Job>,
    /// Somebody waits for the settlements too.
    pub flush: bool,
    /// Ends with all of the above.
    pub commit: Arc<Commit>,
}

/// Settlements to write: all of them or none, so that counters always equal the sum of events.
#[derive(Default)]
pub(super) struct Settled {
    /// Serials of closed reservations.
    pub closed: Vec<i64>,
    pub events: Vec<Booked>,
    pub dirty: HashSet<Scope, RandomState>,
    /// When the first of them came.
    pub since: Option<Instant>,
}

/// An operator sets a scope's `used` to 0.
pub(super) struct Reset {
    pub scope: Scope,
    pub audit: AuditEntry,
    pub done: oneshot::Sender<StoreResult<()>>,
}

impl Settled {
    pub fn is_empty(&self) -> bool {
        self.dirty.is_empty() && self.closed.is_empty() && self.events.is_empty()
    }

    pub fn absorb(&mut self, other: Settled) {
        self.closed.extend(other.closed);
        self.events.extend(other.events);
        self.dirty.extend(other.dirty);
    }
}

impl Shared {
    pub fn clock(&self) -> &Clock {
        &self.options.clock
    }

    pub fn now(&self) -> Moment {
        (self.clock())()
    }

    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Waits for `time`; true where the store was closed.
    pub fn pause(&self, time: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.closed {
            // Whether it was woken or timed out is in `closed`.
            self.rest.wait_for(&mut state, time);
        }
        state.closed
    }

    /// Hands the writer a job nobody waits for. Dropped where the store is closed.
    pub fn push_job(&self, job: Job) {
        self.state.lock().pending.jobs.push_back(job);
        self.work.notify_one();
    }

    /// Runs a job on the writer thread and waits for its answer.
    pub async fn on_writer<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection, &Shared) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.state.lock();
            state.check_open()?;
            state
                .pending
                .jobs
                .push_back(Box::new(move |connection, shared| {
                    let done = job(connection, shared);
                    // It may have committed: the disk is synced after it as after all others.
                    shared.commits.fetch_add(1, Ordering::Relaxed);
                    // Nobody to answer: the caller has gone, the change stands.
                    drop(answer.send(done));
                }));
        }
        self.work.notify_one();
        answered.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Waits until everything decided so far is on disk.
    pub async fn flush(&self) -> StoreResult<()> {
        let commit = {
            let mut state = self.state.lock();
            state.check_open()?;
            state.pending.flush = true;
            state.pending.commit.clone()
        };
        self.work.notify_one();
        commit.wait().await
    }
}

impl State {
    pub fn new(ledger: Ledger) -> State {
        State {
            ledger,
            activity: HashMap::default(),
            flood: FloodGuard::default(),
            pending: Pending::default(),
            backlog: 0,
            closed: false,
            lost_at_open: 0,
        }
    }

    pub fn check_open(&self) -> StoreResult<()> {
        if self.closed { Err(closed()) } else { Ok(()) }
    }

    /// Refuses where the disk does not keep up.
    pub fn check_room(&self) -> StoreResult<()> {
        self.check_open()?;
        let events = self.backlog + self.pending.settled.events.len();
        if events > MOST_EVENTS_WAITING || self.pending.opened.len() > MOST_OPENED_WAITING {
            return Err(StoreError::Unavailable(String::from(
                "the disk does not keep up with the books",
            )));
        }
        Ok(())
    }

    /// Notes that a reservation's row must go, and what is booked for it. One that is not written
    /// yet never will be.
    pub fn book(&mut self, closed: Option<&Open>, scopes: &[Scope], booked: Booked) -> bool {
        if let Some(open) = closed {
            let opened = &mut self.pending.opened;
            match opened.binary_search_by_key(&open.serial, |(serial, _)| *serial) {
                Ok(at) => drop(opened.remove(at)),
                Err(_) => self.pending.settled.closed.push(open.serial),
            }
        }
        self.pending.settled.dirty.extend(scopes);
        self.note_event(booked);
        self.begin_gathering()
    }

    /// One more event to write, and what it does to its key's activity.
    pub fn note_event(&mut self, booked: Booked) {
        let event = &booked.event;
        let activity = self.activity.entry(event.api_key_id).or_default();
        activity.request_count = activity.request_count.saturating_add(event.requests);
        activity.error_count += i64::from(event.is_error);
        if event.requests > 0 {
            activity.last_used_at = activity.last_used_at.max(Some(event.created_at));
        }
        let settled = &mut self.pending.settled;
        settled.dirty.insert(Scope::Key(event.api_key_id));
        settled.events.push(booked);
    }

    /// A group has none.
    pub fn activity_of(&self, scope: Scope) -> KeyActivity {
        match scope {
            Scope::Key(id) => self.activity.get(&id).copied().unwrap_or_default(),
            Scope::Group(_) => KeyActivity::default(),
        }
    }

    /// True where these are the first settlements since the writer took the last: wake it, so that
    /// it knows when to come.
    fn begin_gathering(&mut self) -> bool {
        let first = self.pending.settled.since.is_none();
        if first {
            self.pending.settled.since = Some(Instant::now());
        }
        first
    }

    /// Scopes that running exchanges drew on: what is left in their per-minute buckets is written
    /// with the rest, for who opens the file next.
    pub fn note_drawn_on(&mut self) {
        let open = self.ledger.each_open();
        let scopes = open.flat_map(|open| open.reservation.holds.iter().map(|hold| hold.scope));
        self.pending.settled.dirty.extend(scopes);
    }

    /// Takes note of windows that turned: their scopes are written with the reservations that are
    /// in them.
    pub fn note_turned(&mut self) {
        for scope in self.ledger.take_turned() {
            self.pending.settled.dirty.insert(scope);
            self.pending.flush = true;
        }
    }
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable(String::from("the store is closed"))
}

/// A clock of the wall and the monotonic clock of this machine.
pub(super) fn system_clock() -> Clock {
    let origin = Instant::now();
    Arc::new(move || Moment {
        wall: UnixMs::now(),
        steady_ms: i64::try_from(origin.elapsed().as_millis()).unwrap_or(i64::MAX),
    })
}
