//! Rows as they are written: one function per table.

use rusqlite::{Connection, params};
use uuid::fmt::Hyphenated;

use crate::quota::bucket::Bucket;
use crate::quota::counters::Counters;
use crate::quota::{Period, Reservation, Scope};
use crate::store::{AuditEntry, KeyActivity};
use crate::time::Moment;

type Sql<T> = rusqlite::Result<T>;

/// One scope's counters as they go to disk.
#[derive(Clone, Copy)]
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
