//! `quota-proxy reload`: has the running server read its configuration again, and tells its verdict. A
//! signal, which does the same, has no way to.

use std::io::{self, Write};
use std::time::Duration;

use super::running::{Server, out_of_turn};
use super::serve;
use crate::server::upgrade::{Asked, Said};

/// Longest wait for the verdict: files that are read, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Options of `reload`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    server: Server,
}

/// Returns when the new configuration holds.
///
/// # Errors
/// A text for the operator: nobody listens there, or what is wrong with the configuration, which has
/// changed nothing then.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<(), String> {
    serve::runtime()?.block_on(async {
        let mut running = options.server.ask(&Asked::Reload, PATIENCE).await?;
        match running.says().await? {
            Said::Reloaded { waiting } => tell(&waiting, out).map_err(|fault| fault.to_string()),
            Said::Refused(why) => Err(format!("{why}\nThe running server goes on as it was.")),
            said => Err(out_of_turn(&said)),
        }
    })
}

fn tell(waiting: &[String], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "the configuration has been read again and holds")?;
    for section in waiting {
        writeln!(
            out,
            "{section} has changed; that takes effect with a restart"
        )?;
    }
    Ok(())
}
