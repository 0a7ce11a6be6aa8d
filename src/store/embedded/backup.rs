//! Everything a file keeps, sent record by record from one snapshot of it: the memory this takes does
//! not grow with the file, and exchanges go on meanwhile.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Row};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::load::{counters_of, json, key_of, user_of};
use super::queries::{audit_of, rollup_of};
use super::usage_rows::{event_of, uuid_of};
use super::{EmbeddedStore, schema};
use crate::keys::KeyId;
use crate::quota::{GroupId, Scope};
use crate::store::file::{self, fault};
use crate::store::{BACKUP_VERSION, GroupRecord, KeyActivity, Record, StoreError, StoreResult};
use crate::time::{Moment, UnixMs};

/// How long to wait for a receiver that takes nothing: the log grows while a snapshot lives.
const PATIENCE: Duration = Duration::from_secs(60);
const NAP: Duration = Duration::from_millis(1);

impl EmbeddedStore {
    pub(super) async fn back_up(&self, records: Sender<Record>) -> StoreResult<()> {
        self.written().await;
        let at = self.shared.now().wall;
        let read =
            move |connection: &mut _, _: &dyn Fn() -> bool| send_all(connection, &records, at);
        self.readers.aside(read).await
    }
}

/// Sends every record of a store's file, in the order of [`Record`], also while another process serves
/// from it: the file is only read, and its owner's lock left alone. Blocks until all is sent, or nobody
/// receives any more: call it on a thread of its own.
///
/// # Errors
/// `Fault` where there is no such file, it is of another schema or cannot be read; `Unavailable` where
/// the receiver takes nothing for a minute.
pub fn export_file(path: &Path, records: &Sender<Record>) -> StoreResult<()> {
    let mut connection = file::connect_reader(path)?;
    schema::require_present(&connection)?;
    send_all(&mut connection, records, UnixMs::now())
}

fn send_all(connection: &mut Connection, records: &Sender<Record>, at: UnixMs) -> StoreResult<()> {
    let snapshot = connection.transaction().map_err(fault)?;
    let mut outlet = Outlet { records, sent: 0 };
    match send_in_order(&snapshot, &mut outlet, at) {
        Ok(()) | Err(Stop::NobodyReceives) => Ok(()),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Why no more is sent.
enum Stop {
    NobodyReceives,
    Failed(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Failed(error)
    }
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Stop::Failed(fault(error))
    }
}

struct Outlet<'a> {
    records: &'a Sender<Record>,
    sent: u64,
}

impl Outlet<'_> {
    fn send(&mut self, mut record: Record) -> Result<(), Stop> {
        let mut give_up_at = None;
        loop {
            match self.records.try_send(record) {
                Ok(()) => break,
                Err(TrySendError::Closed(_)) => return Err(Stop::NobodyReceives),
                Err(TrySendError::Full(back)) => record = back,
            }
            let give_up_at = *give_up_at.get_or_insert_with(|| Instant::now() + PATIENCE);
            if Instant::now() > give_up_at {
                let slow = String::from("nobody takes the records of the backup");
                return Err(Stop::Failed(StoreError::Unavailable(slow)));
            }
            std::thread::sleep(NAP);
        }
        self.sent += 1;
        Ok(())
    }

    /// Sends what `record` makes of each row.
    fn send_rows(
        &mut self,
        snapshot: &Connection,
        sql: &str,
        record: impl Fn(&Row<'_>) -> StoreResult<Record>,
    ) -> Result<(), Stop> {
        let mut statement = snapshot.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            self.send(record(row)?)?;
        }
        Ok(())
    }
}

fn send_in_order(snapshot: &Connection, outlet: &mut Outlet<'_>, at: UnixMs) -> Result<(), Stop> {
    let number = |sql: &str| snapshot.query_row(sql, [], |row| row.get(0));
    outlet.send(Record::Backup {
        version: BACKUP_VERSION,
        at,
        open_reservations: number("SELECT count(*) FROM reservations")?,
        last_key_seq: number(
            "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'key_numbers'",
        )?,
    })?;
    outlet.send_rows(snapshot, "SELECT * FROM settings ORDER BY name", |row| {
        Ok(Record::Setting {
            name: row.get("name").map_err(fault)?,
            value: row.get("value").map_err(fault)?,
        })
    })?;
    send_people(snapshot, outlet)?;
    send_scopes(snapshot, outlet)?;
    send_usage(snapshot, outlet)?;
    let audit = "SELECT * FROM audit_log ORDER BY at, no";
    outlet.send_rows(snapshot, audit, |row| {
        let entry = audit_of(row).map_err(fault)?;
        Ok(Record::Audit { entry })
    })?;
    let records = outlet.sent;
    outlet.send(Record::End { records })
}

