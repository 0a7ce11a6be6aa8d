//! What is read from disk: usage events, rollups, audit. And the pruning of old events.

use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::changes::transact;
use super::rows::{RUNNING_BITS, day_text};
use crate::keys::KeyId;
use crate::store::{AuditEntry, Page, Rollup, StoreResult, UsageEvent, UsageQuery};
use crate::time::{DAY_MS, UnixMs};

type Sql<T> = rusqlite::Result<T>;

/// Events deleted in one transaction: short enough that no reserve waits for it.
const PRUNE_SLICE: i64 = 500;

/// Which events, in terms of the table: numbers from `first` to before `end`.
struct Range {
    key_seq: Option<i64>,
    first: i64,
    end: i64,
}

impl Range {
    /// `None` for a key that never was: it has no events.
    fn of(connection: &Connection, query: &UsageQuery) -> Sql<Option<Range>> {
        let key_seq = match query.key {
            None => None,
            Some(key) => match number_of(connection, key)? {
                None => return Ok(None),
                seq => seq,
            },
        };
        let number = |at: UnixMs| at.0.clamp(0, 1 << 42) << RUNNING_BITS;
        Ok(Some(Range {
            key_seq,
            first: query.since.map_or(0, number),
            end: query.until.map_or(i64::MAX, number),
        }))
    }

    /// Rows counted one by one: for parts of a day only.
    fn count(&self, connection: &Connection, first: i64, end: i64) -> Sql<i64> {
        let sql = match self.key_seq {
            Some(_) => {
                "SELECT count(*) FROM usage_events WHERE key_seq = ?1 AND no >= ?2 AND no < ?3"
            }
            None => "SELECT count(*) FROM usage_events WHERE ?1 IS NULL AND no >= ?2 AND no < ?3",
        };
        let mut statement = connection.prepare_cached(sql)?;
        statement.query_row(params![self.key_seq, first, end], |row| row.get(0))
    }

    /// All rows: whole days from their counts, the parts of days at both ends by themselves.
    fn total(&self, connection: &Connection) -> Sql<i64> {
        let day_of = |no: i64| (no >> RUNNING_BITS).div_euclid(DAY_MS);
        let start_of = |day: i64| (day * DAY_MS) << RUNNING_BITS;
        let last_whole_end = day_of(self.end.min(1 << 62));
        let mut first_whole = day_of(self.first);
        if start_of(first_whole) < self.first {
            first_whole += 1;
        }
        if self.end < i64::MAX && first_whole >= last_whole_end {
            return self.count(connection, self.first, self.end);
        }
        let mut total = self.whole_days(connection, first_whole, last_whole_end)?;
        if start_of(first_whole) > self.first {
            total += self.count(connection, self.first, start_of(first_whole))?;
        }
        if self.end < i64::MAX {
            total += self.count(connection, start_of(last_whole_end), self.end)?;
        }
        Ok(total)
    }

    fn whole_days(&self, connection: &Connection, first: i64, end: i64) -> Sql<i64> {
        let sql = match self.key_seq {
            Some(_) => {
                "SELECT coalesce(sum(events), 0) FROM event_counts
                 WHERE key_seq = ?1 AND day >= ?2 AND day < ?3"
            }
            None => {
                "SELECT coalesce(sum(events), 0) FROM event_counts
                 WHERE ?1 IS NULL AND day >= ?2 AND day < ?3"
            }
        };
        let end = if self.end == i64::MAX {
            String::from("9999-99-99")
        } else {
            day_text(end)
        };
        let mut statement = connection.prepare_cached(sql)?;
        statement.query_row(params![self.key_seq, day_text(first), end], |row| {
            row.get(0)
        })
    }
}

fn number_of(connection: &Connection, key: KeyId) -> Sql<Option<i64>> {
    use rusqlite::OptionalExtension as _;
    let mut statement = connection.prepare_cached("SELECT seq FROM key_numbers WHERE id = ?1")?;
    statement
        .query_row([key.0.to_string()], |row| row.get(0))
        .optional()
}

pub(super) fn usage_events(
    connection: &mut Connection,
    query: &UsageQuery,
) -> Sql<Page<UsageEvent>> {
    let snapshot = connection.transaction()?;
    let Some(range) = Range::of(&snapshot, query)? else {
        return Ok(Page {
            items: Vec::new(),
            total: 0,
        });
    };
    let filter = match range.key_seq {
        Some(_) => "key_seq = ?1",
        None => "?1 IS NULL",
    };
    let sql = format!(
        "SELECT e.*, n.id AS key_id FROM usage_events e
         LEFT JOIN key_numbers n ON n.seq = e.key_seq
         WHERE {filter} AND no >= ?2 AND no < ?3 ORDER BY no DESC LIMIT ?4 OFFSET ?5"
    );
    let mut statement = snapshot.prepare_cached(&sql)?;
    let rows = statement.query_map(
        params![
            range.key_seq,
            range.first,
            range.end,
            query.limit.max(0),
            query.skip.max(0)
        ],
        event_of,
    )?;
    let items = rows.collect::<Sql<Vec<_>>>()?;
    let total = range.total(&snapshot)?;
    Ok(Page { items, total })
}

