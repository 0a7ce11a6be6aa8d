//! One end of a take-over that goes as far as a test wants, and then does something bad: a process of its
//! own, for the other end kills what hangs.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::{Child, Command, Stdio};

use quota_proxy::server::upgrade::Books;

use super::server;

fn half() -> String {
    format!("{}/tests/edge/upgrade/half.py", env!("CARGO_MANIFEST_DIR"))
}

/// A new binary that takes over up to a step, and then acts.
pub fn new(folder: &Path, socket: &Path, step: &str, act: &str) -> String {
    let socket = socket.display();
    let act = act.replace('\'', "'\\''");
    let shell = format!("exec python3 {} new {socket} {step} '{act}' >&2", half());
    server(folder, &format!("new-{step}"), &shell)
}

/// A process that has these books, up to a step.
pub struct Old(Child);

impl Old {
    pub fn start(socket: &Path, step: &str, act: &str, books: &Books) -> Old {
        let child = Command::new("python3")
            .args([&half(), "old"])
            .arg(socket)
            .args([step, act, &serde_json::to_string(books).unwrap()])
            .stdout(Stdio::null())
            .spawn();
        Old(child.unwrap())
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().unwrap_or_default();
        self.0.wait().unwrap();
    }
}
