//! What the steps of quota answer, and what is kept of a reservation.

use redis::Value;

use super::layout::{Figures, Stored};
use crate::quota::{
    Amounts, Ask, Decision, Grant, GroupId, Reservation, ReservationId, Reserved, Settled, Subject,
    decide,
};
use crate::store::{StoreError, StoreResult};
use crate::time::UnixMs;

/// Figures before a reservation's subject.
const RESERVATION_FIGURES: usize = 21;

/// States of a reservation that may be lost.
const OPEN: i64 = 0;
const SLICE: i64 = 4;

/// What a step that ends a reservation did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolved {
    /// `None`: nothing, a lost one is not due.
    pub settled: Option<Settled>,
    /// The key's counters were elsewhere: what it owes waits to be paid there.
    pub owed: bool,
}

/// An open reservation as Redis keeps it.
#[derive(Debug)]
pub(super) struct Kept {
    pub reservation: Reservation,
    pub group: Option<GroupId>,
    pub held: Amounts,
    /// Of a slice: what its running exchanges held when its edge last told.
    pub in_use: Option<Amounts>,
}

pub(super) fn read_reserved(ask: &Ask, reply: &[u8]) -> StoreResult<Reserved> {
    let mut figures = Figures(reply);
    let [code, output_tokens, left] = figures.take()?;
    let held = figures.amounts()?;
    let [wall, _steady] = figures.take()?;
    match code {
        1 | 2 => {}
        3 => return Ok(Reserved::KeyChanged),
        4 => {
            return Err(StoreError::Fault(String::from(
                "the reservation id was resolved before",
            )));
        }
        _ => return Err(StoreError::Fault(String::from("an amount is above 2^53"))),
    }
    let mut counters = Vec::with_capacity(ask.scopes.len());
    for _ in &ask.scopes {
        counters.push(Stored::read(&mut figures)?.counters);
    }
    if code == 1 {
        let standings = ask.scopes.iter().zip(&counters);
        return Ok(Reserved::Granted(Grant {
            id: ask.id,
            output_tokens,
            held,
            output_left: if left < 0 { i64::MAX } else { left },
            standings: standings
                .map(|(claim, counters)| counters.standing(claim))
                .collect(),
        }));
    }
    // The script says that something is short; the same rules, here, say what and for how long.
    match decide(ask, counters.iter(), UnixMs(wall)) {
        Ok(Decision::Short(shortage)) => Ok(Reserved::Short(shortage)),
        other => Err(StoreError::Fault(format!(
            "Redis refused what fits by our reckoning: {other:?}"
        ))),
    }
}

pub(super) fn read_resolved(reply: &[u8]) -> StoreResult<Resolved> {
    let mut figures = Figures(reply);
    let code = figures.next()?;
    let charged = figures.amounts()?;
    let held = figures.amounts()?;
    let owed = figures.next()? == 1;
    let settled = match code {
        0 => Some(Settled::Already),
        1 => Some(Settled::Applied {
            charged,
            debt: charged.minus(held).max(Amounts::ZERO),
        }),
        2 => Some(Settled::Late { charged }),
        _ => None,
    };
    Ok(Resolved { settled, owed })
}

pub(super) fn read_kept(id: ReservationId, blob: &[u8]) -> StoreResult<Option<Kept>> {
    if blob.len() < RESERVATION_FIGURES * 8 {
        return Ok(None);
    }
    let (figures, subject) = blob.split_at(RESERVATION_FIGURES * 8);
    let mut figures = Figures(figures);
    let [state, ..] = figures.take::<6>()?;
    let is_slice = state == SLICE;
    if state != OPEN && !is_slice {
        return Ok(None);
    }
    let held = figures.amounts()?;
    let _rated_and_scopes = figures.take::<9>()?;
    let in_use = figures.amounts()?;
    let (opened_at, group, subject): (UnixMs, Option<GroupId>, Subject) =
        serde_json::from_slice(subject)
            .map_err(|error| StoreError::Fault(format!("a reservation cannot be read: {error}")))?;
    Ok(Some(Kept {
        reservation: Reservation {
            id,
            holds: Vec::new(),
            opened_at,
            expires_at: opened_at,
            subject: std::sync::Arc::new(subject),
        },
        group,
        held,
        in_use: is_slice.then_some(in_use),
    }))
}

pub(super) fn bytes_of(reply: &Value) -> StoreResult<&[u8]> {
    match reply {
        Value::BulkString(bytes) => Ok(bytes),
        _ => Err(unexpected("a step's answer")),
    }
}

pub(super) fn unexpected(what: &str) -> StoreError {
    StoreError::Fault(format!("Redis answered something else than {what}"))
}
