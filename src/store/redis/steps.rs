//! The steps of quota: which home they go to, and what is left to do after them.

use std::collections::HashMap;
use std::sync::Arc;

use super::atomic::{Ending, group_of};
use super::booking::Events;
use super::layout::Stored;
use super::names::{Home, Shard};
use super::sweep::MOST_DUE;
use super::{GivenUp, MOST_GIVEN_UP, RedisStore, Running};
use crate::keys::KeyId;
use crate::quota::{Amounts, Ask, ReservationId, Reserved, Scope, ScopeClaim, Settled, Standing};
use crate::store::usual::answer_of;
use crate::store::{AuditEntry, KeyActivity, Settlement, StoreError, StoreResult, UsageEvent};
use crate::time::Moment;

/// Nano-USD per million tokens: a thousand of them are still exact in a double.
const MOST_PRICE: i64 = 9_000_000_000_000;

impl RedisStore {
    pub(super) async fn take_reservation(&self, ask: Ask) -> StoreResult<Reserved> {
        if !ask.is_sound() {
            let why = "an amount is negative or above 2^53";
            return Err(StoreError::Fault(String::from(why)));
        }
        if ask.output_nano_per_million > MOST_PRICE {
            let why =
                "a price above 9 000 USD per million tokens is more than Redis counts exactly";
            return Err(StoreError::Fault(String::from(why)));
        }
        let Some(slices) = &self.slices else {
            return self.reserve_there(&ask).await;
        };
        if let Some(grant) = slices.admit(&ask) {
            return Ok(Reserved::Granted(grant));
        }
        let mut reserved = self.reserve_there(&ask).await?;
        if let Reserved::Short(_) = reserved
            && slices.give_back(ask.subject.key).await
        {
            reserved = self.reserve_there(&ask).await?;
        }
        if let Reserved::Granted(_) = reserved {
            let running = self.running.lock().get(&ask.id).copied();
            if let Some(Running { home, .. }) = running {
                slices.warm(&ask, home, self.wall());
            }
        }
        Ok(reserved)
    }

    /// Asks Redis.
    async fn reserve_there(&self, ask: &Ask) -> StoreResult<Reserved> {
        let key = ask.subject.key;
        let home = match group_of(&ask.scopes) {
            // As the record says that the caller was admitted by: the counters know if it is old.
            Some(group) => Home::of(key, Some(group)),
            None => match self.directory.home_of(key).await? {
                Some(home) => Home {
                    group: None,
                    ..home
                },
                None => return Ok(Reserved::KeyChanged),
            },
        };
        let asking = Asking {
            store: self,
            away_since: self.link.away_since(),
            given_up: Some(GivenUp {
                id: ask.id,
                home,
                subject: Arc::clone(&ask.subject),
            }),
        };
        let opened_at = self.wall();
        let step = self
            .steps
            .reserve(&self.link, home, ask, self.now(), opened_at);
        match step.await {
            Ok(reserved) => {
                asking.answered();
                if let Reserved::Granted(grant) = &reserved {
                    let running = Running {
                        home,
                        lease_ms: ask.lease_ms,
                        held: grant.held,
                    };
                    self.running.lock().insert(ask.id, running);
                }
                Ok(reserved)
            }
            Err(fault @ StoreError::Unavailable(_)) => match self.journal() {
                Some(journal) => {
                    // Granted after all: should Redis hold it too, that is settled with it.
                    let granted = self.admit_alone(&journal, ask, home)?;
                    asking.answered();
                    self.alone.lock().insert(ask.id);
                    Ok(granted)
                }
                None => Err(fault),
            },
            Err(fault) => {
                asking.answered();
                Err(fault)
            }
        }
    }

