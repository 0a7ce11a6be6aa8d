//! Changes to users and sessions: written first, then applied in memory, both on the writer thread.

use std::sync::Arc;

use rusqlite::{Connection, params};
use uuid::Uuid;

use super::changes::{json, transact};
use super::rows::put_audit;
use super::state::Shared;
use crate::store::{AuditEntry, StoreError, StoreResult, UserRecord};
use crate::time::UnixMs;

pub(super) fn create(
    connection: &mut Connection,
    shared: &Shared,
    mut record: UserRecord,
    audit: &AuditEntry,
) -> StoreResult<Arc<UserRecord>> {
    if shared.directory.read().people.user(record.id).is_some() {
        return Err(StoreError::Conflict(String::from(
            "the user id exists already",
        )));
    }
    check_logins(shared, &record)?;
    record.version = 1;
    put_and_apply(connection, shared, record, audit)
}

pub(super) fn update(
    connection: &mut Connection,
    shared: &Shared,
    mut record: UserRecord,
    audit: &AuditEntry,
) -> StoreResult<Arc<UserRecord>> {
    let present = shared.directory.read().people.user(record.id).cloned();
    let present = present.ok_or(StoreError::NotFound)?;
    if present.version != record.version {
        return Err(StoreError::Conflict(String::from(
            "the user was changed meanwhile: read it again",
        )));
    }
    check_logins(shared, &record)?;
    record.version += 1;
    put_and_apply(connection, shared, record, audit)
}

pub(super) fn check_logins(shared: &Shared, record: &UserRecord) -> StoreResult<()> {
    match shared.directory.read().people.taken(record) {
        None => Ok(()),
        Some(login) => Err(StoreError::Conflict(format!("{login} is taken already"))),
    }
}

fn put_and_apply(
    connection: &mut Connection,
    shared: &Shared,
    record: UserRecord,
    audit: &AuditEntry,
) -> StoreResult<Arc<UserRecord>> {
    let record = Arc::new(record);
    let seq = transact(connection, |transaction| {
        let seq = put(transaction, &record)?;
        put_audit(transaction, audit)?;
        Ok(seq)
    })?;
    let mut directory = shared.directory.write();
    directory.people.put(seq, record.clone());
    Ok(record)
}

/// Writes the row; answers its number.
pub(super) fn put(connection: &Connection, record: &UserRecord) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO users (id, name_lower, email_lower, password_hash, record)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (id) DO UPDATE SET name_lower = excluded.name_lower,
             email_lower = excluded.email_lower, password_hash = excluded.password_hash,
             record = excluded.record
         RETURNING seq",
    )?;
    let [name, email] = record.logins();
    let id = record.id.to_string();
    let row = params![id, name, email, record.password_hash, json(record)?];
    statement.query_row(row, |row| row.get(0))
}

pub(super) fn delete(
    connection: &mut Connection,
    shared: &Shared,
    id: Uuid,
    audit: &AuditEntry,
) -> StoreResult<()> {
    let number = shared.directory.read().people.number(id);
    let number = number.ok_or(StoreError::NotFound)?;
    transact(connection, |transaction| {
        transaction.execute("DELETE FROM users WHERE seq = ?1", [number])?;
        put_audit(transaction, audit)
    })?;
    shared.directory.write().people.remove(id);
    Ok(())
}

pub(super) fn end_session(
    connection: &mut Connection,
    shared: &Shared,
    id: Uuid,
    over_at: UnixMs,
) -> StoreResult<()> {
    let now = shared.now().wall;
    transact(connection, |transaction| {
        transaction.execute("DELETE FROM ended_sessions WHERE over_at <= ?1", [now.0])?;
        transaction.execute(
            "INSERT OR REPLACE INTO ended_sessions (id, over_at) VALUES (?1, ?2)",
            params![id.to_string(), over_at.0],
        )
    })?;
    let mut directory = shared.directory.write();
    directory.people.end_session(id, over_at, now);
    Ok(())
}
