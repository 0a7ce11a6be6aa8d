//! What was served while Redis was away, on this machine's disk until it is back.
//!
//! An exchange is written before it goes upstream, and its settlement when it ends, so that a kill -9
//! of the edge loses neither. One SQLite file, owned by one process.

use std::path::Path;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::names::Home;
use crate::quota::{Amounts, ReservationId, ScopeClaim, Subject};
use crate::store::file::{self, fault};
use crate::store::{StoreError, StoreResult, UsageEvent};
use crate::time::UnixMs;

/// Exchanges that may wait for Redis; beyond, new ones are refused.
const MOST_WAITING: i64 = 1_000_000;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS exchanges (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    -- Which process admitted it: one that is gone settles nothing any more.
    process TEXT NOT NULL,
    admitted TEXT NOT NULL,
    -- NULL while it runs.
    settled TEXT
)";

/// An exchange as it began.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Admitted {
    pub home: Home,
    pub claims: Vec<ScopeClaim>,
    pub held: Amounts,
    pub opened_at: UnixMs,
    pub subject: Subject,
}

/// What it came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Settlement {
    pub charged: Amounts,
    pub event: UsageEvent,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<UsageEvent>,
}

/// An exchange that has ended.
#[derive(Debug)]
pub(super) struct Entry {
    /// Counts up.
    pub no: i64,
    pub id: ReservationId,
    pub admitted: Admitted,
    /// `None`: its process died before it ended.
    pub settled: Option<Settlement>,
}

/// The journal of one process.
#[derive(Debug)]
pub(super) struct Journal {
    connection: Mutex<Connection>,
    process: String,
    _ownership: file::Ownership,
}

impl Journal {
    /// Opens the file, creating it (0600) where there is none. Waits up to `patience` for another
    /// process to let go of it.
    ///
    /// # Errors
    /// `Unavailable` where another process owns it, `Fault` where the file system refuses.
    pub fn open(path: &Path, patience: Duration) -> StoreResult<Journal> {
        let ownership = file::own(path, patience)?;
        let connection = file::connect_writer(path, false)?;
        let prepare = || {
            connection.pragma_update(None, "wal_autocheckpoint", 1_000)?;
            connection.execute_batch(SCHEMA)
        };
        prepare().map_err(fault)?;
        Ok(Journal {
            connection: Mutex::new(connection),
            process: Uuid::new_v4().simple().to_string(),
            _ownership: ownership,
        })
    }

