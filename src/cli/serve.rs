//! `quota-proxy serve`: loads the configuration and runs the server.

use std::fmt::Display;
use std::future::Future;
use std::io::{self, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tokio::runtime::Runtime;

use crate::config::{self, Faults, StoreConfig};
use crate::server::{self, Start};
use crate::telemetry::log as logging;

/// What a process in the background says to the one that started it, when it serves.
const SERVES: &str = "serves";

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
    /// With --upgrade: where the running process listens, if the configuration has another
    /// `server.upgrade_sock` by now
    #[arg(long, value_name = "PATH", requires = "upgrade")]
    socket: Option<PathBuf>,
    /// Run in the background; returns when it serves. Its log goes on to stderr where that is a file or
    /// the journal (`2>>FILE`), and else nowhere
    #[arg(long)]
    daemon: bool,
    /// The process in the background: it tells its start on stdout, which is a pipe.
    #[arg(long, hide = true, conflicts_with = "daemon")]
    in_background: bool,
}

/// Runs until a signal ends it.
///
/// # Errors
/// A text for the operator: the configuration's faults, a taken port, a locked store.
pub fn run(options: &Options, err: &mut dyn Write) -> Result<(), String> {
    if options.daemon {
        return start_in_background(options, err).map_err(text);
    }
    if !options.in_background {
        return serve(options, err);
    }
    // Away from the terminal that it was started at. It is no leader of a group yet, so that this works.
    if let Err(fault) = rustix::process::setsid() {
        log::debug!("setsid: {fault}");
    }
    let done = serve(options, &mut io::stdout());
    if let Err(why) = &done {
        writeln!(io::stdout(), "{why}").map_err(text)?;
    }
    done
}

fn serve(options: &Options, out: &mut dyn Write) -> Result<(), String> {
    let env = |name: &str| std::env::var(name).ok();
    let loaded = config::load(options.config.as_deref(), &env).map_err(|faults| told(&faults))?;
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
        true => Start::TakeOver(options.socket.clone()),
        false => Start::Fresh,
    };
    let mut prepared = server::prepare(loaded, start).map_err(text)?;
    if options.in_background {
        prepared.when_serving(|| {
            let told = writeln!(io::stdout(), "{SERVES}");
            if let Err(fault) = told {
                log::debug!("nobody waits for this process any more: {fault}");
            }
        });
    }
    prepared.run(out).map_err(text)
}

/// One fault in its line; several one per line, below how many there are.
fn told(faults: &Faults) -> String {
    match faults.0.len() {
        1 => faults.to_string(),
        count => format!("the configuration has {count} faults\n{faults}"),
    }
}

/// Starts this program once more, and returns when that serves. A fork would lose the threads of the store.
fn start_in_background(options: &Options, err: &mut dyn Write) -> io::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", "--in-background"]);
    if let Some(config) = &options.config {
        command.arg("--config").arg(config);
    }
    if options.upgrade {
        command.arg("--upgrade");
    }
    if let Some(socket) = &options.socket {
        command.arg("--socket").arg(socket);
    }
    // A terminal is closed one day, and whoever reads a pipe would wait for its end.
    let lasts = logging::lasts();
    let log = if lasts {
        Stdio::inherit()
    } else {
        Stdio::null()
    };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    let mut child = command.spawn()?;
    let lines = child.stdout.take().map(BufReader::new);
    for line in lines.into_iter().flat_map(io::BufRead::lines) {
        let line = line?;
        if line == SERVES {
            let log = match lasts {
                true => "",
                false => "; its log goes nowhere, 2>>FILE keeps it",
            };
            let pid = child.id();
            return writeln!(err, "running in the background as process {pid}{log}");
        }
        writeln!(err, "{line}")?;
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
