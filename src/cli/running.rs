//! The server that runs on this machine, as its operator reaches it: over its socket.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::UnixStream;

use crate::config;
use crate::server::upgrade::{Asked, Said, knock};
use crate::store::movable::frame;

/// Which server is meant.
#[derive(Debug, clap::Args)]
pub struct Server {
    /// The running server's configuration file, for its `server.upgrade_sock` [default:
    /// $QUOTA_PROXY_CONFIG, else /etc/quota-proxy/quota-proxy.yaml, if it is there]
    #[arg(long)]
    config: Option<PathBuf>,
    /// The running server's upgrade socket, in place of the one in the configuration
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
}

/// A server that has been asked something.
#[derive(Debug)]
pub struct Running {
    connection: UnixStream,
    socket: PathBuf,
    /// Longest wait for its next word.
    patience: Duration,
}

impl Server {
    /// Asks the server. `patience` is the longest wait for its next word.
    ///
    /// # Errors
    /// A text for the operator: nobody listens there.
    pub async fn ask(&self, asked: &Asked, patience: Duration) -> Result<Running, String> {
        let socket = self.socket()?;
        let nobody = |fault: io::Error| {
            format!(
                "no running server at {}: {fault}; name its file with --config, or its socket with --socket",
                socket.display()
            )
        };
        let connection = knock(&socket).await.map_err(nobody)?;
        let mut running = Running {
            connection,
            socket,
            patience,
        };
        let sent = frame::send(&mut running.connection, asked).await;
        sent.map_err(|fault| running.text(&fault))?;
        Ok(running)
    }

    fn socket(&self) -> Result<PathBuf, String> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let env = |name: &str| std::env::var(name).ok();
        config::load_upgrade_sock(self.config.as_deref(), &env).map_err(|faults| faults.to_string())
    }
}

impl Running {
    /// Its process, where the system tells.
    pub fn pid(&self) -> Option<i32> {
        self.connection.peer_cred().ok().and_then(|who| who.pid())
    }

    /// What it says next.
    ///
    /// # Errors
    /// A text for the operator: it has gone, or says nothing for too long.
    pub async fn says(&mut self) -> Result<Said, String> {
        let word = frame::receive(&mut self.connection);
        let said = tokio::time::timeout(self.patience, word).await;
        let said = said.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        said.map_err(|fault| self.text(&fault))
    }

    fn text(&self, fault: &io::Error) -> String {
        format!("the server at {}: {fault}", self.socket.display())
    }
}

/// The text for a word that answers nothing that was asked.
pub fn out_of_turn(said: &Said) -> String {
    format!("the server answers out of turn: {said:?}")
}
