//! A folder that dpkg takes for the root of a system.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::command::said;

/// An empty system. Gone when dropped.
#[derive(Debug)]
pub struct Root {
    folder: tempfile::TempDir,
}

impl Root {
    pub fn new() -> Self {
        let root = Root {
            folder: tempfile::tempdir().unwrap(),
        };
        for folder in ["updates", "info", "triggers"] {
            std::fs::create_dir_all(root.path("var/lib/dpkg").join(folder)).unwrap();
        }
        std::fs::write(root.path("var/lib/dpkg/status"), "").unwrap();
        root
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub fn text(&self, path: &str) -> String {
        let path = self.path(path);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Runs dpkg on this root. Its maintainer scripts see the root by `$DPKG_ROOT`.
    pub fn dpkg(&self, action: &str, what: impl AsRef<OsStr>) -> String {
        let mut dpkg = as_root("dpkg");
        dpkg.arg(format!("--root={}", self.folder.path().display()));
        // What it depends on is outside.
        dpkg.args([
            "--force-depends",
            "--force-script-chrootless",
            "--force-confold",
        ]);
        dpkg.arg("--log=/dev/null").arg(action).arg(what);
        said(dpkg.env("DEBIAN_FRONTEND", "noninteractive"))
    }

    /// Every path below the root that has `word` in it, dpkg's own files included.
    pub fn with(&self, word: &str) -> Vec<String> {
        let listed = said(
            Command::new("find")
                .arg(self.folder.path())
                .args(["-printf", "%P\n"]),
        );
        let found = listed.lines().filter(|path| path.contains(word));
        found.map(String::from).collect()
    }
}

/// A package like another, but for its version and what `change` does to its files.
pub fn next_version(package: &Path, version: &str, change: impl Fn(&Path)) -> PathBuf {
    let folder = package.with_extension("next");
    let next = package.with_extension("next.deb");
    silent_dpkg_deb(&["--raw-extract".as_ref(), package.as_ref(), folder.as_ref()]);
    change(&folder);
    let control = folder.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control).unwrap();
    let old = format!("Version: {}\n", env!("CARGO_PKG_VERSION"));
    assert!(text.contains(&old), "{text}");
    std::fs::write(
        &control,
        text.replace(&old, &format!("Version: {version}\n")),
    )
    .unwrap();
    silent_dpkg_deb(&[
        "-Znone".as_ref(),
        "--root-owner-group".as_ref(),
        "--build".as_ref(),
        folder.as_ref(),
        next.as_ref(),
    ]);
    next
}

fn silent_dpkg_deb(arguments: &[&OsStr]) {
    said(Command::new("dpkg-deb").args(arguments));
}

/// A program that believes that it is root: files are then given to whom the package says.
fn as_root(program: &str) -> Command {
    if said(Command::new("id").arg("-u")).trim() == "0" {
        return Command::new(program);
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", program]);
    unshare
}
