//! Taking in a backup, a chunk of records at a time: first what has a name (settings, groups, users,
//! keys), then the figures. What is there already is replaced, so that a repeated import changes
//! nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::EmbeddedStore;
use super::changes::{check_secrets, put_group_row, put_key, transact};
use super::directory::Directory;
use super::rows::{self, CountersRow};
use super::state::{Shared, State};
use super::usage_rows::{add_sums, first_number, put_events};
use super::users;
use super::writer::counters_row;
use crate::keys::{KeyId, KeyRecord};
use crate::quota::Scope;
use crate::quota::counters::Count;
use crate::store::backup::{check_version, key_of_backup};
use crate::store::usage_log::Sums;
use crate::store::{
    AuditEntry, GroupRecord, Record, Rollup, StoreError, StoreResult, UsageEvent, UserRecord,
};

type Sql<T> = rusqlite::Result<T>;

/// How often a chunk is tried that settlements come in between of.
const TRIES: usize = 100;

impl EmbeddedStore {
    pub(super) async fn restore(&self, records: Vec<Record>) -> StoreResult<()> {
        let records = Arc::new(records);
        for _ in 0..TRIES {
            self.shared.flush().await?;
            let chunk = records.clone();
            let job = move |connection: &mut _, shared: &_| {
                put_names(connection, shared, &chunk)?;
                put_figures(connection, shared, &chunk)
            };
            if self.shared.on_writer(job).await? {
                return Ok(());
            }
        }
        Err(StoreError::Unavailable(String::from(
            "exchanges settle all the time: import into a store that serves nobody",
        )))
    }
}

/// What a chunk names, with the numbers it has in this file.
#[derive(Default)]
struct Names {
    keys: Vec<Arc<KeyRecord>>,
    /// Keys that only their usage tells of.
    former: Vec<(KeyId, i64)>,
    groups: Vec<(i64, Arc<GroupRecord>)>,
    users: Vec<(i64, Arc<UserRecord>)>,
}

fn put_names(connection: &mut Connection, shared: &Shared, records: &[Record]) -> StoreResult<()> {
    let (keys, users) = checked(shared, records)?;
    let names = transact(connection, |transaction| {
        let mut names = Names::default();
        for record in records {
            match record {
                Record::Backup { last_key_seq, .. } => keep_numbers(transaction, *last_key_seq)?,
                Record::Setting { name, value } => {
                    let row = [name, value];
                    transaction.execute("INSERT OR REPLACE INTO settings VALUES (?1, ?2)", row)?;
                }
                Record::Group { record } => {
                    let number = put_group_row(transaction, record)?;
                    names.groups.push((number, Arc::new(record.clone())));
                }
                _ => {}
            }
        }
        for mut record in keys {
            record.seq = number_for(transaction, record.id, record.seq)?;
            put_key(transaction, &record)?;
            names.keys.push(Arc::new(record));
        }
        for record in users {
            names
                .users
                .push((users::put(transaction, &record)?, Arc::new(record)));
        }
        for key in keys_of_usage(records) {
            names.former.push((key, number_for(transaction, key, 0)?));
        }
        Ok(names)
    })?;
    let mut directory = shared.directory.write();
    for record in names.keys {
        directory.put_key(record);
    }
    for (key, number) in names.former {
        if directory.key(key).is_none() {
            directory.put_former_key(key, number);
        }
    }
    for (number, record) in names.groups {
        directory.put_group(number, record);
    }
    for (number, record) in names.users {
        directory.people.put(number, record);
    }
    Ok(())
}

