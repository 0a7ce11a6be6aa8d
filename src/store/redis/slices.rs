//! `quota.local_slices`: this edge draws slices of a hot key's quota ahead and admits from memory.
//!
//! A slice is an open reservation of the edge itself, whose hold grows and shrinks with one step
//! (`lua/slice.lua`) for hundreds of exchanges. It is taken from the store before it is spent, so no
//! limit is oversold. What it costs, and only where it is switched on:
//!
//! - An exchange is booked up to 100 ms after its end. An edge that is killed loses what it has not
//!   told yet; the slice itself returns with its lease, and what exchanges held when it last told is
//!   charged (`lost_reservation`).
//! - A change of the key is obeyed when a step hears of it: within a second, or nothing is admitted.
//! - Per-minute limits are drawn on ahead too: a burst may exceed one by what slices hold of it.
//!
//! A key with a limit on concurrency has no slice: running exchanges are counted in the store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use uuid::Uuid;

use self::batch::{Batch, Finished, Need, Terms};
use self::cell::{Cell, Stage};
use self::heat::Heat;
use self::step::Answer;
use super::link::Link;
use super::names::Home;
use crate::keys::KeyId;
use crate::quota::recent::Recent;
use crate::quota::{Amounts, Ask, Grant, ReservationId, Settled, Subject};
use crate::store::usage_log::share_charge;
use crate::store::{Settlement, StoreError, StoreResult};
use crate::time::{Clock, UnixMs};

mod batch;
mod cell;
mod demand;
mod heat;
mod slice;
mod step;
mod view;

pub use self::step::SliceOptions;
pub(super) use self::step::SliceStep;

/// Slices of one edge at once; further hot keys ask the store each time.
const MOST_SLICES: usize = 1_024;
/// A shorter lease could run out between two steps.
const LEAST_LEASE_MS: i64 = 3_000;
/// Settled exchanges that are remembered, and for how long at the most.
const SETTLED_REMEMBERED: usize = 1 << 14;
const REMEMBERED_MS: i64 = 3_600_000;
/// How long a close waits for the store.
const LAST_STEPS: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long one waits for unspent quota to go back, or for more: some steps.
const SOME_STEPS: Duration = Duration::from_millis(500);
/// Before a step that was refused is tried again.
const FAULT_PAUSE: Duration = Duration::from_secs(1);

/// An exchange that runs on a slice.
#[derive(Debug)]
struct Local {
    cell: Arc<Cell>,
    held: Amounts,
}

#[derive(Debug)]
struct Locals {
    running: HashMap<ReservationId, Local, RandomState>,
    settled: Recent<()>,
}

/// All slices of this edge.
pub(super) struct Slices {
    options: SliceOptions,
    link: Arc<Link>,
    step: SliceStep,
    clock: Option<Clock>,
    begun: Instant,
    /// What exchanges are admitted from.
    open: Mutex<HashMap<KeyId, Arc<Cell>, RandomState>>,
    /// Every one that has a task.
    every: Mutex<Vec<Arc<Cell>>>,
    locals: Mutex<Locals>,
    heat: Mutex<Heat>,
    is_closing: AtomicBool,
    stepped: Notify,
}

impl Slices {
    pub fn new(options: SliceOptions, link: Arc<Link>, clock: Option<Clock>) -> Arc<Slices> {
        let now = Instant::now();
        Arc::new(Slices {
            options,
            link,
            step: SliceStep::new(),
            clock,
            begun: now,
            open: Mutex::default(),
            every: Mutex::default(),
            locals: Mutex::new(Locals {
                running: HashMap::default(),
                settled: Recent::new(SETTLED_REMEMBERED, REMEMBERED_MS),
            }),
            heat: Mutex::new(Heat::new(now)),
            is_closing: AtomicBool::new(false),
            stepped: Notify::new(),
        })
    }

    /// Grants from memory, where there is a slice of the same terms that the whole ask fits.
    pub fn admit(&self, ask: &Ask) -> Option<Grant> {
        if !ask.rate_limited || self.is_closing.load(Ordering::Acquire) {
            return None;
        }
        let cell = self.open.lock().get(&ask.subject.key).cloned()?;
        if !cell.terms.rule(ask) {
            if ask.key_version > cell.terms.key_version {
                cell.state().drain();
                cell.wake.notify_one();
            }
            return None;
        }
        let grant = cell.admit(ask, Instant::now())?;
        let local = Local {
            held: grant.held,
            cell,
        };
        self.locals.lock().running.insert(ask.id, local);
        Some(grant)
    }

