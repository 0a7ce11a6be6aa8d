//! Ending what nobody ends any more: leases that ran out, and reserves that were given up.

use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream;

use super::atomic::Ending;
use super::booking::Events;
use super::names::{Home, Shard};
use super::{GivenUp, RedisStore};
use crate::quota::{Amounts, LostReservation, ReservationId, Settled};
use crate::store::usage_log::event_of_lost;
use crate::store::{StoreError, StoreResult, UsageEvent};

/// Leases of one shard that one sweep ends.
pub(super) const MOST_DUE: usize = 256;
/// Shards looked at side by side.
const SIDE_BY_SIDE: usize = 16;

impl RedisStore {
    pub(super) async fn sweep_leases(&self) -> StoreResult<usize> {
        self.undo_given_up().await;
        self.directory.catch_up().await?;
        let shards = stream::iter(Shard::all()).map(|shard| self.sweep_shard(shard));
        let swept: Vec<StoreResult<usize>> = shards.buffer_unordered(SIDE_BY_SIDE).collect().await;
        swept.into_iter().sum()
    }

    async fn sweep_shard(&self, shard: Shard) -> StoreResult<usize> {
        let due = self.steps.due(&self.link, shard, MOST_DUE, self.now());
        let (clock_ms, ids) = due.await?;
        let now = Instant::now();
        if self.options.clock.is_none() {
            if self.server_clock.stepped(shard, clock_ms, now) {
                log::warn!("Redis's clock was set: leases are renewed before any is ended");
                self.extend_all().await?;
            }
            if self.server_clock.rests(now) {
                return Ok(0);
            }
        }
        let mut count = 0;
        for id in ids {
            count += usize::from(self.lose(shard, id).await?);
        }
        Ok(count)
    }

    /// Ends a reservation whose lease has run out; false where somebody else did, or it was renewed.
    async fn lose(&self, shard: Shard, id: ReservationId) -> StoreResult<bool> {
        let Some(kept) = self.steps.kept(&self.link, shard, id).await? else {
            return Ok(false);
        };
        let policy = self.options.lost_reservation;
        let charged = match policy {
            LostReservation::Charge => kept.in_use.unwrap_or(kept.held),
            LostReservation::Release => Amounts::ZERO,
        };
        let event = event_of_lost(&kept.reservation, charged, "lease_expired", self.wall());
        let home = Home {
            shard,
            group: kept.group,
        };
        if kept.in_use.is_some() {
            let step = &self.slice_step;
            let lose = step.lose(&self.link, home, id, policy, &event, self.now());
            return lose.await;
        }
        let ending = Ending::Lose(policy);
        let step = self.steps.resolve(
            &self.link,
            home,
            id,
            ending,
            Events::one(&event),
            self.now(),
        );
        let resolved = step.await?;
        if resolved.owed {
            self.pay(shard, id).await;
        }
        Ok(matches!(resolved.settled, Some(Settled::Applied { .. })))
    }

    async fn extend_all(&self) -> StoreResult<()> {
        let running: Vec<(ReservationId, i64)> = {
            let running = self.running.lock();
            running.iter().map(|(id, r)| (*id, r.lease_ms)).collect()
        };
        for (id, lease_ms) in running {
            self.extend(&[id], lease_ms).await?;
        }
        if let Some(slices) = &self.slices {
            slices.renew_all();
        }
        Ok(())
    }

    /// Undoes reserves that may have been granted after their callers were told otherwise.
    async fn undo_given_up(&self) {
        loop {
            let Some(given_up) = self.given_up.lock().pop_front() else {
                return;
            };
            let mut event = UsageEvent::blank(given_up.id.0, given_up.subject.key, self.wall());
            event.tell_of(&given_up.subject);
            event.is_error = true;
            event.error_code = Some(String::from("STORE_UNAVAILABLE"));
            let ending = Ending::Undo;
            let GivenUp { id, home, .. } = given_up;
            let step = self.steps.resolve(
                &self.link,
                home,
                id,
                ending,
                Events::one(&event),
                self.now(),
            );
            if let Err(StoreError::Unavailable(_)) = step.await {
                self.given_up.lock().push_front(given_up);
                return;
            }
        }
    }
}
