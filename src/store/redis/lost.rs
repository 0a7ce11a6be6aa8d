//! What Redis acknowledged and lost: a primary that fails takes along what its replica had not received.
//!
//! Each edge remembers what it settled in the last seconds. After a trouble with the connection it sends
//! these again: settling is idempotent by id, so what is there stays, and what is not is booked anew.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::RedisStore;
use super::atomic::Ending;
use super::booking::Events;
use super::names::Home;
use crate::quota::{Amounts, ReservationId, Settled};
use crate::store::{StoreResult, UsageEvent};

/// How long a settlement is remembered: longer than a failover takes, and bounded in number.
const REMEMBERED: Duration = Duration::from_secs(30);
const MOST_REMEMBERED: usize = 10_000;

/// A settlement that Redis acknowledged.
#[derive(Clone, Debug)]
struct Acknowledged {
    at: Instant,
    id: ReservationId,
    home: Home,
    charged: Amounts,
    event: UsageEvent,
    further: Vec<UsageEvent>,
}

impl Acknowledged {
    fn events(&self) -> Events<'_> {
        Events {
            first: &self.event,
            further: &self.further,
        }
    }
}

/// The settlements of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Acknowledgements {
    recent: Mutex<VecDeque<Acknowledged>>,
    /// Troubles of the link up to which they were looked after.
    seen: Mutex<u64>,
}

impl Acknowledgements {
    /// Takes note of a settlement that was booked.
    pub fn note(&self, id: ReservationId, home: Home, charged: Amounts, events: Events<'_>) {
        let now = Instant::now();
        let mut recent = self.recent.lock();
        recent.push_back(Acknowledged {
            at: now,
            id,
            home,
            charged,
            event: events.first.clone(),
            further: events.further.to_vec(),
        });
        let is_old = |first: &Acknowledged| now.duration_since(first.at) > REMEMBERED;
        while recent.len() > MOST_REMEMBERED || recent.front().is_some_and(is_old) {
            recent.pop_front();
        }
    }
}

impl RedisStore {
    /// Books again what was acknowledged and is gone; answers how many. Does nothing where the link
    /// had no trouble since it was asked last.
    ///
    /// # Errors
    /// `Unavailable` where Redis is away: asked again, it begins anew.
    pub(super) async fn book_lost(&self) -> StoreResult<usize> {
        let troubles = self.link.troubles();
        if *self.acknowledged.seen.lock() == troubles {
            return Ok(0);
        }
        let recent: Vec<Acknowledged> = self.acknowledged.recent.lock().iter().cloned().collect();
        let mut lost = 0;
        for settled in &recent {
            let events = settled.events();
            let booked = self.book_unheld(settled.id, settled.home, settled.charged, events);
            lost += usize::from(booked.await? != Settled::Already);
        }
        *self.acknowledged.seen.lock() = troubles;
        if lost > 0 {
            log::warn!(
                "Redis had lost {lost} settlements it had acknowledged; they are booked again"
            );
        }
        Ok(lost)
    }

    /// Charges an exchange once, whether or not there is still a reservation of it.
    pub(super) async fn book_unheld(
        &self,
        id: ReservationId,
        home: Home,
        charged: Amounts,
        events: Events<'_>,
    ) -> StoreResult<Settled> {
        let ending = Ending::Reconcile(charged);
        let step = self
            .steps
            .resolve(&self.link, home, id, ending, events, self.now());
        let resolved = step.await?;
        if resolved.owed {
            self.pay(home.shard, id).await;
        }
        Ok(resolved.settled.unwrap_or(Settled::Already))
    }
}