    /// The store granted an ask of a key that has no slice: it may be time for one.
    pub fn warm(self: &Arc<Self>, ask: &Ask, home: Home, wall: UnixMs) {
        let key = ask.subject.key;
        let counts_running = ask.scopes.iter().any(|claim| claim.rates.concurrency > 0);
        if counts_running || !ask.rate_limited || ask.lease_ms < LEAST_LEASE_MS {
            return;
        }
        let now = Instant::now();
        if self.is_closing.load(Ordering::Acquire) || !self.heat.lock().warm(key, now) {
            return;
        }
        let mut open = self.open.lock();
        if open.len() >= MOST_SLICES || open.contains_key(&key) {
            return;
        }
        let Some(terms) = terms(ask, home, wall) else {
            return;
        };
        let held = ask.amounts_for(ask.output_tokens);
        let cell = Arc::new(Cell::new(terms, held, now));
        open.insert(key, Arc::clone(&cell));
        drop(open);
        self.every.lock().push(Arc::clone(&cell));
        self.link.spawn(tend(Arc::downgrade(self), cell));
    }

    /// Too little is left for an ask: what is unspent here goes back. True where there was something,
    /// and the ask may succeed now.
    pub async fn give_back(&self, key: KeyId) -> bool {
        let Some(cell) = self.open.lock().get(&key).cloned() else {
            return false;
        };
        {
            let mut state = cell.state();
            state.drain();
            if !state.slice.has_unspent() {
                return false;
            }
        }
        cell.wake.notify_one();
        let gave = async {
            while !cell.state().has_given_back() {
                let _ = timeout(LOOK_AGAIN, self.stepped.notified()).await;
            }
        };
        timeout(SOME_STEPS, gave).await.is_ok()
    }

