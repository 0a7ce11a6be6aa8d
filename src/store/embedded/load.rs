//! What a start reads: keys, groups, counters, and the reservations a dead process left behind.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, Row};
use uuid::Uuid;

use super::EmbeddedOptions;
use super::directory::Directory;
use super::people::People;
use super::rows::period_text;
use super::state::State;
use crate::keys::{KeyHash, KeyId, KeyRecord, PreviousSecret};
use crate::quota::bucket::Bucket;
use crate::quota::counters::{Count, Counters};
use crate::quota::ledger::Ledger;
use crate::quota::window::Window;
use crate::quota::{Amounts, Hold, Period, Reservation, ReservationId, Scope, Subject};
use crate::store::file::fault;
use crate::store::usage_log::{Booked, event_of_lost};
use crate::store::{GroupRecord, KeyActivity, StoreError, StoreResult, UserRecord};
use crate::time::{Moment, UnixMs};

/// The directory as it was written.
pub(super) fn directory(connection: &Connection, now: UnixMs) -> StoreResult<Directory> {
    let mut directory = Directory::default();
    let mut statement = connection
        .prepare(
            "SELECT n.seq, n.id, k.hash, k.previous_hash, k.previous_valid_until, k.record
             FROM key_numbers n LEFT JOIN keys k ON k.seq = n.seq",
        )
        .map_err(fault)?;
    let mut rows = statement.query([]).map_err(fault)?;
    while let Some(row) = rows.next().map_err(fault)? {
        match key_of(row)? {
            Ok(record) => directory.put_key(Arc::new(record)),
            Err((id, seq)) => directory.put_former_key(id, seq),
        }
    }
    let mut statement = connection
        .prepare("SELECT seq, record FROM groups")
        .map_err(fault)?;
    let mut rows = statement.query([]).map_err(fault)?;
    while let Some(row) = rows.next().map_err(fault)? {
        let record: GroupRecord = json(row, 1)?;
        directory.put_group(row.get(0).map_err(fault)?, Arc::new(record));
    }
    people(connection, now, &mut directory.people)?;
    Ok(directory)
}

fn people(connection: &Connection, now: UnixMs, people: &mut People) -> StoreResult<()> {
    let mut statement = connection
        .prepare("SELECT seq, password_hash, record FROM users")
        .map_err(fault)?;
    let mut rows = statement.query([]).map_err(fault)?;
    while let Some(row) = rows.next().map_err(fault)? {
        people.put(row.get(0).map_err(fault)?, Arc::new(user_of(row)?));
    }
    let mut statement = connection
        .prepare("SELECT id, over_at FROM ended_sessions WHERE over_at > ?1")
        .map_err(fault)?;
    let mut rows = statement.query([now.0]).map_err(fault)?;
    while let Some(row) = rows.next().map_err(fault)? {
        let over_at = UnixMs(row.get(1).map_err(fault)?);
        people.end_session(uuid(row, 0)?, over_at, now);
    }
    Ok(())
}

/// A user, of a row of number, password hash and record.
pub(super) fn user_of(row: &Row<'_>) -> StoreResult<UserRecord> {
    let mut record: UserRecord = json(row, 2)?;
    record.password_hash = row.get(1).map_err(fault)?;
    Ok(record)
}

/// A key, or the id and number of one that is gone.
pub(super) fn key_of(row: &Row<'_>) -> StoreResult<Result<KeyRecord, (KeyId, i64)>> {
    let seq: i64 = row.get(0).map_err(fault)?;
    let id = KeyId(uuid(row, 1)?);
    if row.get_ref(5).map_err(fault)? == rusqlite::types::ValueRef::Null {
        return Ok(Err((id, seq)));
    }
    let mut record: KeyRecord = json(row, 5)?;
    record.hash = KeyHash(row.get(2).map_err(fault)?);
    let previous: Option<[u8; 32]> = row.get(3).map_err(fault)?;
    let valid_until: Option<i64> = row.get(4).map_err(fault)?;
    record.previous = previous
        .zip(valid_until)
        .map(|(hash, until)| PreviousSecret {
            hash: KeyHash(hash),
            valid_until: UnixMs(until),
        });
    Ok(Ok(record))
}

