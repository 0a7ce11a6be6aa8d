//! Programs of the system, run to their end.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub const BINARY: &str = env!("CARGO_BIN_EXE_quota-proxy");

/// A path in the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs to the end; programs for administrators are found too.
///
/// # Panics
/// The program is not there (`make test-tools` installs it).
pub fn run(command: &mut Command) -> Output {
    let path = std::env::var("PATH").unwrap_or_default();
    let given = command.get_envs().any(|(name, _)| name == "PATH");
    if !given {
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    }
    let program = command.get_program().to_owned();
    let output = command.output();
    output.unwrap_or_else(|e| panic!("{}: {e}; see `make test-tools`", program.display()))
}

/// What a program says on stdout, where it succeeds.
///
/// # Panics
/// It fails; with all it said.
pub fn said(command: &mut Command) -> String {
    let output = run(command);
    let err = String::from_utf8_lossy(&output.stderr);
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{out}{err}",
        output.status
    );
    out.into_owned()
}

/// The same, of a program that must have nothing to remark.
pub fn silent(command: &mut Command) {
    let output = run(command);
    let remarks = [output.stdout, output.stderr].concat();
    let remarks = String::from_utf8_lossy(&remarks);
    assert!(
        output.status.success() && remarks.is_empty(),
        "{command:?}: {}\n{remarks}",
        output.status
    );
}
