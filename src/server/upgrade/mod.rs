//! A new process takes over from a running one, and no client notices: listening sockets, books, and
//! what still runs.
//!
//! The running process listens at `server.upgrade_sock`, in a folder that only its own user can reach,
//! and both ends check whose process is at the other. `quota-proxy upgrade` asks it to check a new
//! binary and to start it; whoever started it, the new process comes to that socket:
//!
//! ```text
//!   new                                     old
//!   Take ─────────────────────────────────▶ serves on
//!        ◀───────── Sockets, duplicated ─── serves on
//!   builds everything but the store
//!   Books ────────────────────────────────▶ closes the file; steps of its exchanges wait
//!        ◀──────────────────────── Yours ───
//!   opens the file
//!   Ready ────────────────────────────────▶
//!        ◀─────────────────────────── Go ───
//!   Thanks ───────────────────────────────▶ accepts no more; its steps go on, over this connection
//!   accepts
//! ```
//!
//! Whatever ends the new process before `Thanks`, the old one opens the file again and serves on: it
//! has stopped nothing yet, and no client has come to the new one. Connections wait in the sockets'
//! queues, which both processes share. A new process that has failed with the books is killed first,
//! unless it ends at once. The end of the old process before `Thanks` is none of the new one's, which has
//! the books then and serves.
//!
//! While the old process ends, what the new one is told to do to itself it passes on: both drain, both
//! end at once.

mod giver;
mod giving;
mod other;
mod socket;
mod starter;
mod succession;
mod taker;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

pub use giver::{Giver, Successor};
pub use other::Before;
pub use socket::knock;
pub use succession::Succession;
pub use taker::Taker;

/// Changes with the messages. Releases that speak different ones cannot take over from each other.
pub const PROTOCOL: u32 = 2;

/// Longest wait for the next message, unless the operator has another in mind.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Most that an operator may have in mind: an hour.
pub const MOST_PATIENCE_S: u64 = 3600;

/// Tells the process before to drain, as this one does. No SIGTERM, which a service manager sends to both
/// and whose second ends at once.
pub const END_TOO: Signal = Signal::USR1;

/// What comes to a running process.
#[derive(Debug, Serialize, Deserialize)]
pub enum Asked {
    /// Check this binary, start it, and tell how it goes.
    Start {
        binary: PathBuf,
        /// How long it may take to each of its steps.
        patience_s: u64,
    },
    /// I am a new process. My sockets, please.
    Take {
        protocol: u32,
        release: String,
    },
    /// Now the books.
    Books,
    /// I could accept connections this instant.
    Ready,
    Thanks,
    /// I cannot take over, and end.
    Failed(String),
    /// Read the configuration again, and tell what became of it.
    Reload,
}

/// What it says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    /// One step of an upgrade is done, in words.
    Progress(String),
    /// The process that has taken over.
    Done {
        pid: i32,
        release: String,
    },
    /// These follow. `books` are those that the process has open.
    Sockets {
        slots: Vec<Slot>,
        books: Books,
    },
    Yours,
    Go,
    /// It holds, but for the sections that wait for a restart.
    Reloaded {
        waiting: Vec<String>,
    },
    /// Nothing has changed, and why.
    Refused(String),
}

/// Where books are. What runs can only be settled in the same ones, and the running process must be able
/// to open them again should the new one fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Books {
    File {
        file: PathBuf,
        /// The version of its layout.
        schema: usize,
    },
    /// Its servers and its database, without credentials.
    Redis { servers: String },
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Books::File { file, schema } => write!(f, "{} (schema {schema})", file.display()),
            Books::Redis { servers } => write!(f, "Redis ({servers})"),
        }
    }
}

/// What a listening socket is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The setting that asked for it.
    pub what: String,
    /// The address as it was asked for: its port may be 0.
    pub asked: SocketAddr,
}