/// Counters, and reservations still open. Unless they are adopted, these are resolved at once by the
/// policy, so that nothing stays held that nobody will settle.
pub(super) fn state(
    connection: &Connection,
    directory: &Directory,
    options: &EmbeddedOptions,
    now: Moment,
) -> StoreResult<State> {
    let scopes = directory.scopes_by_number();
    let mut ledger = Ledger::default();
    let mut activities = HashMap::default();
    let mut statement = connection
        .prepare("SELECT * FROM counters")
        .map_err(fault)?;
    let mut rows = statement.query([]).map_err(fault)?;
    while let Some(row) = rows.next().map_err(fault)? {
        let (number, counters, activity) = counters_of(row, now).map_err(fault)?;
        let Some(scope) = scopes.get(&number) else {
            continue;
        };
        ledger.restore_counters(*scope, counters);
        if let Scope::Key(id) = scope {
            activities.insert(*id, activity);
        }
    }
    for (reservation, serial) in reservations(connection, &scopes)? {
        match options.adopt {
            Some(lease) => {
                // The process that runs it renews it as it was opened, which may be less often.
                let own_ms = reservation.expires_at.0 - reservation.opened_at.0;
                let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
                let lease_ms = lease_ms.max(own_ms);
                ledger.adopt_reservation(reservation, serial, lease_ms, now);
            }
            None => ledger.restore_reservation(reservation, serial),
        }
    }
    let lost = match options.adopt {
        Some(_) => Vec::new(),
        None => ledger.abandon_all(now, options.lost_reservation),
    };
    let mut state = State::new(ledger);
    state.lost_at_open = lost.len();
    state.activity = activities;
    for lost in lost {
        let reservation = &lost.open.reservation;
        let scopes: Vec<Scope> = reservation.holds.iter().map(|hold| hold.scope).collect();
        let event = event_of_lost(reservation, lost.charged, "edge_died", now.wall);
        state.book(Some(&lost.open), &scopes, Booked { event, row: true });
    }
    state.note_turned();
    Ok(state)
}

/// Reservations and their serials, in the order they were opened.
fn reservations(
    connection: &Connection,
    scopes: &HashMap<i64, Scope>,
) -> StoreResult<Vec<(Reservation, i64)>> {
    let mut statement = connection
        .prepare("SELECT * FROM reservations ORDER BY serial")
        .map_err(fault)?;
    let mut rows = statement.query([]).map_err(fault)?;
    let mut reservations = Vec::new();
    while let Some(row) = rows.next().map_err(fault)? {
        let serial: i64 = row.get("serial").map_err(fault)?;
        reservations.push((reservation_of(row, scopes)?, serial));
    }
    Ok(reservations)
}

