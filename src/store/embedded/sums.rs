//! Sums of usage: whole days from the rollups, what is left of the span from the events.

use rusqlite::{Connection, Row, params};

use super::queries::{number_of, of_key};
use super::usage_rows::first_number;
use crate::store::span::Span;
use crate::store::usage::SumsByName;
use crate::store::{SumBy, SumQuery, UsageSum};
use crate::time::UnixMs;

type Sql<T> = rusqlite::Result<T>;

const OF_ROLLUPS: &str = "sum(calls), sum(requests), sum(tokens), sum(prompt_tokens),
    sum(completion_tokens), sum(cost_nano), sum(errors), sum(response_time_ms)";
const OF_EVENTS: &str = "count(*), sum(requests), sum(total_tokens), sum(prompt_tokens),
    sum(completion_tokens), sum(total_cost_nano), sum(is_error), sum(response_time_ms)";
const OF_ERRORS: &str = "sum(errors), 0, 0, 0, 0, 0, sum(errors), 0";
const OF_FAILED_EVENTS: &str = "count(*), 0, 0, 0, 0, 0, count(*), 0";
const KEY_NAME: &str = "(SELECT id FROM key_numbers WHERE seq = key_seq)";

pub(super) fn usage_sums(connection: &mut Connection, query: &SumQuery) -> Sql<Vec<UsageSum>> {
    let snapshot = connection.transaction()?;
    let Some(key_seq) = number_of(&snapshot, query.key)? else {
        return Ok(Vec::new());
    };
    let by = query.by;
    let span = Span::of(query.since, query.until);
    let mut sums = SumsByName::default();
    let parts = match by {
        // Nothing but events names the end user.
        SumBy::EndUser => &[query.since..query.until][..],
        _ => {
            add_days(&snapshot, key_seq, by, &span, &mut sums)?;
            &span.parts
        }
    };
    for part in parts {
        add_events(&snapshot, key_seq, by, part.start, part.end, &mut sums)?;
    }
    Ok(sums.into_sorted(by))
}

fn add_days(
    connection: &Connection,
    key_seq: Option<i64>,
    by: SumBy,
    span: &Span,
    sums: &mut SumsByName,
) -> Sql<()> {
    let Some((first, last)) = span.whole_days() else {
        return Ok(());
    };
    let (table, figures, group, name) = match by {
        SumBy::Key => ("daily_rollups", OF_ROLLUPS, "key_seq", KEY_NAME),
        SumBy::Model => ("daily_rollups", OF_ROLLUPS, "model", "model"),
        SumBy::Day | SumBy::EndUser => ("daily_rollups", OF_ROLLUPS, "day", "day"),
        SumBy::ErrorCode => ("daily_errors", OF_ERRORS, "code", "code"),
    };
    let sql = format!(
        "SELECT {name}, {figures} FROM {table}
         WHERE {} AND day >= ?2 AND day <= ?3 GROUP BY {group}",
        of_key(key_seq)
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![key_seq, first, last])?;
    while let Some(row) = rows.next()? {
        sums.add(sum_of(row)?);
    }
    Ok(())
}

fn add_events(
    connection: &Connection,
    key_seq: Option<i64>,
    by: SumBy,
    since: UnixMs,
    until: UnixMs,
    sums: &mut SumsByName,
) -> Sql<()> {
    let (figures, group, name, filter) = match by {
        SumBy::Key => (OF_EVENTS, "key_seq", KEY_NAME, ""),
        SumBy::Model => (OF_EVENTS, "model", "model", ""),
        // A part lies within one day.
        SumBy::Day => (OF_EVENTS, "?4", "?4", ""),
        SumBy::EndUser => (OF_EVENTS, "end_user", "end_user", ""),
        SumBy::ErrorCode => (
            OF_FAILED_EVENTS,
            "error_code",
            "coalesce(error_code, 'unknown')",
            " AND is_error",
        ),
    };
    let sql = format!(
        "SELECT {name}, {figures} FROM usage_events
         WHERE {} AND no >= ?2 AND no < ?3 AND ?4 IS NOT NULL{filter} GROUP BY {group}",
        of_key(key_seq)
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let (first, end) = (first_number(since), first_number(until));
    let mut rows = statement.query(params![key_seq, first, end, since.day()])?;
    while let Some(row) = rows.next()? {
        sums.add(sum_of(row)?);
    }
    Ok(())
}

fn sum_of(row: &Row<'_>) -> Sql<UsageSum> {
    Ok(UsageSum {
        name: row.get::<_, Option<String>>(0)?.unwrap_or_default(),
        calls: row.get(1)?,
        requests: row.get(2)?,
        tokens: row.get(3)?,
        prompt_tokens: row.get(4)?,
        completion_tokens: row.get(5)?,
        cost_nano: row.get(6)?,
        errors: row.get(7)?,
        response_time_ms: row.get(8)?,
    })
}
