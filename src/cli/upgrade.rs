//! `quota-proxy upgrade`: asks the running server to let a new binary take its place.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::running::{Server, out_of_turn};
use super::serve;
use crate::server::upgrade::{Asked, Said};

/// Longest wait for the server's next word: it waits for the new process itself.
const PATIENCE: Duration = Duration::from_secs(180);

/// Options of `upgrade`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    server: Server,
    /// The new binary, as the server sees it [default: this one]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
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
    serve::runtime()?.block_on(upgrade(&options.server, binary, out))
}

async fn upgrade(server: &Server, binary: PathBuf, out: &mut dyn Write) -> Result<(), String> {
    let mut running = server.ask(&Asked::Start { binary }, PATIENCE).await?;
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
