//! The step of a slice on the server (`lua/slice.lua`).

use super::super::atomic::id_bytes;
use super::super::booking::EventArgs;
use super::super::layout::{Figures, Packer, Stored};
use super::super::link::{Link, Script};
use super::super::names::Home;
use super::super::replies::bytes_of;
use super::batch::{Batch, Finished, Terms};
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
        let mut events = EventArgs::default();
        for event in batch.events.iter().flat_map(Finished::events) {
            events.push(event, event.charged())?;
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
            events.days(),
        ]);
        for claim in &terms.scopes {
            let version = match claim.scope {
                Scope::Key(_) => Some(terms.key_version),
                Scope::Group(_) => terms.group_version,
            };
            figures.claim(claim, version);
        }
        let keys = events.keys(terms.home, terms.id, key);
        let mut args = vec![
            figures.done(),
            id_bytes(terms.id),
            terms.subject.clone(),
            key.0.as_bytes().to_vec(),
            batch.id.as_bytes().to_vec(),
        ];
        args.extend(events.into_args());
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
        let mut events = EventArgs::default();
        events.push(event, Amounts::ZERO)?;
        let keys = events.keys(home, id, key);
        let mut args = vec![
            figures.done(),
            id_bytes(id),
            Vec::new(),
            key.0.as_bytes().to_vec(),
            id_bytes(id),
        ];
        args.extend(events.into_args());
        let reply = link.run(&self.0, &keys, &args).await?;
        let code = Figures(bytes_of(&reply)?).next()?;
        Ok(code != NOT_DUE)
    }
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