    pub(super) async fn take_more(
        &self,
        id: ReservationId,
        claims: &[ScopeClaim],
        more: Amounts,
    ) -> StoreResult<bool> {
        let sound = more
            .to_array()
            .iter()
            .all(|n| (0..=crate::quota::amount::MAX_AMOUNT).contains(n));
        if !sound {
            return Ok(false);
        }
        let running = self.running.lock().get(&id).copied();
        let Some(Running { home, .. }) = running else {
            if let Some(slices) = &self.slices
                && let Some(answer) = slices.top_up(id, more).await
            {
                return answer;
            }
            return Ok(self.alone.lock().contains(&id));
        };
        let step = self
            .steps
            .top_up(&self.link, home, id, claims, more, self.now());
        match step.await {
            Err(StoreError::Unavailable(_)) if self.journal().is_some() => Ok(true),
            answer => answer,
        }
    }

    pub(super) async fn extend(&self, ids: &[ReservationId], lease_ms: i64) -> StoreResult<()> {
        let mut by_shard: HashMap<Shard, Vec<ReservationId>> = HashMap::new();
        {
            let running = self.running.lock();
            for id in ids {
                if let Some(known) = running.get(id) {
                    by_shard.entry(known.home.shard).or_default().push(*id);
                }
            }
        }
        for (shard, ids) in by_shard {
            for ids in ids.chunks(MOST_DUE) {
                let step = self
                    .steps
                    .renew(&self.link, shard, ids, lease_ms, self.now());
                step.await?;
            }
        }
        Ok(())
    }

    pub(super) async fn resolve(&self, settlement: Settlement) -> StoreResult<Settled> {
        let id = settlement.id;
        if let Some(slices) = &self.slices
            && let Some(settled) = slices.settle(&settlement)?
        {
            self.learn(&settlement, settled);
            return Ok(settled);
        }
        let running = self.running.lock().get(&id).copied();
        let alone = self.alone.lock().contains(&id);
        let settled = match self.journal() {
            Some(journal) if alone => self.settle_alone(&journal, &settlement, None)?,
            journal => match (self.resolve_there(&settlement, running).await, journal) {
                (Err(StoreError::Unavailable(_)), Some(journal)) => {
                    self.settle_alone(&journal, &settlement, running)?
                }
                (settled, _) => settled?,
            },
        };
        self.running.lock().remove(&id);
        self.alone.lock().remove(&id);
        self.learn(&settlement, settled);
        Ok(settled)
    }

    /// What answers of this kind usually use.
    fn learn(&self, settlement: &Settlement, settled: Settled) {
        if settled != Settled::Already
            && let Some((key, model, output)) = answer_of(settlement)
        {
            self.usual.lock().record(key, model, output);
        }
    }

    async fn resolve_there(
        &self,
        settlement: &Settlement,
        running: Option<Running>,
    ) -> StoreResult<Settled> {
        let Settlement {
            id,
            charge,
            event,
            further,
        } = settlement;
        let events = Events {
            first: event,
            further,
        };
        let home = match running {
            Some(running) => running.home,
            None => self.home_of_scope(Scope::Key(event.api_key_id)).await?,
        };
        let ending = Ending::Settle(*charge);
        let step = self
            .steps
            .resolve(&self.link, home, *id, ending, events, self.now());
        let resolved = step.await?;
        if resolved.owed {
            self.pay(home.shard, *id).await;
        }
        let settled = match (resolved.settled.unwrap_or(Settled::Already), running) {
            // Granted here and never settled: Redis lost it, or the answer to a settlement was lost.
            (Settled::Already, Some(running)) => {
                let charged = charge.of(running.held);
                self.book_unheld(*id, home, charged, events).await?
            }
            (settled, _) => settled,
        };
        if let Settled::Applied { charged, .. } = settled {
            self.acknowledged.note(*id, home, charged, events);
        }
        Ok(settled)
    }

    /// Takes to a moved key's counters what it owes. What fails is tried again by the sweep.
    pub(super) async fn pay(&self, shard: Shard, id: ReservationId) {
        if let Err(fault) = self.directory.pay(shard, id).await {
            log::warn!("what a moved key owes is paid later: {fault}");
        }
    }

