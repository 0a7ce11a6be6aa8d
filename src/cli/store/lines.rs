//! Reading an export: lines of JSON from first to last.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Seek as _};
use std::path::Path;

use crate::store::{BACKUP_VERSION, Record};

/// Bytes of a line at most: records are far below it.
const MAX_LINE: u64 = 16 << 20;

/// An export that is whole, at its first line.
#[derive(Debug)]
pub struct Lines {
    file: BufReader<File>,
    name: String,
    line: u64,
    /// Records of it, the first line and the last among them.
    pub records: u64,
    /// Exchanges that ran when it was written.
    pub open_reservations: i64,
}

impl Lines {
    /// Opens an export and reads it from end to end, so that nothing is taken from one that is not
    /// whole.
    ///
    /// # Errors
    /// A line that is no record, an export of a newer program, one that ends too early; with the line.
    pub fn check(path: &Path) -> Result<Self, String> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|fault| format!("{name}: {fault}"))?;
        let mut lines = Lines {
            file: BufReader::new(file),
            name,
            line: 0,
            records: 0,
            open_reservations: 0,
        };
        match lines.next()? {
            Some(Record::Backup {
                version,
                open_reservations,
                ..
            }) if version <= BACKUP_VERSION => lines.open_reservations = open_reservations,
            Some(Record::Backup { version, .. }) => {
                return Err(lines.told(&format!(
                    "an export of version {version}, newer than this program knows ({BACKUP_VERSION})"
                )));
            }
            _ => return Err(lines.told("not the first line of an export")),
        }
        let mut before = 1;
        loop {
            match lines.next()? {
                None => {
                    return Err(
                        lines.told("the export ends here, without its last line: it is not whole")
                    );
                }
                Some(Record::End { records }) if records == before => break,
                Some(Record::End { records }) => {
                    return Err(lines.told(&format!(
                        "{before} records came before this line, which counts {records}: it is not whole"
                    )));
                }
                Some(Record::Backup { .. }) => {
                    return Err(lines.told("another export begins before the first has ended"));
                }
                Some(_) => before += 1,
            }
        }
        if lines.next()?.is_some() {
            return Err(lines.told("more stands after the last line of the export"));
        }
        lines.records = before + 1;
        lines.line = 0;
        lines
            .file
            .rewind()
            .map_err(|fault| lines.told(&fault.to_string()))?;
        Ok(lines)
    }

    /// The next record; `None` at the end of the file.
    ///
    /// # Errors
    /// As [`Lines::check`]. The line itself is not repeated: it may hold a hash.
    pub fn next(&mut self) -> Result<Option<Record>, String> {
        self.line += 1;
        let mut text = Vec::new();
        let mut limited = io::Read::take(&mut self.file, MAX_LINE);
        let read = limited.read_until(b'\n', &mut text);
        let read = read.map_err(|fault| self.told(&fault.to_string()))?;
        if read == 0 {
            return Ok(None);
        }
        if text.last() != Some(&b'\n') {
            return Err(self.told("the export breaks off in the middle of this line"));
        }
        let record = serde_json::from_slice(&text);
        record.map(Some).map_err(|fault| {
            let at = fault.column();
            self.told(&format!("no record of an export (column {at})"))
        })
    }

    fn told(&self, what: &str) -> String {
        format!("{}:{}: {what}", self.name, self.line)
    }
}
