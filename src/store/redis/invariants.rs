//! What must hold of the books, looked for in Redis. Other edges go on meanwhile, and no read spans
//! slots: what looks wrong is looked at again, by itself, before it is called so.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::sleep;
use uuid::Uuid;

use super::RedisStore;
use super::answers::scored;
use super::days::{key_days, next_day};
use super::event_reader::EventReader;
use super::listings::KeyPages;
use super::names::Shard;
use super::queries::{self, read_event};
use super::sums::each_rollup;
use crate::keys::{KeyId, KeyRecord};
use crate::quota::{Amounts, Quotas, Rates, ReservationId, Scope, ScopeClaim};
use crate::store::invariants::{Inspection, LATE_SWEEP_MS};
use crate::store::{Freshness, Invariants, Rollup, StoreResult};

/// Scopes, and open reservations of each shard, that are read in one round.
const CHUNK: usize = 128;
/// How often a suspect is looked at again, and after what pause.
const LOOKS: usize = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// All days.
const FIRST: &str = "0000-01-01";
const LAST: &str = "9999-12-31";

/// What each key ever settled.
type Amount = HashMap<KeyId, Amounts, RandomState>;
/// Where the open reservations are.
type Open = HashMap<Uuid, Shard, RandomState>;

impl RedisStore {
    pub(super) async fn inspect_books(&self) -> StoreResult<Invariants> {
        let mut inspection = Inspection::default();
        let totals = queries::totals(&self.link).await?;
        inspection.open(totals.open_reservations, totals.held);
        let open = self.check_leases(&mut inspection).await?;
        let booked = self.check_scopes(&mut inspection).await?;
        self.check_sums(&mut inspection, &booked).await?;
        self.check_events(&mut inspection, &open).await?;
        Ok(inspection.done())
    }

    async fn check_leases(&self, inspection: &mut Inspection) -> StoreResult<Open> {
        let mut open = Open::default();
        for shard in Shard::all() {
            // Each node of a cluster has its own clock.
            let due = self.steps.due(&self.link, shard, 0, self.now());
            let (clock_ms, _) = due.await?;
            let mut first = 0;
            loop {
                let mut range = redis::cmd("ZRANGE");
                range.arg(shard.leases()).arg(first).arg(first + CHUNK - 1);
                range.arg("WITHSCORES");
                let leases = scored(self.link.ask(range).await?)?;
                for (ends_at, id) in &leases {
                    let Ok(id) = Uuid::from_slice(id).map(ReservationId) else {
                        continue;
                    };
                    let mut overdue_ms = clock_ms - ends_at;
                    if overdue_ms > LATE_SWEEP_MS && !self.is_open(shard, id).await? {
                        overdue_ms = 0;
                    }
                    inspection.reservation(id, overdue_ms);
                    open.insert(id.0, shard);
                }
                if leases.len() < CHUNK {
                    break;
                }
                first += CHUNK;
            }
        }
        Ok(open)
    }

    async fn is_open(&self, shard: Shard, id: ReservationId) -> StoreResult<bool> {
        let kept = self.steps.kept(&self.link, shard, id).await?;
        Ok(kept.is_some())
    }

    /// Keys and groups; answers what the keys' counters say was ever settled.
    async fn check_scopes(&self, inspection: &mut Inspection) -> StoreResult<Amount> {
        let mut booked = Amount::default();
        let mut pages = KeyPages::default();
        while let Some(records) = pages.next(&self.directory).await? {
            let claims = records.iter().map(|record| of_key(record));
            self.check_claims(inspection, claims.collect(), &mut booked)
                .await?;
        }
        let groups = self.directory.list_groups().await?;
        for groups in groups.chunks(CHUNK) {
            let claims = groups
                .iter()
                .map(|group| claim(Scope::Group(group.id), group.quotas));
            self.check_claims(inspection, claims.collect(), &mut booked)
                .await?;
        }
        Ok(booked)
    }

    async fn check_claims(
        &self,
        inspection: &mut Inspection,
        claims: Vec<ScopeClaim>,
        booked: &mut Amount,
    ) -> StoreResult<()> {
        let stored = self.refreshed(&claims).await?;
        for (mut claim, mut stored) in claims.into_iter().zip(stored) {
            for _ in 0..LOOKS {
                let mut alone = Inspection::default();
                alone.scope(&stored.counters.standing(&claim), stored.counters.booked());
                if alone.done().checks.iter().all(|check| check.holds) {
                    break;
                }
                // The limit may have been another one, or the key elsewhere, a moment ago.
                sleep(PAUSE).await;
                let Some(again) = self.claim_now(claim.scope).await? else {
                    break;
                };
                claim = again;
                stored = self.refreshed(&[claim]).await?.pop().unwrap_or(stored);
            }
            let all = stored.counters.booked();
            inspection.scope(&stored.counters.standing(&claim), all);
            if let Scope::Key(id) = claim.scope {
                booked.insert(id, all);
            }
        }
        Ok(())
    }

