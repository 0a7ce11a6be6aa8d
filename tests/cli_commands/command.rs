//! One run of the binary, and what it said.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::admin::TOKEN;

/// How a command ended.
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Done {
    /// # Panics
    /// Where the command failed.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self
    }

    /// # Panics
    /// Where it did not fail in this way, or said the token.
    pub fn failed(self, code: i32, why: &str) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        assert!(self.err.contains(why), "{why:?} is not in:\n{}", self.err);
        assert!(!self.err.contains(TOKEN) && !self.out.contains(TOKEN));
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|fault| panic!("{fault}: {}", self.out))
    }
}

/// `quota-proxy` with these words, in an environment with nothing in it but what is given.
pub async fn run_in(envs: &[(&str, &str)], words: &[&str]) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quota-proxy"));
    command.args(words).env_clear().envs(envs.iter().copied());
    command.stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output());
    let done = output.await.unwrap().unwrap();
    Done {
        code: done.status.code(),
        out: String::from_utf8(done.stdout).unwrap(),
        err: String::from_utf8(done.stderr).unwrap(),
    }
}

/// The same as an operator with the right token, at this admin service.
pub async fn run(admin: SocketAddr, words: &[&str]) -> Done {
    let url = format!("http://{admin}");
    let envs = [("ADMIN_TOKEN", TOKEN), ("QUOTA_PROXY_ADMIN", url.as_str())];
    run_in(&envs, words).await
}

/// A path as a word.
pub fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The permission bits of a file.
pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Compares with `tests/golden/cli/NAME`; `GOLDEN=write` writes it anew.
pub fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/cli")
        .join(name);
    if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "tests/golden/cli/{name}");
}