fn event_of(row: &Row<'_>) -> Sql<UsageEvent> {
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
        requests_remaining: None,
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

fn uuid_of(row: &Row<'_>, column: &str) -> Sql<Uuid> {
    let text: Option<String> = row.get(column)?;
    Ok(text
        .and_then(|text| Uuid::parse_str(&text).ok())
        .unwrap_or_default())
}

pub(super) fn rollups(
    connection: &mut Connection,
    key: Option<KeyId>,
    since_day: &str,
    until_day: &str,
) -> Sql<Vec<Rollup>> {
    let filter = if key.is_some() {
        "n.id = ?1"
    } else {
        "?1 IS NULL"
    };
    let sql = format!(
        "SELECT r.*, n.id AS key_id FROM daily_rollups r JOIN key_numbers n ON n.seq = r.key_seq
         WHERE {filter} AND r.day >= ?2 AND r.day <= ?3 ORDER BY r.day, r.key_seq, r.model"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let key = key.map(|key| key.0.to_string());
    let rows = statement.query_map(params![key, since_day, until_day], |row| {
        Ok(Rollup {
            day: row.get("day")?,
            key: KeyId(uuid_of(row, "key_id")?),
            model: row.get("model")?,
            calls: 0,
            requests: row.get("requests")?,
            tokens: row.get("tokens")?,
            prompt_tokens: row.get("prompt_tokens")?,
            completion_tokens: row.get("completion_tokens")?,
            cost_nano: row.get("cost_nano")?,
            errors: row.get("errors")?,
            response_time_ms: row.get("response_time_ms")?,
        })
    })?;
    rows.collect()
}

pub(super) fn error_counts(
    connection: &mut Connection,
    key: Option<KeyId>,
    since_day: &str,
    until_day: &str,
) -> Sql<Vec<(String, i64)>> {
    let filter = if key.is_some() {
        "n.id = ?1"
    } else {
        "?1 IS NULL"
    };
    let sql = format!(
        "SELECT e.code, sum(e.errors) AS errors FROM daily_errors e
         JOIN key_numbers n ON n.seq = e.key_seq
         WHERE {filter} AND e.day >= ?2 AND e.day <= ?3 GROUP BY e.code ORDER BY errors DESC, e.code"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let key = key.map(|key| key.0.to_string());
    let rows = statement.query_map(params![key, since_day, until_day], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })?;
    rows.collect()
}

pub(super) fn audit(connection: &mut Connection, skip: i64, limit: i64) -> Sql<Page<AuditEntry>> {
    let snapshot = connection.transaction()?;
    let mut statement = snapshot.prepare_cached(
        "SELECT at, who, what, subject, before, after FROM audit_log
         ORDER BY no DESC LIMIT ?1 OFFSET ?2",
    )?;
    let parse = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok());
    let rows = statement.query_map([limit.max(0), skip.max(0)], |row| {
        Ok(AuditEntry {
            at: UnixMs(row.get(0)?),
            who: row.get(1)?,
            what: row.get(2)?,
            subject: row.get(3)?,
            before: parse(row.get(4)?),
            after: parse(row.get(5)?),
        })
    })?;
    let items = rows.collect::<Sql<Vec<_>>>()?;
    // Entries are never deleted: the last number is their count.
    let total = snapshot.query_row("SELECT coalesce(max(no), 0) FROM audit_log", [], |row| {
        row.get(0)
    })?;
    Ok(Page { items, total })
}

/// Deletes one slice of the oldest events made before `before`; answers how many.
pub(super) fn prune_slice(connection: &mut Connection, before: UnixMs) -> StoreResult<usize> {
    let end = before.0.clamp(0, 1 << 42) << RUNNING_BITS;
    transact(connection, |transaction| {
        let last: Option<i64> = transaction.query_row(
            "SELECT max(no) FROM (SELECT no FROM usage_events WHERE no < ?1 ORDER BY no LIMIT ?2)",
            [end, PRUNE_SLICE],
            |row| row.get(0),
        )?;
        let Some(last) = last else {
            return Ok(0);
        };
        let mut counted = transaction.prepare_cached(
            "SELECT (no >> 20) / 86400000 AS day, key_seq, count(*) FROM usage_events
             WHERE no <= ?1 GROUP BY 1, 2",
        )?;
        let mut lower = transaction.prepare_cached(
            "UPDATE event_counts SET events = events - ?3 WHERE day = ?1 AND key_seq = ?2",
        )?;
        let mut rows = counted.query([last])?;
        while let Some(row) = rows.next()? {
            let (day, key_seq, count): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            lower.execute(params![day_text(day), key_seq, count])?;
        }
        transaction.execute("DELETE FROM event_counts WHERE events <= 0", [])?;
        transaction.execute("DELETE FROM usage_events WHERE no <= ?1", [last])
    })
}
