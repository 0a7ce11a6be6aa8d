//! Rows as they are written: one function per table.

use rusqlite::{Connection, params};
use uuid::fmt::Hyphenated;

use super::directory::Directory;
use crate::keys::KeyId;
use crate::quota::bucket::Bucket;
use crate::quota::counters::Counters;
use crate::quota::{Period, Reservation, Scope};
use crate::store::usage_log::{Booked, Sums};
use crate::store::{AuditEntry, KeyActivity, UsageEvent};
use crate::time::{DAY_MS, Moment, UnixMs};

type Sql<T> = rusqlite::Result<T>;

/// The bits of an event's number that tell events of one millisecond apart.
pub(super) const RUNNING_BITS: u32 = 20;

/// One scope's counters as they go to disk.
pub(super) struct CountersRow {
    pub scope: i64,
    pub counters: Counters,
    pub activity: KeyActivity,
}

pub(super) fn period_text(period: Period) -> &'static str {
    match period {
        Period::Total => "total",
        Period::Daily => "daily",
        Period::Weekly => "weekly",
        Period::Monthly => "monthly",
    }
}

/// Opened reservations, and open ones whose row is out of date.
pub(super) fn put_reservations(
    connection: &Connection,
    rows: &[(i64, Reservation)],
    number: impl Fn(Scope) -> Option<i64>,
) -> Sql<()> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO reservations (serial, id, key_id, requests, tokens, nano_usd, holds,
             opened_at, expires_at, request_id, method, path, model, pool, end_user, input_tokens)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
    )?;
    let (mut id, mut key) = ([0; Hyphenated::LENGTH], [0; Hyphenated::LENGTH]);
    for (serial, row) in rows {
        let subject = &row.subject;
        let held = row
            .holds
            .first()
            .map_or_else(Default::default, |h| h.amounts);
        statement.execute(params![
            serial,
            &*row.id.0.hyphenated().encode_lower(&mut id),
            &*subject.key.0.hyphenated().encode_lower(&mut key),
            held.requests,
            held.tokens,
            held.nano_usd,
            holds_text(row, &number),
            row.opened_at.0,
            row.expires_at.0,
            subject.request_id,
            subject.method,
            subject.path,
            subject.model,
            subject.pool,
            subject.end_user,
            subject.input_tokens,
        ])?;
    }
    Ok(())
}

fn holds_text(row: &Reservation, number: impl Fn(Scope) -> Option<i64>) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(64);
    for hold in &row.holds {
        // A scope that is gone has no counters to settle into.
        let Some(scope) = number(hold.scope) else {
            continue;
        };
        let [requests, tokens, usd] = hold.windows;
        let comma = if text.is_empty() { '[' } else { ',' };
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}[{scope},{requests},{tokens},{usd}]");
    }
    text.push_str(if text.is_empty() { "[]" } else { "]" });
    text
}

pub(super) fn delete_reservations(connection: &Connection, serials: &[i64]) -> Sql<()> {
    let mut statement = connection.prepare_cached("DELETE FROM reservations WHERE serial = ?1")?;
    for serial in serials {
        statement.execute([serial])?;
    }
    Ok(())
}

/// Events that have a row. `running` counts on and tells those of one millisecond apart.
pub(super) fn put_events(
    connection: &Connection,
    events: &[Booked],
    directory: &Directory,
    running: &mut i64,
) -> Sql<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO usage_events (no, id, key_seq, request_id, request_method, request_path,
             request_size, response_status, response_size, response_time_ms, first_byte_ms, requests,
             prompt_tokens, completion_tokens, cached_tokens, cache_write_tokens, reasoning_tokens,
             total_tokens, model, pool, peer, is_error, error_code, error_message,
             total_error_message, total_cost_nano, estimated, end_user, client_disconnected, reason,
             metadata, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
             ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32)",
    )?;
    for Booked { event, .. } in events.iter().filter(|booked| booked.row) {
        loop {
            *running += 1;
            match put_event(
                &mut statement,
                event,
                event_number(event.created_at, *running),
                directory,
            ) {
                Err(error) if is_taken(&error) => {}
                other => break other?,
            }
        }
    }
    Ok(())
}

/// The number of an event made at `at`: numbers sort as time does.
pub(super) fn event_number(at: UnixMs, running: i64) -> i64 {
    let at = at.0.clamp(0, 1 << 42);
    (at << RUNNING_BITS) | (running & ((1 << RUNNING_BITS) - 1))
}

fn is_taken(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}

