//! `quota-proxy upgrade`: asks the running server to let a new binary take its place.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::running::{Server, out_of_turn};
use super::serve;
use crate::server::upgrade::{Asked, MOST_PATIENCE_S, PATIENCE, Said};

/// Longest wait for the server's next word beside that for the new process: a check, books that are
/// opened again.
const WAIT: Duration = Duration::from_secs(120);
/// Steps of the new process that the server waits for without a word, the wait for the first included.
const STEPS: u32 = 6;

/// Options of `upgrade`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    server: Server,
    /// The new binary, as the server sees it [default: this one]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// How long the new process may take to each of its steps; the longest is to open the books, while
    /// requests wait. One that takes longer is killed, and the running one goes on
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=MOST_PATIENCE_S))]
    patience: u64,
}

/// Returns when the new process serves. Where it does not come to that, the running one goes on.
///
/// # Errors
/// A text for the operator: nobody listens there, or why the new binary did not take over.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<(), String> {
    let binary = match &options.binary {
        Some(binary) => std::path::absolute(binary),
        None => std::env::current_exe(),
    };
    let binary = binary.map_err(|fault| format!("which binary? {fault}"))?;
    let start = Asked::Start {
        binary,
        patience_s: options.patience,
    };
    serve::runtime()?.block_on(upgrade(options, &start, out))
}

async fn upgrade(options: &Options, start: &Asked, out: &mut dyn Write) -> Result<(), String> {
    let wait = WAIT + STEPS * Duration::from_secs(options.patience);
    let mut running = options.server.ask(start, wait).await?;
    let before = running.pid();
    loop {
        let line = match running.says().await? {
            Said::Progress(words) => words,
            Said::Done { pid, release } => {
                let before = before.map_or_else(String::new, |pid| format!(" {pid}"));
                return writeln!(
                    out,
                    "process {pid} serves, release {release}; process{before} ends with the last of its requests"
                )
                .map_err(|fault| fault.to_string());
            }
            Said::Refused(why) => {
                return Err(format!("{why}\nThe running server goes on as it was."));
            }
            said => return Err(out_of_turn(&said)),
        };
        writeln!(out, "{line}").map_err(|fault| fault.to_string())?;
    }
}