    pub(super) async fn refuse(&self, mut event: UsageEvent) -> StoreResult<()> {
        event.set_charged(Amounts::ZERO);
        let id = event.api_key_id;
        let home = self.directory.home_of(id).await?;
        let home = home.ok_or(StoreError::NotFound)?;
        let steady_ms = self
            .now()
            .map_or_else(|| self.wall().0, |now| now.steady_ms);
        let row = self.flood.lock().allows_row(event.api_key_id, steady_ms);
        let refuse = |home| self.steps.refuse(&self.link, home, &event, row);
        match refuse(home).await {
            Err(StoreError::NotFound) => match self.moved_from(home, id).await? {
                Some(home) => refuse(home).await,
                None => Err(StoreError::NotFound),
            },
            booked => booked,
        }
    }

    pub(super) async fn standing_now(&self, claim: &ScopeClaim) -> StoreResult<Standing> {
        let (_, stored, now) = self.look_at(claim.scope).await?;
        let mut counters = stored.map(|stored| stored.counters).unwrap_or_default();
        counters.refresh(claim, now);
        Ok(counters.standing(claim))
    }

    pub(super) async fn activity_of(&self, id: KeyId) -> StoreResult<KeyActivity> {
        let (_, stored, _) = self.look_at(Scope::Key(id)).await?;
        Ok(stored.map(|stored| stored.activity).unwrap_or_default())
    }

    /// Where a scope's counters are, what is stored of them, and the server's clock.
    pub(super) async fn look_at(
        &self,
        scope: Scope,
    ) -> StoreResult<(Home, Option<Stored>, Moment)> {
        let home = self.home_of_scope(scope).await?;
        let look = |home| self.steps.look(&self.link, home, scope, self.now());
        let (stored, now) = look(home).await?;
        if let (None, Scope::Key(id)) = (&stored, scope)
            && let Some(home) = self.moved_from(home, id).await?
        {
            let (stored, now) = look(home).await?;
            return Ok((home, stored, now));
        }
        Ok((home, stored, now))
    }

    /// Where a key's counters are now, if that is not where this edge believed them to be.
    async fn moved_from(&self, believed: Home, id: KeyId) -> StoreResult<Option<Home>> {
        let record = self.directory.key(id).await?;
        let home = record.map(|record| Home::of(id, record.group));
        Ok(home.filter(|home| home.shard != believed.shard))
    }

    pub(super) async fn home_of_scope(&self, scope: Scope) -> StoreResult<Home> {
        match scope {
            Scope::Key(id) => {
                let known = self.directory.home_of(id).await?;
                Ok(known.unwrap_or_else(|| Home::of(id, None)))
            }
            Scope::Group(id) => Ok(Home {
                shard: Shard::of_group(id),
                group: Some(id),
            }),
        }
    }

    pub(super) async fn reset(&self, scope: Scope, audit: AuditEntry) -> StoreResult<()> {
        let (home, stored, _) = self.look_at(scope).await?;
        if stored.is_none() {
            return Err(StoreError::NotFound);
        }
        // The entry first: used never falls without one.
        self.directory.note(home.shard, &audit).await?;
        let reset = self.steps.reset(&self.link, home, scope).await?;
        if reset {
            Ok(())
        } else {
            Err(StoreError::NotFound)
        }
    }
}

/// A reserve under way. Dropped without an answer, it is undone as soon as Redis answers: its caller
/// was told that there is none, or has gone.
struct Asking<'a> {
    store: &'a RedisStore,
    /// As it was at the beginning: a loss that still lasts at the end means that nothing was sent.
    away_since: Option<tokio::time::Instant>,
    given_up: Option<GivenUp>,
}

impl Asking<'_> {
    fn answered(mut self) {
        self.given_up = None;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let was_sent = self.away_since.is_none() || self.store.link.away_since() != self.away_since;
        if let Some(given_up) = self.given_up.take().filter(|_| was_sent) {
            let mut waiting = self.store.given_up.lock();
            if waiting.len() < MOST_GIVEN_UP {
                waiting.push_back(given_up);
            }
        }
    }
}