    /// An exchange is admitted without Redis. It is on disk when this returns.
    ///
    /// # Errors
    /// `Unavailable` where the journal is full or the disk refuses.
    pub fn admit(&self, id: ReservationId, admitted: &Admitted) -> StoreResult<()> {
        let text = json(admitted)?;
        let connection = self.connection.lock();
        let write = || {
            let newest = connection
                .prepare_cached("SELECT coalesce(max(no) - min(no), 0) FROM exchanges")?
                .query_row([], |row| row.get::<_, i64>(0))?;
            if newest >= MOST_WAITING {
                return Ok(false);
            }
            connection
                .prepare_cached(
                    "INSERT OR IGNORE INTO exchanges (id, process, admitted) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![id.0.to_string(), self.process, text])?;
            Ok(true)
        };
        match write().map_err(disk)? {
            true => Ok(()),
            false => Err(StoreError::Unavailable(String::from(
                "the journal is full: no more is served without Redis",
            ))),
        }
    }

    /// An exchange has ended, whether it was admitted here or had its hold in Redis before.
    ///
    /// # Errors
    /// `Unavailable` where the disk refuses.
    pub fn settle(
        &self,
        id: ReservationId,
        admitted: &Admitted,
        settled: &Settlement,
    ) -> StoreResult<()> {
        let (admitted, settled) = (json(admitted)?, json(settled)?);
        let connection = self.connection.lock();
        let write = || {
            // The first settlement stands.
            connection
                .prepare_cached(
                    "INSERT INTO exchanges (id, process, admitted, settled) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (id) DO UPDATE SET settled = coalesce(settled, excluded.settled)",
                )?
                .execute(params![id.0.to_string(), self.process, admitted, settled])
        };
        write().map_err(disk).map(drop)
    }

    /// Whether nothing waits here.
    pub fn is_empty(&self) -> StoreResult<bool> {
        let connection = self.connection.lock();
        let read = || {
            connection
                .prepare_cached("SELECT NOT EXISTS (SELECT 1 FROM exchanges)")?
                .query_row([], |row| row.get(0))
        };
        read().map_err(disk)
    }

    /// Whether this exchange waits here, and how it began.
    pub fn admitted(&self, id: ReservationId) -> StoreResult<Option<Admitted>> {
        let connection = self.connection.lock();
        let read = || {
            connection
                .prepare_cached("SELECT admitted FROM exchanges WHERE id = ?1")?
                .query_row([id.0.to_string()], |row| row.get::<_, String>(0))
                .optional()
        };
        read()
            .map_err(disk)?
            .map(|text| from_json(&text))
            .transpose()
    }

    /// Exchanges that have ended, or whose process has, from `after` on in order.
    pub fn ended(&self, after: i64, most: usize) -> StoreResult<Vec<Entry>> {
        let rows = {
            let connection = self.connection.lock();
            let read = || {
                let mut statement = connection.prepare_cached(
                    "SELECT no, id, admitted, settled FROM exchanges
                     WHERE no > ?1 AND (settled IS NOT NULL OR process <> ?2)
                     ORDER BY no LIMIT ?3",
                )?;
                let most = i64::try_from(most).unwrap_or(i64::MAX);
                let rows = statement.query_map(params![after, self.process, most], |row| {
                    let columns: (i64, String, String, Option<String>) =
                        (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
                    Ok(columns)
                })?;
                rows.collect::<rusqlite::Result<Vec<_>>>()
            };
            read().map_err(disk)?
        };
        rows.into_iter()
            .map(|(no, id, admitted, settled)| {
                let id = Uuid::parse_str(&id).map_err(|error| unreadable(&error))?;
                Ok(Entry {
                    no,
                    id: ReservationId(id),
                    admitted: from_json(&admitted)?,
                    settled: settled.map(|text| from_json(&text)).transpose()?,
                })
            })
            .collect()
    }

    /// These are in Redis now.
    pub fn forget(&self, numbers: &[i64]) -> StoreResult<()> {
        let connection = self.connection.lock();
        let delete = || {
            let mut statement = connection.prepare_cached("DELETE FROM exchanges WHERE no = ?1")?;
            for no in numbers {
                statement.execute([no])?;
            }
            Ok(())
        };
        delete().map_err(disk)
    }
}

fn json(value: &impl Serialize) -> StoreResult<String> {
    serde_json::to_string(value).map_err(|error| unreadable(&error))
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> StoreResult<T> {
    serde_json::from_str(text).map_err(|error| unreadable(&error))
}

fn unreadable(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Fault(format!("an entry of the journal makes no sense: {error}"))
}

fn disk(error: rusqlite::Error) -> StoreError {
    StoreError::Unavailable(format!("the journal cannot be written: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyId;
    use crate::store::redis::names::Shard;

    fn admitted() -> Admitted {
        let key = KeyId(Uuid::from_u128(7));
        Admitted {
            home: Home {
                shard: Shard::of_key(key),
                group: None,
            },
            claims: Vec::new(),
            held: Amounts::ZERO,
            opened_at: UnixMs(1),
            subject: Subject {
                key,
                request_id: String::from("r"),
                method: String::from("POST"),
                path: String::from("/"),
                model: None,
                pool: None,
                end_user: None,
                input_tokens: 1,
            },
        }
    }

    #[test]
    fn the_first_settlement_stands_and_a_dead_process_leaves_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/journal.db");
        let journal = Journal::open(&path, Duration::ZERO).unwrap();
        let ids = [1, 2].map(|n| ReservationId(Uuid::from_u128(n)));
        for id in ids {
            journal.admit(id, &admitted()).unwrap();
        }
        assert_eq!(journal.ended(0, 9).unwrap().len(), 0, "both run");
        for requests in [1, 2] {
            let charged = Amounts {
                requests,
                ..Amounts::ZERO
            };
            let event = UsageEvent::blank(ids[0].0, admitted().subject.key, UnixMs(5));
            journal
                .settle(
                    ids[0],
                    &admitted(),
                    &Settlement {
                        charged,
                        event,
                        further: Vec::new(),
                    },
                )
                .unwrap();
        }
        let ended = journal.ended(0, 9).unwrap();
        assert_eq!(ended.len(), 1);
        assert_eq!(ended[0].settled.as_ref().unwrap().charged.requests, 1);
        assert!(Journal::open(&path, Duration::ZERO).is_err(), "one owner");
        drop(journal);
        // A process that another test starts just now holds the lock until it is one of its own.
        let next = Journal::open(&path, Duration::from_secs(10)).unwrap();
        assert_eq!(next.ended(0, 9).unwrap().len(), 2);
        assert!(next.ended(0, 9).unwrap()[1].settled.is_none());
        next.forget(&[ended[0].no]).unwrap();
        assert!(next.admitted(ids[0]).unwrap().is_none());
        assert!(next.admitted(ids[1]).unwrap().is_some());
    }
}
