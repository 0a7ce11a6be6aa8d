//! Changes an operator makes: written first, then applied in memory, both on the writer thread.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::rows::put_audit;
use super::state::Shared;
use crate::keys::{KeyHash, KeyId, KeyRecord};
use crate::quota::{GroupId, Scope};
use crate::store::{AuditEntry, GroupRecord, StoreError, StoreResult};

/// Runs `change` in a transaction of its own.
pub(super) fn transact<T>(
    connection: &mut Connection,
    change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> StoreResult<T> {
    let attempt = || -> rusqlite::Result<T> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let made = change(&transaction)?;
        transaction.commit()?;
        Ok(made)
    };
    attempt().map_err(|error| StoreError::Unavailable(error.to_string()))
}

pub(super) fn create_key(
    connection: &mut Connection,
    shared: &Shared,
    mut record: KeyRecord,
    audit: &AuditEntry,
) -> StoreResult<Arc<KeyRecord>> {
    {
        let directory = shared.directory.read();
        if directory.key_number(record.id) != 0 {
            return Err(StoreError::Conflict(String::from(
                "the key id exists already",
            )));
        }
    }
    check_secrets(shared, &record)?;
    let record = transact(connection, |transaction| {
        transaction.execute(
            "INSERT INTO key_numbers (id) VALUES (?1)",
            [record.id.0.to_string()],
        )?;
        record.seq = transaction.last_insert_rowid();
        record.version = 1;
        put_key(transaction, &record)?;
        put_audit(transaction, audit)?;
        Ok(Arc::new(record))
    })?;
    shared.directory.write().put_key(record.clone());
    Ok(record)
}

pub(super) fn update_key(
    connection: &mut Connection,
    shared: &Shared,
    mut record: KeyRecord,
    audit: &AuditEntry,
) -> StoreResult<Arc<KeyRecord>> {
    let present = shared.directory.read().key(record.id).cloned();
    let present = present.ok_or(StoreError::NotFound)?;
    if present.version != record.version {
        return Err(StoreError::Conflict(String::from(
            "the key was changed meanwhile: read it again",
        )));
    }
    check_secrets(shared, &record)?;
    record.seq = present.seq;
    record.version += 1;
    let record = Arc::new(record);
    transact(connection, |transaction| {
        put_key(transaction, &record)?;
        put_audit(transaction, audit)
    })?;
    shared.directory.write().put_key(record.clone());
    Ok(record)
}

pub(super) fn check_secrets(shared: &Shared, record: &KeyRecord) -> StoreResult<()> {
    let directory = shared.directory.read();
    let taken = |hash: &KeyHash| directory.owner_of(hash).is_some_and(|id| id != record.id);
    let previous = record.previous.as_ref().map(|previous| &previous.hash);
    if taken(&record.hash) || previous.is_some_and(taken) {
        return Err(StoreError::Conflict(String::from(
            "the secret exists already",
        )));
    }
    Ok(())
}

pub(super) fn put_key(connection: &Connection, record: &KeyRecord) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO keys (seq, id, hash, previous_hash, previous_valid_until, record)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    statement.execute(params![
        record.seq,
        record.id.0.to_string(),
        record.hash.0,
        record.previous.map(|previous| previous.hash.0),
        record.previous.map(|previous| previous.valid_until.0),
        json(record)?,
    ])?;
    Ok(())
}

pub(super) fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

pub(super) fn delete_key(
    connection: &mut Connection,
    shared: &Shared,
    id: KeyId,
    audit: &AuditEntry,
) -> StoreResult<()> {
    let present = shared.directory.read().key(id).cloned();
    let present = present.ok_or(StoreError::NotFound)?;
    transact(connection, |transaction| {
        transaction.execute("DELETE FROM keys WHERE seq = ?1", [present.seq])?;
        transaction.execute("DELETE FROM counters WHERE scope = ?1", [present.seq])?;
        put_audit(transaction, audit)
    })?;
    let mut directory = shared.directory.write();
    directory.remove_key(id);
    let mut state = shared.state.lock();
    state.ledger.forget(Scope::Key(id));
    state.activity.remove(&id);
    Ok(())
}

pub(super) fn put_group(
    connection: &mut Connection,
    shared: &Shared,
    mut record: GroupRecord,
    audit: &AuditEntry,
) -> StoreResult<Arc<GroupRecord>> {
    let present = shared.directory.read().group(record.id).cloned();
    record.version = present.map_or(1, |present| present.version + 1);
    let (seq, record) = transact(connection, |transaction| {
        let seq = put_group_row(transaction, &record)?;
        put_audit(transaction, audit)?;
        Ok((seq, Arc::new(record)))
    })?;
    shared.directory.write().put_group(seq, record.clone());
    Ok(record)
}

/// Answers the group's number.
pub(super) fn put_group_row(
    connection: &Connection,
    record: &GroupRecord,
) -> rusqlite::Result<i64> {
    connection.query_row(
        "INSERT INTO groups (id, record) VALUES (?1, ?2)
         ON CONFLICT (id) DO UPDATE SET record = excluded.record RETURNING seq",
        params![record.id.0.to_string(), json(record)?],
        |row| row.get(0),
    )
}

pub(super) fn delete_group(
    connection: &mut Connection,
    shared: &Shared,
    id: GroupId,
    audit: &AuditEntry,
) -> StoreResult<()> {
    let number = shared.directory.read().scope_number(Scope::Group(id));
    let number = number.ok_or(StoreError::NotFound)?;
    transact(connection, |transaction| {
        transaction.execute("DELETE FROM groups WHERE seq = ?1", [-number])?;
        transaction.execute("DELETE FROM counters WHERE scope = ?1", [number])?;
        put_audit(transaction, audit)
    })?;
    let mut directory = shared.directory.write();
    directory.remove_group(id);
    shared.state.lock().ledger.forget(Scope::Group(id));
    Ok(())
}

/// What is stored under the name, which is `value` only where nothing was.
pub(super) fn setting_or_insert(
    connection: &mut Connection,
    name: &str,
    value: &str,
) -> StoreResult<String> {
    transact(connection, |transaction| {
        let stored = transaction
            .query_row(
                "SELECT value FROM settings WHERE name = ?1",
                [name],
                |row| row.get(0),
            )
            .optional()?;
        if let Some(stored) = stored {
            return Ok(stored);
        }
        transaction.execute("INSERT INTO settings VALUES (?1, ?2)", [name, value])?;
        Ok(value.to_owned())
    })
}