fn put_event(
    statement: &mut rusqlite::CachedStatement<'_>,
    event: &UsageEvent,
    no: i64,
    directory: &Directory,
) -> Sql<()> {
    let mut id = [0; Hyphenated::LENGTH];
    statement.execute(params![
        no,
        &*event.id.hyphenated().encode_lower(&mut id),
        directory.key_number(event.api_key_id),
        event.request_id,
        event.request_method,
        event.request_path,
        event.request_size,
        event.response_status,
        event.response_size,
        event.response_time_ms,
        event.first_byte_ms,
        event.requests,
        event.prompt_tokens,
        event.completion_tokens,
        event.cached_tokens,
        event.cache_write_tokens,
        event.reasoning_tokens,
        event.total_tokens,
        event.model,
        event.pool,
        event.peer,
        event.is_error,
        event.error_code,
        event.error_message,
        event.total_error_message,
        event.total_cost_nano,
        event.estimated,
        event.end_user,
        event.client_disconnected,
        event.reason,
        event.metadata.as_ref().map(ToString::to_string),
        event.created_at.0,
    ])?;
    Ok(())
}

/// What the events add to the daily sums.
pub(super) fn add_sums(connection: &Connection, sums: &Sums<'_>, directory: &Directory) -> Sql<()> {
    let number = |key: KeyId| directory.key_number(key);
    let mut rollups = connection.prepare_cached(
        "INSERT INTO daily_rollups VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
         ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,
             tokens = tokens + excluded.tokens,
             prompt_tokens = prompt_tokens + excluded.prompt_tokens,
             completion_tokens = completion_tokens + excluded.completion_tokens,
             cost_nano = cost_nano + excluded.cost_nano,
             errors = errors + excluded.errors,
             response_time_ms = response_time_ms + excluded.response_time_ms",
    )?;
    for ((day, key, model), sums) in &sums.rollups {
        rollups.execute(params![
            day_text(*day),
            number(*key),
            model,
            sums.requests,
            sums.tokens,
            sums.prompt_tokens,
            sums.completion_tokens,
            sums.cost_nano,
            sums.errors,
            sums.response_time_ms,
        ])?;
    }
    let mut errors = connection.prepare_cached(
        "INSERT INTO daily_errors VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET errors = errors + excluded.errors",
    )?;
    for ((day, key, code), count) in &sums.errors {
        errors.execute(params![day_text(*day), number(*key), code, count])?;
    }
    let mut rows = connection.prepare_cached(
        "INSERT INTO event_counts VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET events = events + excluded.events",
    )?;
    for ((day, key), count) in &sums.rows {
        rows.execute(params![day_text(*day), number(*key), count])?;
    }
    Ok(())
}

/// `2026-11-21` for a day counted from the epoch.
pub(super) fn day_text(day: i64) -> String {
    UnixMs(day.saturating_mul(DAY_MS)).day()
}

pub(super) fn put_counters(connection: &Connection, rows: &[CountersRow], now: Moment) -> Sql<()> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO counters VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12,
             ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24)",
    )?;
    for row in rows {
        let [requests, tokens, usd] = &row.counters.counts;
        let (requests_level, requests_limit) = bucket_columns(row.counters.requests_bucket, now);
        let (tokens_level, tokens_limit) = bucket_columns(row.counters.tokens_bucket, now);
        statement.execute(params![
            row.scope,
            requests.used,
            tokens.used,
            usd.used,
            period_text(requests.window.period),
            period_text(tokens.window.period),
            period_text(usd.window.period),
            requests.window.start,
            tokens.window.start,
            usd.window.start,
            requests.booked,
            tokens.booked,
            usd.booked,
            requests_level,
            requests_limit,
            tokens_level,
            tokens_limit,
            now.wall.0,
            row.activity.request_count,
            row.activity.error_count,
            row.activity.last_used_at.map(|at| at.0),
            requests.number,
            tokens.number,
            usd.number,
        ])?;
    }
    Ok(())
}

fn bucket_columns(bucket: Option<Bucket>, now: Moment) -> (Option<i64>, Option<i64>) {
    let filled = bucket.map(|mut bucket| {
        bucket.refill(bucket.limit(), now.steady_ms);
        bucket
    });
    (
        filled.map(|bucket| bucket.level_parts()),
        filled.map(|bucket| bucket.limit()),
    )
}

pub(super) fn put_audit(connection: &Connection, entry: &AuditEntry) -> Sql<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO audit_log (at, who, what, subject, before, after) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    statement.execute(params![
        entry.at.0,
        entry.who,
        entry.what,
        entry.subject,
        entry.before.as_ref().map(ToString::to_string),
        entry.after.as_ref().map(ToString::to_string),
    ])?;
    Ok(())
}
