//! `quota-proxy upgrade`: asks the running server to let a new binary take its place.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::serve;
use crate::config;
use crate::server::upgrade::{Asked, Said, knock};
use crate::store::movable::frame;

/// Longest wait for the server's next word: it waits for the new process itself.
const PATIENCE: Duration = Duration::from_secs(180);

/// Options of `upgrade`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The running server's configuration file, for its `server.upgrade_sock` [default:
    /// $QUOTA_PROXY_CONFIG, else /etc/quota-proxy/quota-proxy.yaml, if it is there]
    #[arg(long)]
    config: Option<PathBuf>,
    /// The running server's upgrade socket, in place of the one in the configuration
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// The new binary, as the server sees it [default: this one]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

/// Returns when the new process serves. Where it does not come to that, the running one goes on.
///
/// # Errors
/// A text for the operator: nobody listens there, or why the new binary did not take over.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<(), String> {
    let socket = match &options.socket {
        Some(socket) => socket.clone(),
        None => {
            let env = |name: &str| std::env::var(name).ok();
            config::load_upgrade_sock(options.config.as_deref(), &env)
                .map_err(|faults| faults.to_string())?
        }
    };
    let binary = match &options.binary {
        Some(binary) => std::path::absolute(binary),
        None => std::env::current_exe(),
    };
    let binary = binary.map_err(|fault| format!("which binary? {fault}"))?;
    serve::runtime()?.block_on(upgrade(&socket, binary, out))
}

async fn upgrade(socket: &Path, binary: PathBuf, out: &mut dyn Write) -> Result<(), String> {
    let nobody = |fault: io::Error| {
        format!(
            "no running server at {}: {fault}; name its file with --config, or its socket with --socket",
            socket.display()
        )
    };
    let mut connection = knock(socket).await.map_err(nobody)?;
    let before = connection.peer_cred().ok().and_then(|who| who.pid());
    let text = |fault: io::Error| format!("the server at {}: {fault}", socket.display());
    let start = Asked::Start { binary };
    frame::send(&mut connection, &start).await.map_err(text)?;
    loop {
        let said = tokio::time::timeout(PATIENCE, frame::receive(&mut connection)).await;
        let said = said.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let line = match said.map_err(text)? {
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
            said => return Err(format!("the server answers out of turn: {said:?}")),
        };
        writeln!(out, "{line}").map_err(|fault| fault.to_string())?;
    }
}
