//! The step of a slice on the server (`lua/slice.lua`).

use super::super::atomic::{
    counters_of, error_bytes, event_figures, event_json, id_bytes, text_bytes,
};
use super::super::layout::{Figures, Packer, Stored};
use super::super::link::{Link, Script};
use super::super::names::Home;
use super::super::replies::bytes_of;
use super::batch::{Batch, Terms};
use crate::keys::KeyId;
use crate::quota::counters::Counters;
use crate::quota::{Amounts, LostReservation, ReservationId, Scope};
use crate::store::{StoreError, StoreResult, UsageEvent};
use crate::time::Moment;

/// How long an ended slice is remembered: a step of it that comes late must not open it anew.
const REMEMBER_MS: i64 = 24 * 3_600_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// The slice may be admitted from.
    Granting,
    /// It may not any more: a record changed, a window turned, or too little is left.
    Stopped,
    /// Its lease ran out. What ends of it is booked all the same.
    Lost,
}

/// What a step did.
#[derive(Debug)]
pub(super) struct Answer {
    pub code: Code,
    /// The need was met, whole.
    pub met: bool,
    pub granted: Amounts,
    /// The most that is to be unspent, by resource; below 0: not told.
    pub shares: [i64; 3],
    /// Of each scope, where it is granting.
    pub counters: Vec<Counters>,
}

/// What the script answers where no lease has run out.
const NOT_DUE: i64 = 4;

/// How much a slice may hold unspent.
#[derive(Clone, Copy, Debug)]
pub struct SliceOptions {
    /// Of what is left of a quota or a per-minute bucket.
    pub size_percent: u8,
    /// Requests, and tokens.
    pub max: i64,
}

#[derive(Debug)]
pub(in crate::store::redis) struct SliceStep(Script);

impl SliceStep {
    pub fn new() -> SliceStep {
        SliceStep(super::super::script::script!(
            "clock",
            "counters",
            "claims",
            "reservations",
            "book",
            "slice"
        ))
    }

    /// Takes one step of a slice. Idempotent by its number.
    ///
    /// # Errors
    /// As `Link::run`.
    pub(super) async fn take(
        &self,
        link: &Link,
        terms: &Terms,
        batch: &Batch,
        options: SliceOptions,
        now: Option<Moment>,
    ) -> StoreResult<Answer> {
        let key = terms.key;
        let mut days: Vec<String> = Vec::new();
        let mut events = Vec::with_capacity(batch.events.len() * 4);
        for finished in &batch.events {
            let day = finished.event.created_at.day();
            let at = days.iter().position(|known| *known == day);
            let at = at.unwrap_or_else(|| {
                days.push(day);
                days.len() - 1
            });
            events.extend(event_args(&finished.event, finished.charged, at)?);
        }
        let report = batch.report;
        let need = batch.need.map_or(Amounts::ZERO, |(_, more)| more);
        let mut figures = Packer::default();
        figures
            .clock(now)
            .put_all([0, batch.seq, i64::from(batch.last)]);
        for amounts in [report.keep, report.in_use, batch.wanted, batch.least, need] {
            figures.put_all(amounts.clamped().to_array());
        }
        figures.put_all([
            i64::from(options.size_percent),
            options.max,
            terms.lease_ms,
            REMEMBER_MS,
            count(days.len()),
        ]);
        for claim in &terms.scopes {
            let version = match claim.scope {
                Scope::Key(_) => Some(terms.key_version),
                Scope::Group(_) => terms.group_version,
            };
            figures.claim(claim, version);
        }
        let keys = names(terms.home, terms.id, key, &days);
        let mut args = vec![
            figures.done(),
            id_bytes(terms.id),
            terms.subject.clone(),
            key.0.as_bytes().to_vec(),
            batch.id.as_bytes().to_vec(),
        ];
        args.extend(events);
        let reply = link.run(&self.0, &keys, &args).await?;
        read_answer(bytes_of(&reply)?, terms.scopes.len())
    }

    /// Ends a slice whose lease has run out: it is charged what its running exchanges held, or
    /// nothing; the rest returns. False where it is not due, or gone.
    ///
    /// # Errors
    /// As `Link::run`.
    pub async fn lose(
        &self,
        link: &Link,
        home: Home,
        id: ReservationId,
        policy: LostReservation,
        event: &UsageEvent,
        now: Option<Moment>,
    ) -> StoreResult<bool> {
        let mode = match policy {
            LostReservation::Charge => 1,
            LostReservation::Release => 2,
        };
        let mut figures = Packer::default();
        figures.clock(now).put_all([mode, 0, 0]);
        // Neither amounts nor a share, a most and a lease.
        figures.put_all([0; 18]).put_all([REMEMBER_MS, 1]);
        let key = event.api_key_id;
        let keys = names(home, id, key, &[event.created_at.day()]);
        let mut args = vec![
            figures.done(),
            id_bytes(id),
            Vec::new(),
            key.0.as_bytes().to_vec(),
            id_bytes(id),
        ];
        args.extend(event_args(event, Amounts::ZERO, 0)?);
        let reply = link.run(&self.0, &keys, &args).await?;
        let code = Figures(bytes_of(&reply)?).next()?;
        Ok(code != NOT_DUE)
    }
}

fn names(home: Home, id: ReservationId, key: KeyId, days: &[String]) -> Vec<String> {
    let shard = home.shard;
    let mut names = vec![
        shard.reservation(id),
        shard.leases(),
        shard.counters(Scope::Key(key)),
        shard.events(key),
        shard.all_events(),
        shard.days(),
        shard.owed(),
    ];
    for day in days {
        names.push(shard.sums(key, day));
        names.push(shard.errors(key, day));
    }
    let group = home.group.map(Scope::Group);
    names.extend(group.map(|group| counters_of(home, group)));
    names
}

/// An event as the script takes it; `day` is its place among the days of the step.
fn event_args(event: &UsageEvent, charged: Amounts, day: usize) -> StoreResult<[Vec<u8>; 4]> {
    let mut figures = Packer::default();
    figures
        .put_all(charged.clamped().to_array())
        .put_all(event_figures(event))
        .put(count(day));
    Ok([
        figures.done(),
        event_json(event)?,
        text_bytes(event.model.as_deref()),
        error_bytes(event),
    ])
}

fn read_answer(reply: &[u8], scopes: usize) -> StoreResult<Answer> {
    let mut figures = Figures(reply);
    let code = match figures.next()? {
        1 => Code::Granting,
        2 => Code::Stopped,
        3 => Code::Lost,
        other => {
            return Err(StoreError::Fault(format!(
                "a slice's step answered {other}"
            )));
        }
    };
    let met = figures.next()? == 1;
    let granted = figures.amounts()?;
    let shares = figures.take()?;
    let mut counters = Vec::new();
    if code == Code::Granting {
        for _ in 0..scopes {
            counters.push(Stored::read(&mut figures)?.counters);
        }
    }
    Ok(Answer {
        code,
        met,
        granted,
        shares,
        counters,
    })
}

/// Of things of which there are few.
fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