/// The keys and users of a chunk, if nobody else has their secrets, names or addresses.
fn checked(shared: &Shared, records: &[Record]) -> StoreResult<(Vec<KeyRecord>, Vec<UserRecord>)> {
    let (mut keys, mut people) = (Vec::new(), Vec::new());
    let (mut secrets, mut logins) = (HashMap::new(), HashMap::new());
    let twice = || {
        StoreError::Conflict(String::from(
            "two records of a backup share a secret or login",
        ))
    };
    for record in records {
        match record {
            Record::Backup { version, .. } => check_version(*version)?,
            Record::Key {
                record,
                hash,
                previous,
                ..
            } => {
                let key = key_of_backup(record, hash, previous.as_ref())?;
                check_secrets(shared, &key)?;
                if *secrets.entry(key.hash).or_insert(key.id) != key.id {
                    return Err(twice());
                }
                keys.push(key);
            }
            Record::User {
                record,
                password_hash,
            } => {
                let mut user = record.clone();
                user.password_hash.clone_from(password_hash);
                users::check_logins(shared, &user)?;
                for login in user.logins() {
                    if *logins.entry(login).or_insert(user.id) != user.id {
                        return Err(twice());
                    }
                }
                people.push(user);
            }
            _ => {}
        }
    }
    Ok((keys, people))
}

/// The keys whose usage a chunk tells of, each once.
fn keys_of_usage(records: &[Record]) -> Vec<KeyId> {
    let mut seen = HashSet::new();
    let named = records.iter().filter_map(|record| match record {
        Record::Rollup { rollup } => Some(rollup.key),
        Record::ErrorCount { key, .. } => Some(*key),
        Record::Event { event } => Some(event.api_key_id),
        _ => None,
    });
    named.filter(|key| seen.insert(*key)).collect()
}

/// No number up to this one is given to a new key.
fn keep_numbers(connection: &Connection, last: i64) -> Sql<()> {
    let sql = "UPDATE sqlite_sequence SET seq = max(seq, ?1) WHERE name = 'key_numbers'";
    if connection.execute(sql, [last])? == 0 {
        let sql = "INSERT INTO sqlite_sequence (name, seq) VALUES ('key_numbers', ?1)";
        connection.execute(sql, [last])?;
    }
    Ok(())
}

/// The number of a key: the one it has here, else the one it had, else a new one.
fn number_for(connection: &Connection, key: KeyId, had: i64) -> Sql<i64> {
    let id = key.0.to_string();
    let mut known = connection.prepare_cached("SELECT seq FROM key_numbers WHERE id = ?1")?;
    if let Some(number) = known.query_row([&id], |row| row.get(0)).optional()? {
        return Ok(number);
    }
    let insert = "INSERT OR IGNORE INTO key_numbers (seq, id) VALUES (?1, ?2)";
    let wanted = (had > 0).then_some(had);
    if connection
        .prepare_cached(insert)?
        .execute(params![wanted, id])?
        == 0
    {
        connection.execute("INSERT INTO key_numbers (id) VALUES (?1)", [id])?;
    }
    Ok(connection.last_insert_rowid())
}

/// False where settlements wait to be written, which these figures would be mixed with: try again.
/// Holds the lock of the counters until they are on disk and in memory.
fn put_figures(
    connection: &mut Connection,
    shared: &Shared,
    records: &[Record],
) -> StoreResult<bool> {
    let directory = shared.directory.read();
    let mut state = shared.state.lock();
    state.check_open()?;
    if !state.pending.settled.events.is_empty() || state.backlog > 0 {
        return Ok(false);
    }
    let counters = counters_of(&state, &directory, records)?;
    transact(connection, |transaction| {
        let rows: Vec<CountersRow> = counters.values().copied().collect();
        rows::put_counters(transaction, &rows, shared.now())?;
        let mut sums = Sums::default();
        for record in records {
            match record {
                Record::Rollup { rollup } => put_rollup(transaction, &directory, rollup)?,
                Record::ErrorCount {
                    day,
                    key,
                    code,
                    errors,
                } => {
                    let number = directory.key_number(*key);
                    transaction
                        .prepare_cached(
                            "INSERT OR REPLACE INTO daily_errors VALUES (?1, ?2, ?3, ?4)",
                        )?
                        .execute(params![day, number, code, errors])?;
                }
                Record::Event { event } => {
                    if let Some(mut running) = running_before(transaction, event)? {
                        put_events(transaction, [&**event], &directory, &mut running)?;
                        sums.count_row(event);
                    }
                }
                Record::Audit { entry } => put_audit_once(transaction, entry)?,
                _ => {}
            }
        }
        add_sums(transaction, &sums, &directory)
    })?;
    for (scope, row) in counters {
        state.ledger.restore_counters(scope, row.counters);
        if let Scope::Key(id) = scope {
            state.activity.insert(id, row.activity);
        }
    }
    Ok(true)
}