    async fn claim_now(&self, scope: Scope) -> StoreResult<Option<ScopeClaim>> {
        Ok(match scope {
            Scope::Key(id) => {
                let record = self.directory.key(id).await?;
                record.map(|record| of_key(&record))
            }
            Scope::Group(id) => {
                let group = self.directory.group(id, Freshness::Now).await?;
                group.map(|group| claim(scope, group.quotas))
            }
        })
    }

    /// The counters of each key against the sums of its days. A step moves both, and neither ever
    /// falls: sums that are read between two looks at the counters lie between the two.
    async fn check_sums(&self, inspection: &mut Inspection, before: &Amount) -> StoreResult<()> {
        let mut used = Amount::default();
        let mut day = String::new();
        while let Some(next) = next_day(&self.link, &day).await? {
            let days = key_days(&self.link, &self.directory, None, &next, &next).await?;
            each_rollup(&self.link, &days, |rollup| {
                let sum = used.entry(rollup.key).or_default();
                *sum = sum.plus(charged(&rollup));
            })
            .await?;
            day = next;
        }
        let ids: Vec<KeyId> = before.keys().copied().collect();
        for ids in ids.chunks(CHUNK) {
            let claims = ids
                .iter()
                .map(|id| claim(Scope::Key(*id), Quotas::default()));
            let after = self.refreshed(&claims.collect::<Vec<_>>()).await?;
            for (id, after) in ids.iter().zip(after) {
                let after = after.counters.booked();
                let before = before.get(id).copied().unwrap_or_default();
                let used = used.get(id).copied().unwrap_or_default();
                if lies_between(before, used, after) {
                    inspection.balance(*id, after, after);
                } else if let Some((counted, used)) = self.differs(*id).await? {
                    inspection.balance(*id, counted, used);
                } else {
                    inspection.balance(*id, after, after);
                }
            }
        }
        Ok(())
    }

    /// What the counters of a key and its sums say, where they differ; looks at this key alone.
    async fn differs(&self, id: KeyId) -> StoreResult<Option<(Amounts, Amounts)>> {
        let claim = [claim(Scope::Key(id), Quotas::default())];
        let mut found = None;
        for _ in 0..LOOKS {
            if self.directory.key(id).await?.is_none() {
                return Ok(None);
            }
            let before = self.refreshed(&claim).await?.pop().unwrap_or_default();
            let homes = self.directory.homes(id).await?;
            let mut used = Amounts::ZERO;
            let days = key_days(&self.link, &self.directory, Some(id), FIRST, LAST).await?;
            each_rollup(&self.link, &days, |rollup| {
                used = used.plus(charged(&rollup));
            })
            .await?;
            // After the sums: what is booked and not paid yet is paid in between, at the most.
            let owed = self.directory.owed_to(id, &homes).await?;
            let after = self.refreshed(&claim).await?.pop().unwrap_or_default();
            let (before, after) = (before.counters.booked(), after.counters.booked());
            if lies_between(before, used, after.plus(owed)) {
                return Ok(None);
            }
            found = Some((after, used));
            sleep(PAUSE).await;
        }
        Ok(found)
    }

    /// Day by day: events of one reservation lie within a day of each other, after that nothing is
    /// remembered of it. The ids of two days are in memory.
    async fn check_events(&self, inspection: &mut Inspection, open: &Open) -> StoreResult<()> {
        let mut yesterday: HashSet<(Uuid, bool), RandomState> = HashSet::default();
        let mut day = String::new();
        while let Some(next) = next_day(&self.link, &day).await? {
            let mut today = HashSet::default();
            let mut reader = EventReader::of_day(&self.link, &self.directory, &next).await?;
            while let Some(events) = reader.next(&self.link).await? {
                for event in events {
                    let event = read_event(&event)?;
                    let late = event.reason.as_deref() == Some("late");
                    // What is settled after an expiry has a second event, and says so.
                    let one = (event.id, late);
                    let wrong = if !today.insert(one) || yesterday.contains(&one) {
                        Some("the second of its reservation")
                    } else if let Some(shard) = open.get(&event.id)
                        && self.is_open(*shard, ReservationId(event.id)).await?
                    {
                        Some("its reservation is still open")
                    } else {
                        None
                    };
                    inspection.event(event.id, event.api_key_id, wrong);
                }
            }
            (day, yesterday) = (next, today);
        }
        Ok(())
    }
}

fn of_key(record: &KeyRecord) -> ScopeClaim {
    claim(Scope::Key(record.id), record.quotas)
}

fn claim(scope: Scope, quotas: Quotas) -> ScopeClaim {
    ScopeClaim {
        scope,
        quotas,
        rates: Rates::default(),
    }
}

fn charged(rollup: &Rollup) -> Amounts {
    Amounts {
        requests: rollup.requests,
        tokens: rollup.tokens,
        nano_usd: rollup.cost_nano,
    }
}

fn lies_between(least: Amounts, amounts: Amounts, most: Amounts) -> bool {
    let (least, most) = (least.to_array(), most.to_array());
    let amounts = amounts.to_array().into_iter();
    let mut bounds = least.into_iter().zip(most);
    amounts
        .zip(&mut bounds)
        .all(|(amount, (least, most))| least <= amount && amount <= most)
}