pub(super) fn counters_of(
    row: &Row<'_>,
    now: Moment,
) -> rusqlite::Result<(i64, Counters, KeyActivity)> {
    let count = |[used, booked, period, since, number]: [&str; 5]| -> rusqlite::Result<Count> {
        let period = period_of(row.get_ref(period)?.as_str().unwrap_or_default());
        let since = row.get(since)?;
        Ok(Count {
            used: row.get(used)?,
            held: 0,
            booked: row.get(booked)?,
            window: Window::at(period, UnixMs(since)),
            number: row.get(number)?,
        })
    };
    let at: i64 = row.get("buckets_at")?;
    let elapsed_ms = (now.wall.0 - at).max(0);
    let bucket = |level: &str, limit: &str| -> rusqlite::Result<Option<Bucket>> {
        let level: Option<i64> = row.get(level)?;
        let limit: Option<i64> = row.get(limit)?;
        Ok(level.zip(limit).map(|(level, limit)| {
            let gained = elapsed_ms.saturating_mul(limit);
            Bucket::with_parts(limit, level.saturating_add(gained), now.steady_ms)
        }))
    };
    let counters = Counters {
        counts: [
            count([
                "requests_used",
                "requests_booked",
                "requests_period",
                "requests_since",
                "requests_window",
            ])?,
            count([
                "tokens_used",
                "tokens_booked",
                "tokens_period",
                "tokens_since",
                "tokens_window",
            ])?,
            count([
                "nano_usd_used",
                "nano_usd_booked",
                "usd_period",
                "usd_since",
                "usd_window",
            ])?,
        ],
        running: 0,
        requests_bucket: bucket("requests_bucket", "requests_bucket_limit")?,
        tokens_bucket: bucket("tokens_bucket", "tokens_bucket_limit")?,
    };
    let activity = KeyActivity {
        request_count: row.get("request_count")?,
        error_count: row.get("error_count")?,
        last_used_at: row.get::<_, Option<i64>>("last_used_at")?.map(UnixMs),
    };
    Ok((row.get("scope")?, counters, activity))
}

fn period_of(text: &str) -> Period {
    [Period::Daily, Period::Weekly, Period::Monthly]
        .into_iter()
        .find(|period| period_text(*period) == text)
        .unwrap_or_default()
}

fn reservation_of(row: &Row<'_>, scopes: &HashMap<i64, Scope>) -> StoreResult<Reservation> {
    let id: String = row.get("id").map_err(fault)?;
    let key: String = row.get("key_id").map_err(fault)?;
    let holds: String = row.get("holds").map_err(fault)?;
    let holds: Vec<[i64; 4]> = serde_json::from_str(&holds).map_err(senseless)?;
    let read = || -> rusqlite::Result<(Amounts, Subject, i64, i64)> {
        let amounts = Amounts {
            requests: row.get("requests")?,
            tokens: row.get("tokens")?,
            nano_usd: row.get("nano_usd")?,
        };
        let subject = Subject {
            key: KeyId(Uuid::nil()),
            request_id: row.get("request_id")?,
            method: row.get("method")?,
            path: row.get("path")?,
            model: row.get("model")?,
            pool: row.get("pool")?,
            end_user: row.get("end_user")?,
            input_tokens: row.get("input_tokens")?,
        };
        Ok((
            amounts,
            subject,
            row.get("opened_at")?,
            row.get("expires_at")?,
        ))
    };
    let (amounts, mut subject, opened_at, expires_at) = read().map_err(fault)?;
    subject.key = KeyId(Uuid::parse_str(&key).map_err(senseless)?);
    let holds = holds
        .into_iter()
        .filter_map(|[scope, requests, tokens, usd]| {
            Some(Hold {
                scope: *scopes.get(&scope)?,
                amounts,
                windows: [requests, tokens, usd],
                rate_limited: false,
            })
        });
    Ok(Reservation {
        id: ReservationId(Uuid::parse_str(&id).map_err(senseless)?),
        holds: holds.collect(),
        opened_at: UnixMs(opened_at),
        expires_at: UnixMs(expires_at),
        subject: Arc::new(subject),
    })
}

fn uuid(row: &Row<'_>, column: usize) -> StoreResult<Uuid> {
    let text = row.get_ref(column).map_err(fault)?;
    Uuid::parse_str(text.as_str().map_err(senseless)?).map_err(senseless)
}

pub(super) fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> StoreResult<T> {
    let text = row.get_ref(column).map_err(fault)?;
    serde_json::from_str(text.as_str().map_err(senseless)?).map_err(senseless)
}

/// What was read back makes no sense.
fn senseless(error: impl std::fmt::Display) -> StoreError {
    StoreError::Fault(format!("a record that makes no sense: {error}"))
}
