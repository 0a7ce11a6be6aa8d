//! `on_unavailable: allow`: exchanges of known keys are served without Redis, written to the journal,
//! and taken to Redis when it is back. That trades promise P1 for service; the overrun is reported.

use super::atomic::group_of;
use super::booking::Events;
use super::journal::{Admitted, Entry, Journal, Settlement as Journalled};
use super::names::Home;
use super::{RedisStore, Running};
use crate::quota::{
    Amounts, Ask, Grant, LimitKind, LostReservation, Reservation, Reserved, ScopeClaim, Settled,
};
use crate::store::usage_log::event_of_lost;
use crate::store::{Reconciled, Settlement, StoreError, StoreResult};
use crate::time::UnixMs;

/// Exchanges taken to Redis between two looks at the journal.
const BATCH: usize = 256;

impl RedisStore {
    /// Grants all that is asked, on this edge's own word.
    pub(super) fn admit_alone(
        &self,
        journal: &Journal,
        ask: &Ask,
        home: Home,
    ) -> StoreResult<Reserved> {
        let held = ask.amounts_for(ask.output_tokens);
        let admitted = Admitted {
            home: Home {
                shard: home.shard,
                group: group_of(&ask.scopes),
            },
            claims: ask.scopes.clone(),
            held,
            opened_at: self.wall(),
            subject: (*ask.subject).clone(),
        };
        journal.admit(ask.id, &admitted)?;
        Ok(Reserved::Granted(Grant {
            id: ask.id,
            output_tokens: ask.output_tokens,
            held,
            output_left: i64::MAX,
            // What stands in Redis is not known: better no figures than wrong ones.
            standings: Vec::new(),
        }))
    }

    /// Books the end of an exchange in the journal; its turn comes with the next `reconcile`.
    pub(super) fn settle_alone(
        &self,
        journal: &Journal,
        settlement: &Settlement,
        running: Option<Running>,
    ) -> StoreResult<Settled> {
        let key = settlement.event.api_key_id;
        let admitted = match (journal.admitted(settlement.id)?, running) {
            (Some(admitted), _) => admitted,
            (None, running) => Admitted {
                home: running.map_or_else(|| Home::of(key, None), |running| running.home),
                claims: Vec::new(),
                held: running.map_or(Amounts::ZERO, |running| running.held),
                opened_at: settlement.event.created_at,
                subject: settlement.event.subject(),
            },
        };
        let charged = settlement.charge.of(admitted.held);
        let settled = Journalled {
            charged,
            event: settlement.event.clone(),
            further: settlement.further.clone(),
        };
        journal.settle(settlement.id, &admitted, &settled)?;
        Ok(Settled::Applied {
            charged,
            debt: charged.minus(admitted.held).max(Amounts::ZERO),
        })
    }

    /// Takes what has ended to Redis, exactly once: a batch that was interrupted is repeated.
    pub(super) async fn take_home(&self, journal: &Journal) -> StoreResult<Reconciled> {
        let mut done = Reconciled::default();
        let mut claims: Vec<ScopeClaim> = Vec::new();
        let mut after = 0;
        loop {
            let entries = journal.ended(after, BATCH)?;
            let Some(last) = entries.last() else {
                break;
            };
            after = last.no;
            let mut taken = Vec::with_capacity(entries.len());
            for entry in &entries {
                match self.book_late(entry).await {
                    Ok(()) => taken.push(entry.no),
                    Err(fault @ StoreError::Unavailable(_)) => {
                        journal.forget(&taken)?;
                        return Err(fault);
                    }
                    Err(fault) => log::error!(
                        "an exchange served without Redis stays in the journal: {fault}"
                    ),
                }
                for claim in &entry.admitted.claims {
                    if !claims.iter().any(|known| known.scope == claim.scope) {
                        claims.push(*claim);
                    }
                }
            }
            done.exchanges += taken.len();
            journal.forget(&taken)?;
        }
        for claim in &claims {
            done.overrun = done.overrun.plus(self.overrun(claim).await?);
        }
        Ok(done)
    }

    async fn book_late(&self, entry: &Entry) -> StoreResult<()> {
        let admitted = &entry.admitted;
        let Journalled {
            charged,
            mut event,
            further,
        } = match &entry.settled {
            Some(settled) => settled.clone(),
            None => self.lost_with_its_edge(entry),
        };
        event
            .reason
            .get_or_insert_with(|| String::from("reconciled"));
        let events = Events {
            first: &event,
            further: &further,
        };
        let booked = self.book_unheld(entry.id, admitted.home, charged, events);
        booked.await.map(drop)
    }

    fn lost_with_its_edge(&self, entry: &Entry) -> Journalled {
        let admitted = &entry.admitted;
        let charged = match self.options.lost_reservation {
            LostReservation::Charge => admitted.held,
            LostReservation::Release => Amounts::ZERO,
        };
        let lost = Reservation {
            id: entry.id,
            holds: Vec::new(),
            opened_at: admitted.opened_at,
            expires_at: UnixMs(0),
            subject: std::sync::Arc::new(admitted.subject.clone()),
        };
        Journalled {
            charged,
            event: event_of_lost(&lost, charged, "edge_died", self.wall()),
            further: Vec::new(),
        }
    }

    /// How far a scope is over its limits.
    async fn overrun(&self, claim: &ScopeClaim) -> StoreResult<Amounts> {
        let standing = self.standing_now(claim).await?;
        let quotas = claim.quotas.to_array();
        let mut over = [0; 3];
        let kinds = [LimitKind::Requests, LimitKind::Tokens, LimitKind::Usd];
        for (at, used) in standing.used.to_array().into_iter().enumerate() {
            let limit = quotas[at].limit;
            if limit > 0 && used > limit {
                over[at] = used - limit;
                log::warn!(
                    "{:?} is over its {:?} limit of {limit} by {} after Redis was away",
                    claim.scope,
                    kinds[at],
                    over[at]
                );
            }
        }
        Ok(Amounts::from_array(over))
    }
}
