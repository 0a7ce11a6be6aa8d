//! Rows of usage: events and the sums they are rolled up into, as they are written and read back.

use rusqlite::{Connection, Row, params};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::directory::Directory;
use crate::keys::KeyId;
use crate::store::UsageEvent;
use crate::store::usage_log::Sums;
use crate::time::{DAY_MS, UnixMs};

type Sql<T> = rusqlite::Result<T>;

/// The bits of an event's number that tell events of one millisecond apart.
const RUNNING_BITS: u32 = 20;

/// The least number of an event made at `at` or later: numbers sort as time does.
pub(super) fn first_number(at: UnixMs) -> i64 {
    at.0.clamp(0, 1 << 42) << RUNNING_BITS
}

/// Rows of events. `running` counts on and tells those of one millisecond apart.
pub(super) fn put_events<'a>(
    connection: &Connection,
    events: impl IntoIterator<Item = &'a UsageEvent>,
    directory: &Directory,
    running: &mut i64,
) -> Sql<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO usage_events (no, id, key_seq, request_id, request_method, request_path,
             request_size, response_status, response_size, response_time_ms, first_byte_ms, requests,
             prompt_tokens, completion_tokens, cached_tokens, cache_write_tokens, reasoning_tokens,
             total_tokens, model, pool, peer, is_error, error_code, error_message,
             total_error_message, total_cost_nano, estimated, end_user, client_disconnected, reason,
             metadata, created_at, requests_remaining)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
             ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33)",
    )?;
    for event in events {
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

fn event_number(at: UnixMs, running: i64) -> i64 {
    first_number(at) | (running & ((1 << RUNNING_BITS) - 1))
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
        event.requests_remaining,
    ])?;
    Ok(())
}

pub(super) fn event_of(row: &Row<'_>) -> Sql<UsageEvent> {
    let metadata: Option<String> = row.get("metadata")?;
    Ok(UsageEvent {
        id: uuid_of(row, "id")?,
        api_key_id: KeyId(uuid_of(row, "key_id")?),
        request_id: row.get("request_id")?,
        request_method: row.get("request_method")?,
        request_path: row.get("request_path")?,
        request_size: row.get("request_size")?,
        response_status: row.get("response_status")?,
        response_size: row.get("response_size")?,
        response_time_ms: row.get("response_time_ms")?,
        first_byte_ms: row.get("first_byte_ms")?,
        requests: row.get("requests")?,
        requests_remaining: row.get("requests_remaining")?,
        prompt_tokens: row.get("prompt_tokens")?,
        completion_tokens: row.get("completion_tokens")?,
        cached_tokens: row.get("cached_tokens")?,
        cache_write_tokens: row.get("cache_write_tokens")?,
        reasoning_tokens: row.get("reasoning_tokens")?,
        total_tokens: row.get("total_tokens")?,
        model: row.get("model")?,
        pool: row.get("pool")?,
        peer: row.get("peer")?,
        is_error: row.get("is_error")?,
        error_code: row.get("error_code")?,
        error_message: row.get("error_message")?,
        total_error_message: row.get("total_error_message")?,
        total_cost_nano: row.get("total_cost_nano")?,
        estimated: row.get("estimated")?,
        end_user: row.get("end_user")?,
        client_disconnected: row.get("client_disconnected")?,
        reason: row.get("reason")?,
        metadata: metadata.and_then(|text| serde_json::from_str(&text).ok()),
        created_at: UnixMs(row.get("created_at")?),
    })
}

pub(super) fn uuid_of(row: &Row<'_>, column: &str) -> Sql<Uuid> {
    let text: Option<String> = row.get(column)?;
    Ok(text
        .and_then(|text| Uuid::parse_str(&text).ok())
        .unwrap_or_default())
}

/// What the events add to the daily sums.
pub(super) fn add_sums(connection: &Connection, sums: &Sums<'_>, directory: &Directory) -> Sql<()> {
    let number = |key: KeyId| directory.key_number(key);
    let mut rollups = connection.prepare_cached(
        "INSERT INTO daily_rollups (day, key_seq, model, requests, tokens, prompt_tokens,
             completion_tokens, cost_nano, errors, response_time_ms, calls)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,
             tokens = tokens + excluded.tokens,
             prompt_tokens = prompt_tokens + excluded.prompt_tokens,
             completion_tokens = completion_tokens + excluded.completion_tokens,
             cost_nano = cost_nano + excluded.cost_nano,
             errors = errors + excluded.errors,
             response_time_ms = response_time_ms + excluded.response_time_ms,
             calls = calls + excluded.calls",
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
            sums.calls,
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
        "INSERT INTO event_counts (day, key_seq, events, charged) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET events = events + excluded.events,
             charged = charged + excluded.charged",
    )?;
    for ((day, key), counts) in &sums.rows {
        let day = day_text(*day);
        rows.execute(params![day, number(*key), counts.events, counts.charged])?;
    }
    Ok(())
}

/// `2026-11-21` for a day counted from the epoch.
pub(super) fn day_text(day: i64) -> String {
    UnixMs(day.saturating_mul(DAY_MS)).day()
}
