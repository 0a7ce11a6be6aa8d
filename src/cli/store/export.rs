//! `quota-proxy store export`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc::{Receiver, channel};

use super::{BATCH, STEP, opened};
use crate::cli::private_file::MODE;
use crate::cli::screen::Screen;
use crate::config::{Config, StoreConfig};
use crate::store::embedded::export_file;
use crate::store::{Record, StoreResult};

/// Exports the store that `config` names. A file appears under its name when it is whole.
pub(super) async fn run(
    config: &Config,
    output: &Path,
    screen: &mut Screen<'_>,
) -> Result<(), String> {
    let (send, mut records) = channel(BATCH);
    let mut open = None;
    let sending = match &config.store {
        // The file is read beside the process that owns it.
        StoreConfig::Embedded { path, .. } => {
            let path = path.clone();
            tokio::task::spawn_blocking(move || export_file(&path, &send))
        }
        StoreConfig::Redis(_) => {
            let store = open.insert(opened(config).await?).clone();
            tokio::spawn(async move { store.export(send).await })
        }
    };
    let written = if output == Path::new("-") {
        let written = write(&mut records, screen, None).await;
        drop(records);
        written
    } else {
        let mut file = Unfinished::create(output)?;
        let written = write(&mut records, screen, Some(&mut file)).await;
        drop(records);
        written.and_then(|count| file.finish().map(|()| count))
    };
    let sent: StoreResult<()> = sending.await.map_err(|fault| fault.to_string())?;
    if let Some(store) = open {
        store.close().await;
    }
    // Why the records ended says more than that they did.
    sent.map_err(|fault| fault.to_string())?;
    let count = written?;
    screen.note(&format!("{count} records exported"));
    Ok(())
}

/// Writes lines until the records end, and answers how many. They must end with the one that says so.
async fn write(
    records: &mut Receiver<Record>,
    screen: &mut Screen<'_>,
    mut file: Option<&mut Unfinished>,
) -> Result<u64, String> {
    let (mut count, mut is_whole) = (0, false);
    while let Some(record) = records.recv().await {
        is_whole = matches!(record, Record::End { .. });
        let mut line = serde_json::to_vec(&record).map_err(|fault| fault.to_string())?;
        line.push(b'\n');
        let written = match &mut file {
            Some(file) => file.lines.write_all(&line),
            None => screen.out().write_all(&line),
        };
        written.map_err(|fault| fault.to_string())?;
        count += 1;
        if count % STEP == 0 {
            screen.progress(&format!("{count} records"));
        }
    }
    match is_whole {
        true => Ok(count),
        false => Err(String::from(
            "the store ended before its last record: nothing was exported",
        )),
    }
}

/// A file under another name until it is whole.
struct Unfinished {
    lines: BufWriter<File>,
    name: PathBuf,
    path: PathBuf,
    is_finished: bool,
}

impl Unfinished {
    fn create(path: &Path) -> Result<Self, String> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let name = PathBuf::from(name);
        let mut options = OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(MODE).open(&name);
        let file = opened.map_err(|fault| format!("{}: {fault}", name.display()))?;
        Ok(Unfinished {
            lines: BufWriter::new(file),
            name,
            path: path.to_path_buf(),
            is_finished: false,
        })
    }

    fn finish(mut self) -> Result<(), String> {
        let done = || -> io::Result<()> {
            self.lines.flush()?;
            self.lines.get_ref().sync_all()?;
            std::fs::rename(&self.name, &self.path)
        };
        let done = { done }();
        done.map_err(|fault| format!("{}: {fault}", self.path.display()))?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_finished {
            // Half a backup is of no use, and holds hashes of secrets.
            drop(std::fs::remove_file(&self.name));
        }
    }
}
