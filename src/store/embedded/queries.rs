//! What is read from disk: usage events, rollups, audit. And the pruning of old events.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::changes::transact;
use super::usage_rows::{day_text, event_of, first_number, uuid_of};
use crate::keys::KeyId;
use crate::store::span::Span;
use crate::store::{AuditEntry, Page, Rollup, StoreResult, UsageEvent, UsageQuery};
use crate::time::UnixMs;

type Sql<T> = rusqlite::Result<T>;

/// Events deleted in one transaction: short enough that no reserve waits for it.
const PRUNE_SLICE: i64 = 500;

/// Which events, in terms of the table.
struct Wanted {
    key_seq: Option<i64>,
    span: Span,
    charged_only: bool,
}

impl Wanted {
    /// `None` for a key that never was: it has no events.
    fn of(connection: &Connection, query: &UsageQuery) -> Sql<Option<Wanted>> {
        let Some(key_seq) = number_of(connection, query.key)? else {
            return Ok(None);
        };
        let since = query.since.unwrap_or(UnixMs(i64::MIN));
        let until = query.until.unwrap_or(UnixMs(i64::MAX));
        Ok(Some(Wanted {
            key_seq,
            span: Span::of(since, until),
            charged_only: query.charged_only,
        }))
    }

    /// All rows: whole days from their counts, the parts of days at both ends one by one.
    fn total(&self, connection: &Connection) -> Sql<i64> {
        let mut total = 0;
        if let Some((first, last)) = self.span.whole_days() {
            let column = if self.charged_only {
                "charged"
            } else {
                "events"
            };
            let sql = format!(
                "SELECT coalesce(sum({column}), 0) FROM event_counts
                 WHERE {} AND day >= ?2 AND day <= ?3",
                of_key(self.key_seq)
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let counted: i64 =
                statement.query_row(params![self.key_seq, first, last], |row| row.get(0))?;
            total += counted;
        }
        let sql = format!(
            "SELECT count(*) FROM usage_events WHERE {} AND no >= ?2 AND no < ?3{}",
            of_key(self.key_seq),
            self.filter()
        );
        for part in &self.span.parts {
            let mut statement = connection.prepare_cached(&sql)?;
            let (first, end) = (first_number(part.start), first_number(part.end));
            let counted: i64 =
                statement.query_row(params![self.key_seq, first, end], |row| row.get(0))?;
            total += counted;
        }
        Ok(total)
    }

    fn filter(&self) -> &'static str {
        if self.charged_only {
            " AND requests > 0"
        } else {
            ""
        }
    }
}

/// The condition on `key_seq` as the first parameter of a statement.
pub(super) fn of_key(key_seq: Option<i64>) -> &'static str {
    match key_seq {
        Some(_) => "key_seq = ?1",
        None => "?1 IS NULL",
    }
}

/// The number of a key, for `of_key`. `None` where a key is named that never was.
pub(super) fn number_of(connection: &Connection, key: Option<KeyId>) -> Sql<Option<Option<i64>>> {
    let Some(key) = key else {
        return Ok(Some(None));
    };
    let mut statement = connection.prepare_cached("SELECT seq FROM key_numbers WHERE id = ?1")?;
    let found = statement.query_row([key.0.to_string()], |row| row.get(0));
    Ok(found.optional()?.map(Some))
}

pub(super) fn usage_events(
    connection: &mut Connection,
    query: &UsageQuery,
) -> Sql<Page<UsageEvent>> {
    let snapshot = connection.transaction()?;
    let Some(wanted) = Wanted::of(&snapshot, query)? else {
        return Ok(Page {
            items: Vec::new(),
            total: 0,
        });
    };
    let sql = format!(
        "SELECT e.*, n.id AS key_id FROM usage_events e
         LEFT JOIN key_numbers n ON n.seq = e.key_seq
         WHERE {} AND no >= ?2 AND no < ?3{} ORDER BY no DESC LIMIT ?4 OFFSET ?5",
        of_key(wanted.key_seq),
        wanted.filter()
    );
    let mut statement = snapshot.prepare_cached(&sql)?;
    let rows = statement.query_map(
        params![
            wanted.key_seq,
            query.since.map_or(0, first_number),
            query.until.map_or(i64::MAX, first_number),
            query.limit.max(0),
            query.skip.max(0)
        ],
        event_of,
    )?;
    let items = rows.collect::<Sql<Vec<_>>>()?;
    let total = wanted.total(&snapshot)?;
    Ok(Page { items, total })
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
    let rows = statement.query_map(params![key, since_day, until_day], rollup_of)?;
    rows.collect()
}

pub(super) fn rollup_of(row: &Row<'_>) -> Sql<Rollup> {
    Ok(Rollup {
        day: row.get("day")?,
        key: KeyId(uuid_of(row, "key_id")?),
        model: row.get("model")?,
        calls: row.get("calls")?,
        requests: row.get("requests")?,
        tokens: row.get("tokens")?,
        prompt_tokens: row.get("prompt_tokens")?,
        completion_tokens: row.get("completion_tokens")?,
        cost_nano: row.get("cost_nano")?,
        errors: row.get("errors")?,
        response_time_ms: row.get("response_time_ms")?,
    })
}

pub(super) fn audit(connection: &mut Connection, skip: i64, limit: i64) -> Sql<Page<AuditEntry>> {
    let snapshot = connection.transaction()?;
    let mut statement = snapshot.prepare_cached(
        "SELECT at, who, what, subject, before, after FROM audit_log
         ORDER BY at DESC, no DESC LIMIT ?1 OFFSET ?2",
    )?;
    let rows = statement.query_map([limit.max(0), skip.max(0)], audit_of)?;
    let items = rows.collect::<Sql<Vec<_>>>()?;
    // Entries are never deleted: the last number is their count.
    let total = snapshot.query_row("SELECT coalesce(max(no), 0) FROM audit_log", [], |row| {
        row.get(0)
    })?;
    Ok(Page { items, total })
}

pub(super) fn audit_of(row: &Row<'_>) -> Sql<AuditEntry> {
    let parse = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok());
    Ok(AuditEntry {
        at: UnixMs(row.get("at")?),
        who: row.get("who")?,
        what: row.get("what")?,
        subject: row.get("subject")?,
        before: parse(row.get("before")?),
        after: parse(row.get("after")?),
    })
}

/// Deletes one slice of the oldest events made before `before`; answers how many.
pub(super) fn prune_slice(connection: &mut Connection, before: UnixMs) -> StoreResult<usize> {
    let end = first_number(before);
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
            "SELECT (no >> 20) / 86400000 AS day, key_seq, count(*), sum(requests > 0)
             FROM usage_events WHERE no <= ?1 GROUP BY 1, 2",
        )?;
        let mut lower = transaction.prepare_cached(
            "UPDATE event_counts SET events = events - ?3, charged = charged - ?4
             WHERE day = ?1 AND key_seq = ?2",
        )?;
        let mut rows = counted.query([last])?;
        while let Some(row) = rows.next()? {
            let [day, key_seq, events, charged] =
                [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?];
            lower.execute(params![day_text(day), key_seq, events, charged])?;
        }
        transaction.execute("DELETE FROM event_counts WHERE events <= 0", [])?;
        transaction.execute("DELETE FROM usage_events WHERE no <= ?1", [last])
    })
}
