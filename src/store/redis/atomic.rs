//! The atomic steps: one script each, everything it touches under one hash tag.

use redis::Value;
use uuid::Uuid;

use super::booking::{EventArgs, Events, error_bytes, event_figures, event_json, text_bytes};
use super::layout::{Figures, Packer, Stored, clock_figures};
use super::link::{Link, Script};
use super::names::{EventSet, Home, Shard};
use super::replies::{
    Kept, Resolved, bytes_of, read_kept, read_reserved, read_resolved, unexpected,
};
use super::script::script;
use crate::quota::{
    Amounts, Ask, Charge, GroupId, LostReservation, ReservationId, Reserved, Scope, ScopeClaim,
};
use crate::store::{StoreError, StoreResult, UsageEvent};
use crate::time::{Moment, UnixMs};

/// How long a settled reservation is remembered, so that a reserve that arrives again after it
/// opens nothing; and an expired one, so that a late settlement finds it.
const KEEP_SETTLED_MS: i64 = 600_000;
const KEEP_EXPIRED_MS: i64 = 24 * 3_600_000;

/// The steps of quota, on one connection.
#[derive(Debug)]
pub(super) struct Steps {
    reserve: Script,
    resolve: Script,
    refuse: Script,
    top_up: Script,
    renew: Script,
    due: Script,
    look: Script,
    reset: Script,
}

/// How a reservation is ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    Settle(Charge),
    Lose(LostReservation),
    /// A reserve that was given up, granted or not, now or later: it never was.
    Undo,
    /// What was admitted without Redis, held or not.
    Reconcile(Amounts),
}

impl Steps {
    pub fn new() -> Steps {
        Steps {
            reserve: script!(
                "clock",
                "counters",
                "claims",
                "money",
                "reservations",
                "reserve"
            ),
            resolve: script!(
                "clock",
                "counters",
                "reservations",
                "close",
                "book",
                "resolve"
            ),
            refuse: script!("clock", "counters", "book", "refuse"),
            top_up: script!("clock", "counters", "claims", "reservations", "top_up"),
            renew: script!("clock", "renew"),
            due: script!("clock", "due"),
            look: script!("clock", "look"),
            reset: script!("clock", "counters", "reset"),
        }
    }

    /// Checks and takes every claim of the ask. `opened_at` is for the books only.
    pub async fn reserve(
        &self,
        link: &Link,
        home: Home,
        ask: &Ask,
        now: Option<Moment>,
        opened_at: UnixMs,
    ) -> StoreResult<Reserved> {
        let mut keys = vec![home.shard.reservation(ask.id), home.shard.leases()];
        keys.extend(
            ask.scopes
                .iter()
                .map(|claim| counters_of(home, claim.scope)),
        );
        let mut figures = Packer::default();
        figures.clock(now).put(ask.admission as i64).put_all([
            ask.requests,
            ask.input_tokens,
            ask.output_tokens,
            ask.least_output_tokens,
            ask.fixed_nano_usd,
            ask.output_nano_per_million,
            i64::from(ask.rate_limited),
            ask.lease_ms.max(0),
        ]);
        for claim in &ask.scopes {
            let version = match claim.scope {
                Scope::Key(_) => Some(ask.key_version),
                Scope::Group(_) => ask.group_version,
            };
            figures.claim(claim, version);
        }
        let group = group_of(&ask.scopes);
        let subject = serde_json::to_vec(&(opened_at, group, &*ask.subject)).map_err(unwritable)?;
        let args = [figures.done(), id_bytes(ask.id), subject];
        let reply = link.run(&self.reserve, &keys, &args).await?;
        read_reserved(ask, bytes_of(&reply)?)
    }

    /// Ends a reservation and books its events, all in one.
    pub async fn resolve(
        &self,
        link: &Link,
        home: Home,
        id: ReservationId,
        ending: Ending,
        events: Events<'_>,
        now: Option<Moment>,
    ) -> StoreResult<Resolved> {
        let event = events.first;
        let mut further = EventArgs::default();
        further.day(event);
        for event in events.further {
            let requests = event.requests;
            further.push(
                event,
                Amounts {
                    requests,
                    ..Amounts::ZERO
                },
            )?;
        }
        let mut figures = Packer::default();
        figures.clock(now);
        match ending {
            Ending::Settle(charge) => figures.charge(charge),
            Ending::Lose(LostReservation::Charge) => figures.put_all([3, 0, 0, 0]),
            Ending::Lose(LostReservation::Release) => figures.put_all([4, 0, 0, 0]),
            Ending::Undo => figures.put_all([6, 0, 0, 0]),
            Ending::Reconcile(amounts) => figures.put(5).put_all(amounts.clamped().to_array()),
        };
        figures.put_all(event_figures(event)).put_all([
            KEEP_SETTLED_MS,
            KEEP_EXPIRED_MS,
            further.days(),
        ]);
        let keys = further.keys(home, id, event.api_key_id);
        let mut args = vec![
            figures.done(),
            id_bytes(id),
            event_json(event)?,
            text_bytes(event.model.as_deref()),
            error_bytes(event),
            event.api_key_id.0.as_bytes().to_vec(),
        ];
        args.extend(further.into_args());
        let reply = link.run(&self.resolve, &keys, &args).await?;
        read_resolved(bytes_of(&reply)?)
    }

