//! Settles what its exchange could not settle itself, and keeps running reservations alive.
//!
//! An exchange settles at its end. Where the store does not answer then, or where the exchange was
//! dropped (a panic, a cut-off), the settlement comes here and is repeated until it is done: settling
//! is idempotent by id, so that once more never charges twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::quota::ReservationId;
use crate::store::{Settlement, Store, StoreError};

/// Hands settlements over and knows which reservations run.
#[derive(Debug)]
pub struct Settler {
    sender: mpsc::UnboundedSender<Settlement>,
    running: Mutex<HashMap<ReservationId, Instant, RandomState>>,
    waiting: AtomicUsize,
    lease: Duration,
}

/// The receiving half, for the task that works the queue off.
#[derive(Debug)]
pub struct SettlerQueue {
    settler: Arc<Settler>,
    receiver: mpsc::UnboundedReceiver<Settlement>,
}

impl Settler {
    /// `lease` is the time a reservation lives unless renewed.
    pub fn new(lease: Duration) -> (Arc<Self>, SettlerQueue) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let settler = Settler {
            sender,
            running: Mutex::new(HashMap::default()),
            waiting: AtomicUsize::new(0),
            lease,
        };
        let settler = Arc::new(settler);
        let queue = SettlerQueue {
            settler: Arc::clone(&settler),
            receiver,
        };
        (settler, queue)
    }

    /// A reservation begins to run: its lease is renewed until it is settled or given up.
    pub fn began(&self, id: ReservationId) {
        self.running.lock().insert(id, Instant::now());
    }

    /// A reservation is settled, or left to its lease.
    pub fn ended(&self, id: ReservationId) {
        self.running.lock().remove(&id);
    }

    /// Exchanges that run now or wait for their settlement.
    pub fn running(&self) -> usize {
        self.running.lock().len()
    }

    /// Settlements that were handed over and are not done.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Never blocks, never fails while the queue lives: there are at most as many settlements in it
    /// as there were exchanges.
    pub fn hand_over(&self, settlement: Settlement) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.sender.send(settlement).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            log::error!("a settlement came after the books were closed; its lease will resolve it");
        }
    }

    fn done(&self, id: ReservationId) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.ended(id);
    }

    /// Reservations that are due for renewal: a third of their lease has passed. Marks them renewed.
    fn due(&self, now: Instant) -> Vec<ReservationId> {
        let third = self.lease / 3;
        let mut running = self.running.lock();
        let mut due = Vec::new();
        for (id, since) in running
            .iter_mut()
            .filter(|(_, since)| now.duration_since(**since) >= third)
        {
            *since = now;
            due.push(*id);
        }
        due
    }

    /// Renews leases until the process ends. Cancel safe.
    pub async fn renew_leases(&self, store: &dyn Store) {
        let lease_ms = i64::try_from(self.lease.as_millis()).unwrap_or(i64::MAX);
        let pause = (self.lease / 12).clamp(Duration::from_millis(20), Duration::from_secs(5));
        loop {
            tokio::time::sleep(pause).await;
            let due = self.due(Instant::now());
            if due.is_empty() {
                continue;
            }
            if let Err(fault) = store.renew(&due, lease_ms).await {
                log::warn!(
                    "{} leases could not be renewed, trying again: {fault}",
                    due.len()
                );
                let mut running = self.running.lock();
                for id in &due {
                    running
                        .entry(*id)
                        .and_modify(|since| *since = Instant::now() - self.lease / 3);
                }
            }
        }
    }
}

impl SettlerQueue {
    /// Settles what arrives, one after the other, until the process ends.
    pub async fn work(&mut self, store: &dyn Store) {
        while let Some(settlement) = self.receiver.recv().await {
            let id = settlement.id;
            settle_surely(store, settlement).await;
            self.settler.done(id);
        }
    }

    /// Settles what is still queued, for a process that ends: one try each.
    pub async fn drain(&mut self, store: &dyn Store) {
        while let Ok(settlement) = self.receiver.try_recv() {
            self.settler.done(settlement.id);
            if let Err(fault) = store.settle(settlement).await {
                log::error!("a settlement is left to its lease: {fault}");
            }
        }
    }
}

async fn settle_surely(store: &dyn Store, settlement: Settlement) {
    let mut pause = Duration::from_millis(20);
    loop {
        match store.settle(settlement.clone()).await {
            Err(StoreError::Unavailable(why)) => {
                log::warn!("settling again in {pause:?}: {why}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            Err(fault) => {
                log::error!("a settlement was refused and is left to its lease: {fault}");
                return;
            }
            Ok(_) => return,
        }
    }
}
