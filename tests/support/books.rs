//! The embedded store's file, read from outside.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::{Map, Value, json};

/// A copy of the store as it lay on disk. Taken after `kill9`, it is what a restart will find.
#[derive(Debug)]
pub struct Books {
    connection: Connection,
    _folder: tempfile::TempDir,
}

impl Books {
    /// Copies the file and its journal, then opens the copy; the original is not touched.
    pub fn copy(path: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("copy.db");
        for ending in ["", "-wal"] {
            let from = format!("{}{ending}", path.display());
            if Path::new(&from).exists() {
                std::fs::copy(from, format!("{}{ending}", copy.display())).unwrap();
            }
        }
        Books {
            connection: Connection::open(copy).unwrap(),
            _folder: folder,
        }
    }

    /// The rows of a query, each as a JSON object.
    pub fn rows(&self, sql: &str) -> Vec<Value> {
        let mut statement = self.connection.prepare(sql).unwrap();
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let rows = statement.query_map([], |row| {
            let mut object = Map::new();
            for (at, name) in names.iter().enumerate() {
                object.insert(name.clone(), to_json(row.get_ref(at)?));
            }
            Ok(Value::Object(object))
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// The one number that a query answers with; 0 for NULL.
    pub fn number(&self, sql: &str) -> i64 {
        let number: rusqlite::Result<Option<i64>> =
            self.connection.query_row(sql, [], |row| row.get(0));
        number.unwrap_or_else(|e| panic!("{sql}: {e}")).unwrap_or(0)
    }

    /// I4 and I5 of books that nobody writes: nothing is held, and the counters and rollups of every
    /// key are the sums of its events.
    ///
    /// # Panics
    /// With what does not agree.
    pub fn assert_balanced(&self) {
        assert!(self.are_whole());
        assert_eq!(self.rows("SELECT * FROM reservations"), Vec::<Value>::new());
        let events = "SELECT key_seq, sum(requests) AS requests, sum(total_tokens) AS tokens,
                      sum(total_cost_nano) AS nano_usd FROM usage_events GROUP BY key_seq";
        let booked = "SELECT scope, requests_booked, tokens_booked, nano_usd_booked FROM counters
                      WHERE scope > 0 AND request_count > 0 ORDER BY scope";
        let used = booked.replace("_booked", "_used");
        let rolled = "SELECT key_seq, sum(requests), sum(tokens), sum(cost_nano) FROM daily_rollups
                      GROUP BY key_seq HAVING sum(requests) > 0 ORDER BY key_seq";
        let events = format!("SELECT * FROM ({events}) WHERE requests > 0 ORDER BY key_seq");
        let events = self.figures(&events);
        for (what, sql) in [("booked", booked), ("used", &used), ("rolled up", rolled)] {
            assert_eq!(self.figures(sql), events, "{what}, against the events");
        }
    }

    /// Rows of four whole numbers.
    fn figures(&self, sql: &str) -> Vec<[i64; 4]> {
        let mut statement = self.connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| {
            Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// `PRAGMA integrity_check`.
    pub fn are_whole(&self) -> bool {
        let answer = self.rows("PRAGMA integrity_check");
        answer.len() == 1 && answer[0]["integrity_check"] == "ok"
    }
}

fn to_json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(n) => json!(n),
        ValueRef::Real(x) => json!(x),
        ValueRef::Text(text) => json!(String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) => {
            json!(bytes.iter().map(|b| format!("{b:02x}")).collect::<String>())
        }
    }
}
