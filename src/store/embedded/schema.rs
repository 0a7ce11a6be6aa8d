//! The schema and its history: each migration is run once, in order, in one transaction.

use rusqlite::{Connection, TransactionBehavior};

use crate::store::file::fault;
use crate::store::{StoreError, StoreResult};

/// `PRAGMA user_version` counts how many of these a file has seen. Never change one that was
/// released: add the next.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/1_books.sql"),
    include_str!("schema/2_window_numbers.sql"),
    include_str!("schema/3_users_and_sums.sql"),
];

/// The version of the present schema.
pub const VERSION: usize = MIGRATIONS.len();

/// Brings a file to the present schema.
///
/// # Errors
/// `Fault` for a file of a newer version, or where SQLite refuses.
pub(super) fn migrate(connection: &mut Connection) -> StoreResult<()> {
    let seen = version(connection)?;
    for (at, migration) in MIGRATIONS.iter().enumerate().skip(seen) {
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fault)?;
        transaction.execute_batch(migration).map_err(fault)?;
        transaction
            .pragma_update(
                None,
                "user_version",
                i64::try_from(at + 1).unwrap_or(i64::MAX),
            )
            .map_err(fault)?;
        transaction.commit().map_err(fault)?;
    }
    Ok(())
}

/// Checks that a file which is only read has the present schema.
///
/// # Errors
/// `Fault` for a file of another version, or where SQLite refuses.
pub(super) fn require_present(connection: &Connection) -> StoreResult<()> {
    let seen = version(connection)?;
    if seen < MIGRATIONS.len() {
        return Err(StoreError::Fault(format!(
            "the file has schema version {seen}, this program reads {}: start it on the file once",
            MIGRATIONS.len()
        )));
    }
    Ok(())
}

fn version(connection: &Connection) -> StoreResult<usize> {
    let seen: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(fault)?;
    let seen = usize::try_from(seen).unwrap_or(usize::MAX);
    if seen > MIGRATIONS.len() {
        return Err(StoreError::Fault(format!(
            "the file has schema version {seen}, this program knows up to {}: use the newer program",
            MIGRATIONS.len()
        )));
    }
    Ok(seen)
}
