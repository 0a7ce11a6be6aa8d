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
//! queues, which both processes share.

mod giver;
mod socket;
mod starter;
mod succession;
mod taker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use giver::{Giver, Successor};
pub use socket::knock;
pub use succession::Succession;
pub use taker::Taker;

/// Changes with the messages. Releases that speak different ones cannot take over from each other.
pub const PROTOCOL: u32 = 1;

/// Longest wait for the next message while nobody waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// What comes to a running process.
#[derive(Debug, Serialize, Deserialize)]
pub enum Asked {
    /// Check this binary, start it, and tell how it goes.
    Start {
        binary: PathBuf,
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
    /// These follow. `books` is the file that the process has open, if its books are in one.
    Sockets {
        slots: Vec<Slot>,
        books: Option<Books>,
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

/// A file of books. What runs can only be settled in the same one, and the running process must be able
/// to open it again should the new one fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    pub file: PathBuf,
    /// The version of its layout.
    pub schema: usize,
}

/// What a listening socket is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The setting that asked for it.
    pub what: String,
    /// The address as it was asked for: its port may be 0.
    pub asked: SocketAddr,
}
