//! `quota-proxy serve`: loads the configuration and runs the server.

use std::fmt::Display;
use std::future::Future;
use std::io::{self, Write};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tokio::runtime::Runtime;

use crate::config::{self, Faults, StoreConfig};
use crate::server::{self, Start};

/// Options of `serve`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Configuration file [default: $QUOTA_PROXY_CONFIG, else /etc/quota-proxy/quota-proxy.yaml, else
    /// built-in defaults: the books in ./data/quota.db, and no pools, so that nothing is served]
    #[arg(long)]
    config: Option<PathBuf>,
    /// Take over from the running process at `server.upgrade_sock`: its sockets, its books and what
    /// runs. `quota-proxy upgrade` starts a new binary like this
    #[arg(long)]
    upgrade: bool,
    /// Run in the background; returns when it listens
    #[arg(long)]
    daemon: bool,
}

/// Runs until a signal ends it.
///
/// # Errors
/// A text for the operator: the configuration's faults, a taken port, a locked store.
pub fn run(options: &Options, err: &mut dyn Write) -> Result<(), String> {
    let env = |name: &str| std::env::var(name).ok();
    let loaded = config::load(options.config.as_deref(), &env).map_err(|faults| told(&faults))?;
    if options.daemon {
        return in_background(err).map_err(text);
    }
    server::install_logger(loaded.config.log.level);
    if let (None, StoreConfig::Embedded { path, .. }) = (&loaded.source, &loaded.config.store) {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        log::warn!(
            "no configuration file, built-in defaults hold: the books are in {}; nothing is served without pools",
            path.display()
        );
    }
    loaded.tell();
    let start = match options.upgrade {
        true => Start::TakeOver,
        false => Start::Fresh,
    };
    let prepared = server::prepare(loaded.config, loaded.source, start).map_err(text)?;
    prepared.run(err).map_err(text)
}

/// One fault in its line; several one per line, below how many there are.
fn told(faults: &Faults) -> String {
    match faults.0.len() {
        1 => faults.to_string(),
        count => format!("the configuration has {count} faults\n{faults}"),
    }
}

/// Starts this program once more without `--daemon`, in a process group of its own, and returns when
/// it says that it listens. A fork would lose the threads of the store.
fn in_background(err: &mut dyn Write) -> io::Result<()> {
    let arguments = std::env::args_os()
        .skip(1)
        .filter(|argument| argument != "--daemon");
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let lines = child
        .stderr
        .take()
        .map(io::BufReader::new)
        .into_iter()
        .flat_map(io::BufRead::lines);
    for line in lines {
        let line = line?;
        writeln!(err, "{line}")?;
        if line.ends_with("(admin)") {
            return writeln!(err, "running in the background as process {}", child.id());
        }
    }
    let status = child.wait()?;
    Err(io::Error::other(format!(
        "the background process ended at once: {status}"
    )))
}

/// Runs one future to its end on a small runtime.
///
/// # Errors
/// The future's, or that no runtime could be made, as text.
pub fn block_on(future: impl Future<Output = io::Result<()>>) -> Result<(), String> {
    runtime()?.block_on(future).map_err(text)
}

/// A small runtime for one command.
///
/// # Errors
/// The system's, as text.
pub(super) fn runtime() -> Result<Runtime, String> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let built = builder.worker_threads(2).enable_all().build();
    built.map_err(text)
}

fn text(fault: impl Display) -> String {
    fault.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_faults_are_counted_and_each_has_its_line() {
        let faults = |text: &str| {
            let parsed = config::parse(text, "q.yaml", std::path::Path::new("."), &|_| None);
            told(&parsed.unwrap_err())
        };
        let one = faults("log: {level: loud}");
        assert!(one.starts_with("q.yaml:1: log.level: "), "{one}");
        let two = faults("log: {level: loud}\nedge: {max_upload: big}");
        let lines: Vec<&str> = two.lines().collect();
        assert_eq!(lines.len(), 3, "{two}");
        assert_eq!(lines[0], "the configuration has 2 faults");
        assert!(lines[1].starts_with("q.yaml:1: "), "{two}");
        assert!(lines[2].starts_with("q.yaml:2: "), "{two}");
    }
}
