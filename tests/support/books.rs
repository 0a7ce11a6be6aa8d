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
