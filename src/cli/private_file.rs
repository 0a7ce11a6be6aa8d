//! Files that hold secrets: for their owner alone, and nothing overwritten by accident.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Read and write for the owner.
pub const MODE: u32 = 0o600;

/// The end of an array, over which the next item is written.
const END: &str = "\n]\n";

/// A JSON array that is whole after every item: whatever ends the program, what was added is there.
#[derive(Debug)]
pub struct JsonArray {
    file: File,
    path: PathBuf,
    items: usize,
    /// Bytes of the whole array.
    length: u64,
}

impl JsonArray {
    /// Opens the file before anything is made that should go into it. One that is there is refused, or
    /// with `force` replaced when the first item comes.
    ///
    /// # Errors
    /// A text that names the file.
    pub fn open(path: &Path, force: bool) -> Result<Self, String> {
        let mut options = OpenOptions::new();
        options.write(true).mode(MODE);
        match force {
            true => options.create(true),
            false => options.create_new(true),
        };
        let file = options.open(path).map_err(|fault| match fault.kind() {
            io::ErrorKind::AlreadyExists => {
                format!("{} is there already; --force replaces it", path.display())
            }
            _ => format!("{}: {fault}", path.display()),
        })?;
        Ok(JsonArray {
            file,
            path: path.to_path_buf(),
            items: 0,
            length: 0,
        })
    }

    /// # Errors
    /// A text that names the file.
    pub fn add(&mut self, item: &Value) -> Result<(), String> {
        let text = match self.items {
            0 => format!("[\n{item}{END}"),
            _ => format!(",\n{item}{END}"),
        };
        if let Err(fault) = self.write(&text) {
            // What was there before stays readable; there was room for it.
            drop(self.shorten());
            return Err(format!("{}: {fault}", self.path.display()));
        }
        self.length += text.len() as u64;
        if self.items > 0 {
            self.length -= END.len() as u64;
        }
        self.items += 1;
        Ok(())
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        if self.items == 0 {
            self.file.set_len(0)?;
            self.file.set_permissions(Permissions::from_mode(MODE))?;
        } else {
            self.file
                .seek(SeekFrom::Start(self.length - END.len() as u64))?;
        }
        self.file.write_all(text.as_bytes())
    }

    fn shorten(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        if self.items > 0 {
            self.file
                .seek(SeekFrom::Start(self.length - END.len() as u64))?;
            self.file.write_all(END.as_bytes())?;
        }
        Ok(())
    }

    /// Makes sure that it is on the disk. A file that nothing came into is taken away again.
    ///
    /// # Errors
    /// A text that names the file.
    pub fn done(self) -> Result<(), String> {
        let done = match self.items {
            0 if self.file.metadata().is_ok_and(|found| found.len() == 0) => {
                std::fs::remove_file(&self.path)
            }
            _ => self.file.sync_all(),
        };
        done.map_err(|fault| format!("{}: {fault}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_array_is_whole_after_every_item() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let mut array = JsonArray::open(&path, false).unwrap();
        for count in 1..=3 {
            array.add(&json!({"n": count})).unwrap();
            let read: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            assert_eq!(read.len(), count);
        }
        array.done().unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        assert!(
            JsonArray::open(&path, false)
                .unwrap_err()
                .contains("--force")
        );
        // Nothing made, nothing lost.
        JsonArray::open(&path, true).unwrap().done().unwrap();
        assert!(path.exists());
        let mut again = JsonArray::open(&path, true).unwrap();
        again.add(&json!(1)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[\n1\n]\n");
    }
}
