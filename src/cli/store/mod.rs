//! `quota-proxy store`: all records as lines of JSON, out of one store and into another.

mod export;
mod import;
mod lines;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::screen::Screen;
use super::serve;
use crate::config::{self, Config};
use crate::server::{self, Engine};
use crate::store::{Record, Store};

/// Records of one batch.
const BATCH: usize = 1_000;
/// Records between two lines of progress.
const STEP: u64 = 10_000;

/// What `store` can do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Write all records as lines of JSON: a backup, or the way to another store. The embedded store may
    /// be serving meanwhile
    Export {
        /// Configuration that names the store [default: as for serve]
        #[arg(long)]
        config: Option<PathBuf>,
        /// The file to write, for its owner alone; - is standard output
        #[arg(long, value_name = "FILE", default_value = "-")]
        output: PathBuf,
    },
    /// Take the records of an export into a store that serves nobody
    Import {
        /// Configuration that names the store [default: as for serve]
        #[arg(long)]
        config: Option<PathBuf>,
        /// Also into a store that has keys: what is in the file replaces what is there
        #[arg(long)]
        merge: bool,
        /// The file that `store export` wrote
        file: PathBuf,
    },
}

/// Runs one command to its end.
///
/// # Errors
/// A text for the person at the terminal.
pub fn run(command: &Command, screen: &mut Screen<'_>) -> Result<(), String> {
    let runtime = serve::runtime()?;
    match command {
        Command::Export { config, output } => {
            let config = loaded(config.as_deref())?;
            runtime.block_on(export::run(&config, output, screen))
        }
        Command::Import {
            config,
            merge,
            file,
        } => {
            let config = loaded(config.as_deref())?;
            runtime.block_on(import::run(&config, file, *merge, screen))
        }
    }
}

fn loaded(path: Option<&Path>) -> Result<Config, String> {
    let env = |name: &str| std::env::var(name).ok();
    let loaded = config::load(path, &env).map_err(|faults| faults.to_string())?;
    // Between the lines of a command only what asks for attention.
    server::install_logger(loaded.config.log.level.min(log::LevelFilter::Warn));
    Ok(loaded.config)
}

/// The configured store, answering.
async fn opened(config: &Config) -> Result<Arc<dyn Store>, String> {
    let store = Engine::open(config, false).map_err(|fault| fault.to_string())?;
    let store = store.store();
    store.ping().await.map_err(|fault| fault.to_string())?;
    Ok(store)
}

/// What a record is called where records are counted.
fn kind(record: &Record) -> &'static str {
    match record {
        Record::Backup { .. } | Record::End { .. } => "",
        Record::Setting { .. } => "settings",
        Record::Group { .. } => "groups",
        Record::User { .. } => "users",
        Record::Key { .. } => "keys",
        Record::Counters { .. } => "counters",
        Record::Rollup { .. } => "daily sums",
        Record::ErrorCount { .. } => "daily errors",
        Record::Event { .. } => "usage events",
        Record::Audit { .. } => "audit entries",
    }
}