/// The counters that a chunk tells of, as they shall be.
fn counters_of(
    state: &State,
    directory: &Directory,
    records: &[Record],
) -> StoreResult<HashMap<Scope, CountersRow>> {
    let mut told = HashMap::new();
    let present = |scope| {
        let nameless = || StoreError::Fault(format!("counters of nobody: {scope:?}"));
        counters_row(state, directory, scope).ok_or_else(nameless)
    };
    for record in records {
        let scope = match record {
            Record::Key { record, .. } => Scope::Key(record.id),
            Record::Counters { scope, .. } => *scope,
            _ => continue,
        };
        let row = match told.entry(scope) {
            std::collections::hash_map::Entry::Occupied(row) => row.into_mut(),
            std::collections::hash_map::Entry::Vacant(free) => free.insert(present(scope)?),
        };
        match record {
            Record::Key { activity, .. } => row.activity = *activity,
            Record::Counters { counts, .. } => set_counts(row, counts),
            _ => {}
        }
    }
    Ok(told)
}

/// What is held here stays, in the window it was taken from.
fn set_counts(row: &mut CountersRow, counts: &[Count; 3]) {
    let running = row.counters.running > 0 || row.counters.counts.iter().any(|c| c.held != 0);
    for (count, told) in row.counters.counts.iter_mut().zip(counts) {
        let present = *count;
        *count = *told;
        count.held = present.held;
        if running {
            count.number = present.number;
        }
    }
}

fn put_rollup(connection: &Connection, directory: &Directory, rollup: &Rollup) -> Sql<()> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO daily_rollups (day, key_seq, model, requests, tokens, prompt_tokens,
             completion_tokens, cost_nano, errors, response_time_ms, calls)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    statement.execute(params![
        rollup.day,
        directory.key_number(rollup.key),
        rollup.model,
        rollup.requests,
        rollup.tokens,
        rollup.prompt_tokens,
        rollup.completion_tokens,
        rollup.cost_nano,
        rollup.errors,
        rollup.response_time_ms,
        rollup.calls,
    ])?;
    Ok(())
}

/// The running number of the last event of this millisecond, so that the next one keeps its place;
/// `None` where the event itself is there already.
fn running_before(connection: &Connection, event: &UsageEvent) -> Sql<Option<i64>> {
    let at = event.created_at;
    let (first, end) = (first_number(at), first_number(at.plus_ms(1)));
    let mut statement = connection.prepare_cached(
        "SELECT max(no), max(id = ?3) FROM usage_events WHERE no >= ?1 AND no < ?2",
    )?;
    statement.query_row(params![first, end, event.id.to_string()], |row| {
        let (last, there): (Option<i64>, Option<bool>) = (row.get(0)?, row.get(1)?);
        Ok((there != Some(true)).then(|| last.map_or(-1, |last| last - first)))
    })
}

fn put_audit_once(connection: &Connection, entry: &AuditEntry) -> Sql<()> {
    let text = |value: &Option<serde_json::Value>| value.as_ref().map(ToString::to_string);
    let mut there = connection.prepare_cached(
        "SELECT 1 FROM audit_log WHERE at = ?1 AND who = ?2 AND what = ?3 AND subject = ?4
             AND before IS ?5 AND after IS ?6",
    )?;
    let (before, after) = (text(&entry.before), text(&entry.after));
    let row = params![
        entry.at.0,
        entry.who,
        entry.what,
        entry.subject,
        before,
        after
    ];
    match there.exists(row)? {
        true => Ok(()),
        false => rows::put_audit(connection, entry),
    }
}