    /// Books a refused request; `row` says whether its event is written too.
    pub async fn refuse(
        &self,
        link: &Link,
        home: Home,
        event: &UsageEvent,
        row: bool,
    ) -> StoreResult<()> {
        let key = event.api_key_id;
        let day = event.created_at.day();
        let shard = home.shard;
        let keys = [
            shard.counters(Scope::Key(key)),
            shard.events(key, EventSet::Uncharged),
            shard.index(EventSet::Uncharged),
            shard.sums(key, &day),
            shard.errors(key, &day),
            shard.days(),
        ];
        let mut figures = Packer::default();
        figures.put_all(event_figures(event)).put(i64::from(row));
        let args = [
            figures.done(),
            event_json(event)?,
            text_bytes(event.model.as_deref()),
            error_bytes(event),
            key.0.as_bytes().to_vec(),
        ];
        match link.run(&self.refuse, &keys, &args).await? {
            Value::Int(0) => Err(StoreError::NotFound),
            _ => Ok(()),
        }
    }

    pub async fn top_up(
        &self,
        link: &Link,
        home: Home,
        id: ReservationId,
        claims: &[ScopeClaim],
        more: Amounts,
        now: Option<Moment>,
    ) -> StoreResult<bool> {
        let mut keys = vec![home.shard.reservation(id)];
        keys.extend(claims.iter().map(|claim| counters_of(home, claim.scope)));
        let mut figures = Packer::default();
        figures.clock(now).put_all(more.to_array());
        for claim in claims {
            figures.claim(claim, None);
        }
        let reply = link.run(&self.top_up, &keys, &[figures.done()]).await?;
        Ok(reply == Value::Int(1))
    }

    /// Extends leases of one shard.
    pub async fn renew(
        &self,
        link: &Link,
        shard: Shard,
        ids: &[ReservationId],
        lease_ms: i64,
        now: Option<Moment>,
    ) -> StoreResult<()> {
        let mut args = clock_args(now);
        args.push(lease_ms.max(0).to_string().into_bytes());
        args.extend(ids.iter().map(|id| id_bytes(*id)));
        link.run(&self.renew, &[shard.leases()], &args).await?;
        Ok(())
    }

    /// The server's clock in milliseconds, and leases of the shard that have run out.
    pub async fn due(
        &self,
        link: &Link,
        shard: Shard,
        most: usize,
        now: Option<Moment>,
    ) -> StoreResult<(i64, Vec<ReservationId>)> {
        let mut args = clock_args(now);
        args.push(most.to_string().into_bytes());
        let reply = link
            .run_background(&self.due, &[shard.leases()], &args)
            .await?;
        let Value::Array(items) = reply else {
            return Err(unexpected("the leases that are due"));
        };
        let mut items = items.into_iter();
        let Some(Value::Int(clock)) = items.next() else {
            return Err(unexpected("the leases that are due"));
        };
        let ids = items.filter_map(|item| match item {
            Value::BulkString(id) => Uuid::from_slice(&id).ok().map(ReservationId),
            _ => None,
        });
        Ok((clock, ids.collect()))
    }

    /// A reservation that is open, or `None`.
    pub async fn kept(
        &self,
        link: &Link,
        shard: Shard,
        id: ReservationId,
    ) -> StoreResult<Option<Kept>> {
        let command = redis::cmd("GET").arg(shard.reservation(id)).to_owned();
        match link.ask(command).await? {
            Value::BulkString(blob) => read_kept(id, &blob),
            _ => Ok(None),
        }
    }

    /// The counters of a scope as they are stored, where there are any, and the server's clock.
    pub async fn look(
        &self,
        link: &Link,
        home: Home,
        scope: Scope,
        now: Option<Moment>,
    ) -> StoreResult<(Option<Stored>, Moment)> {
        let keys = [counters_of(home, scope)];
        let reply = link.run(&self.look, &keys, &clock_args(now)).await?;
        let Value::Array(items) = &reply else {
            return Err(unexpected("counters"));
        };
        let [Value::Int(wall), Value::Int(steady_ms), blob @ ..] = &items[..] else {
            return Err(unexpected("counters"));
        };
        let stored = match blob {
            [Value::BulkString(blob)] => Some(Stored::read(&mut Figures(blob))?),
            _ => None,
        };
        let now = Moment {
            wall: UnixMs(*wall),
            steady_ms: *steady_ms,
        };
        // Below 0: they have left for another home.
        Ok((stored.filter(|stored| stored.version >= 0), now))
    }

    /// Sets `used` to 0; false where there are no such counters.
    pub async fn reset(&self, link: &Link, home: Home, scope: Scope) -> StoreResult<bool> {
        let none: [Vec<u8>; 0] = [];
        let reply = link
            .run(&self.reset, &[counters_of(home, scope)], &none)
            .await?;
        Ok(reply == Value::Int(1))
    }
}

/// A key's counters are at its home, a group's in its own shard, which is the same.
pub(super) fn counters_of(home: Home, scope: Scope) -> String {
    match scope {
        Scope::Key(_) => home.shard.counters(scope),
        Scope::Group(id) => Shard::of_group(id).counters(scope),
    }
}

pub(super) fn group_of(claims: &[ScopeClaim]) -> Option<GroupId> {
    claims.iter().find_map(|claim| match claim.scope {
        Scope::Group(id) => Some(id),
        Scope::Key(_) => None,
    })
}

pub(super) fn id_bytes(id: ReservationId) -> Vec<u8> {
    id.0.as_bytes().to_vec()
}

fn clock_args(now: Option<Moment>) -> Vec<Vec<u8>> {
    let (wall, steady) = clock_figures(now);
    vec![
        wall.to_string().into_bytes(),
        steady.to_string().into_bytes(),
    ]
}

fn unwritable(error: serde_json::Error) -> StoreError {
    StoreError::Fault(format!("a record cannot be written: {error}"))
}