fn send_people(snapshot: &Connection, outlet: &mut Outlet<'_>) -> Result<(), Stop> {
    let groups = "SELECT record FROM groups ORDER BY seq";
    outlet.send_rows(snapshot, groups, |row| {
        Ok(Record::Group {
            record: json(row, 0)?,
        })
    })?;
    let users = "SELECT seq, password_hash, record FROM users ORDER BY seq";
    outlet.send_rows(snapshot, users, |row| Ok(Record::of_user(&user_of(row)?)))
}

/// Keys, and the counters of keys and groups.
fn send_scopes(snapshot: &Connection, outlet: &mut Outlet<'_>) -> Result<(), Stop> {
    // The rates are no part of a backup, so that it does not matter when this is.
    let never = Moment::at(0);
    let mut scopes = HashMap::new();
    let mut groups = snapshot.prepare("SELECT seq, record FROM groups")?;
    let mut rows = groups.query([])?;
    while let Some(row) = rows.next()? {
        let group: GroupRecord = json(row, 1)?;
        scopes.insert(-row.get::<_, i64>(0)?, group.id);
    }
    let mut keys = snapshot.prepare(
        "SELECT k.seq, k.id, k.hash, k.previous_hash, k.previous_valid_until, k.record,
             c.request_count, c.error_count, c.last_used_at
         FROM keys k LEFT JOIN counters c ON c.scope = k.seq ORDER BY k.seq",
    )?;
    let mut rows = keys.query([])?;
    while let Some(row) = rows.next()? {
        if let Ok(record) = key_of(row)? {
            let activity = KeyActivity {
                request_count: row.get::<_, Option<i64>>(6)?.unwrap_or(0),
                error_count: row.get::<_, Option<i64>>(7)?.unwrap_or(0),
                last_used_at: row.get::<_, Option<i64>>(8)?.map(UnixMs),
            };
            outlet.send(Record::of_key(&record, activity))?;
        }
    }
    let counters = "SELECT c.*, k.id AS key_id FROM counters c LEFT JOIN keys k ON k.seq = c.scope";
    let mut counters = snapshot.prepare(counters)?;
    let mut rows = counters.query([])?;
    while let Some(row) = rows.next()? {
        let (number, counters, _) = counters_of(row, never)?;
        let scope = match scopes.get(&number) {
            Some(group) => Scope::Group(GroupId(group.0)),
            None => Scope::Key(KeyId(uuid_of(row, "key_id")?)),
        };
        let counts = counters.counts;
        outlet.send(Record::Counters { scope, counts })?;
    }
    Ok(())
}

fn send_usage(snapshot: &Connection, outlet: &mut Outlet<'_>) -> Result<(), Stop> {
    let rollups = "SELECT r.*, n.id AS key_id FROM daily_rollups r
                   JOIN key_numbers n ON n.seq = r.key_seq ORDER BY r.day, r.key_seq, r.model";
    outlet.send_rows(snapshot, rollups, |row| {
        let rollup = rollup_of(row).map_err(fault)?;
        Ok(Record::Rollup { rollup })
    })?;
    let errors = "SELECT e.*, n.id AS key_id FROM daily_errors e
                  JOIN key_numbers n ON n.seq = e.key_seq ORDER BY e.day, e.key_seq, e.code";
    outlet.send_rows(snapshot, errors, |row| {
        Ok(Record::ErrorCount {
            day: row.get("day").map_err(fault)?,
            key: KeyId(uuid_of(row, "key_id").map_err(fault)?),
            code: row.get("code").map_err(fault)?,
            errors: row.get("errors").map_err(fault)?,
        })
    })?;
    let events = "SELECT e.*, n.id AS key_id FROM usage_events e
                  JOIN key_numbers n ON n.seq = e.key_seq ORDER BY e.no";
    outlet.send_rows(snapshot, events, |row| {
        let event = Box::new(event_of(row).map_err(fault)?);
        Ok(Record::Event { event })
    })
}