    /// Settles an exchange that runs on a slice, in memory; `None` where it does not.
    ///
    /// # Errors
    /// `Unavailable` after the close.
    pub fn settle(&self, settlement: &Settlement) -> StoreResult<Option<Settled>> {
        let id = settlement.id;
        let mut locals = self.locals.lock();
        if locals.settled.contains(&id) {
            return Ok(Some(Settled::Already));
        }
        if !locals.running.contains_key(&id) {
            return Ok(None);
        }
        if self.is_closing.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable(String::from("the store is closed")));
        }
        let Some(Local { cell, held }) = locals.running.remove(&id) else {
            return Ok(None);
        };
        let steady_ms = i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX);
        locals.settled.insert(id, (), steady_ms);
        drop(locals);
        let charged = settlement.charge.of(held);
        let mut finished = Finished {
            event: settlement.event.clone(),
            further: settlement.further.clone(),
            charged,
        };
        share_charge(&mut finished.event, &mut finished.further, charged);
        if cell.state().finish(finished, held) {
            cell.wake.notify_one();
        }
        Ok(Some(Settled::Applied {
            charged,
            debt: charged.minus(held).max(Amounts::ZERO),
        }))
    }

    /// Takes more for an exchange that runs on a slice: of what is unspent, or of what is left in the
    /// store. `None` where it does not run on one.
    ///
    /// # Errors
    /// `Unavailable` where the store does not answer.
    pub async fn top_up(&self, id: ReservationId, more: Amounts) -> Option<StoreResult<bool>> {
        let answer = {
            let mut locals = self.locals.lock();
            let local = locals.running.get_mut(&id)?;
            let mut state = local.cell.state();
            if state.slice.fits(more) {
                state.slice.use_more(more);
                local.held = local.held.plus(more);
                return Some(Ok(true));
            }
            let (sender, answer) = oneshot::channel();
            state.need(Need {
                id,
                more,
                answer: sender,
            });
            local.cell.wake.notify_one();
            answer
        };
        Some(match timeout(SOME_STEPS, answer).await {
            Ok(met) => Ok(met.unwrap_or(false)),
            Err(_) => Err(StoreError::Unavailable(String::from(
                "more of a slice was not answered in time",
            ))),
        })
    }

    /// Every lease is renewed at once.
    pub fn renew_all(&self) {
        for cell in self.every.lock().iter() {
            cell.state().renew();
            cell.wake.notify_one();
        }
    }

    /// Books what has ended and gives everything back that no running exchange holds, as far as the
    /// store answers within two seconds. Nothing is admitted any more.
    pub async fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
        for cell in self.every.lock().iter() {
            cell.state().drain();
            cell.wake.notify_one();
        }
        let quiet = async {
            while !self.every.lock().iter().all(|cell| cell.state().is_quiet()) {
                let _ = timeout(LOOK_AGAIN, self.stepped.notified()).await;
            }
        };
        if timeout(LAST_STEPS, quiet).await.is_err() {
            let every = self.every.lock();
            let waiting: usize = every.iter().map(|cell| cell.state().waiting()).sum();
            log::error!(
                "{waiting} exchanges admitted from slices could not be booked: Redis did not answer; \
                 their slices are left to their leases"
            );
        }
    }

    fn answered(&self, cell: &Arc<Cell>, batch: &Batch, answer: Answer) {
        let handed = {
            // Whether an exchange still runs and what it holds change together.
            let mut locals = self.locals.lock();
            let mut state = cell.state();
            let handed = state.answered(batch, answer);
            if let Some((need, true)) = &handed {
                match locals.running.get_mut(&need.id) {
                    Some(local) => {
                        local.held = local.held.plus(need.more);
                        state.slice.met(need.more);
                    }
                    None => state.slice.met_too_late(need.more),
                }
            }
            handed
        };
        if let Some((need, met)) = handed {
            // Who asked may have gone.
            let _ = need.answer.send(met);
        }
        self.shelve(cell);
        self.stepped.notify_waiters();
    }

    /// Takes a slice that admits nothing any more from where exchanges look for one.
    fn shelve(&self, cell: &Arc<Cell>) {
        let stage = cell.state().stage();
        if matches!(stage, Stage::Opening | Stage::Open) {
            return;
        }
        let key = cell.terms.key;
        let mut open = self.open.lock();
        if open.get(&key).is_some_and(|known| Arc::ptr_eq(known, cell)) {
            open.remove(&key);
            self.heat.lock().cool(key, Instant::now());
        }
        drop(open);
        if stage == Stage::Ended {
            self.every.lock().retain(|known| !Arc::ptr_eq(known, cell));
        }
    }
}

fn terms(ask: &Ask, home: Home, wall: UnixMs) -> Option<Terms> {
    let id = ReservationId(Uuid::new_v4());
    let subject = Subject {
        key: ask.subject.key,
        request_id: format!("slice-{}", id.0.simple()),
        method: String::new(),
        path: String::new(),
        model: None,
        pool: None,
        end_user: None,
        input_tokens: 0,
    };
    let subject = serde_json::to_vec(&(wall, home.group, &subject)).ok()?;
    Some(Terms {
        id,
        key: ask.subject.key,
        home,
        key_version: ask.key_version,
        group_version: ask.group_version,
        scopes: ask.scopes.clone(),
        lease_ms: ask.lease_ms,
        subject,
    })
}

/// Takes a slice's steps until it has ended, or the store is gone.
async fn tend(slices: Weak<Slices>, cell: Arc<Cell>) {
    loop {
        let pause = cell.pause(Instant::now());
        if !pause.is_zero() {
            let _ = timeout(pause, cell.wake.notified()).await;
        }
        let Some(slices) = slices.upgrade() else {
            return;
        };
        let Some(batch) = cell.next_step(Instant::now()) else {
            slices.shelve(&cell);
            continue;
        };
        let now = slices.clock.as_ref().map(|clock| clock());
        let step = slices
            .step
            .take(&slices.link, &cell.terms, &batch, slices.options, now);
        match step.await {
            Ok(answer) => slices.answered(&cell, &batch, answer),
            Err(StoreError::Unavailable(_)) => cell.state().unanswered(Instant::now()),
            Err(fault) => {
                log::error!("a slice's step was refused, it is tried again: {fault}");
                let mut state = cell.state();
                state.drain();
                state.unanswered(Instant::now() + FAULT_PAUSE);
            }
        }
        if cell.state().stage() == Stage::Ended {
            return;
        }
    }
}
