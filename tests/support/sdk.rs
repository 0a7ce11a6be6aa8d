//! Scripts of other languages, run with what their users install. They are in `tests/sdk`; what they need
//! is installed once, under `target`.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

/// Seconds that one script may take.
const SCRIPT_TIMEOUT_S: &str = "180";

/// An interpreter and its folder of scripts.
#[derive(Debug)]
pub struct Language {
    name: &'static str,
    /// Inside the folder, or in `PATH`.
    interpreter: &'static str,
    installation: &'static [&'static str],
    /// What the installed packages depend on.
    pins: &'static [&'static str],
}

pub const PYTHON: Language = Language {
    name: "python",
    interpreter: "venv/bin/python",
    installation: &[
        "python3 -m venv venv",
        "venv/bin/python -m pip install --quiet --requirement requirements.txt",
    ],
    pins: &["requirements.txt"],
};

pub const NODE: Language = Language {
    name: "node",
    interpreter: "node",
    installation: &["npm ci --ignore-scripts --no-audit --no-fund"],
    pins: &["package.json", "package-lock.json"],
};

impl Language {
    fn sources(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/sdk")
            .join(self.name)
    }

    /// The folder with the scripts and their packages. It is named by its content and made once; of
    /// several tests that make it at the same time the first to finish wins.
    pub fn installed(&self) -> PathBuf {
        let mut digest = Sha256::new();
        for pin in self.pins {
            digest.update(std::fs::read(self.sources().join(pin)).unwrap());
        }
        let hash: String = digest.finalize()[..6]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = target.join(format!("sdk-{}-{hash}", self.name));
        if !folder.exists() {
            let unfinished = tempfile::tempdir_in(target).unwrap();
            self.install(unfinished.path());
            if std::fs::rename(unfinished.path(), &folder).is_ok() {
                // It has its final name now; nothing is left to remove.
                let _ = unfinished.keep();
            }
        }
        for script in std::fs::read_dir(self.sources()).unwrap() {
            let script = script.unwrap();
            let is_script = script.path().extension().is_some_and(|e| e == "mjs");
            if is_script {
                copy_atomically(&script.path(), &folder.join(script.file_name()));
            }
        }
        folder
    }

    fn install(&self, folder: &Path) {
        for pin in self.pins {
            std::fs::copy(self.sources().join(pin), folder.join(pin)).unwrap();
        }
        for command in self.installation {
            let mut words = command.split(' ');
            let program = folder.join(words.next().unwrap());
            // A program that the folder does not bring is looked up in PATH.
            let program = match program.exists() {
                true => program,
                false => program.file_name().unwrap().into(),
            };
            let output = Command::new(program)
                .args(words)
                .current_dir(folder)
                .output();
            let output = output.unwrap_or_else(|e| {
                panic!("{command}: {e}; these tests need python3 with venv, node and npm (make test-tools)")
            });
            assert!(output.status.success(), "{command}: {output:?}");
        }
    }

    /// Runs scripts of the folder, one after the other.
    ///
    /// # Panics
    /// One fails; with what it printed.
    pub fn run(&self, scripts: &[&str], surroundings: &[(&str, String)]) {
        let folder = self.installed();
        for script in scripts {
            // Node looks for packages from where the script lies, Python from where it lies itself.
            let (interpreter, place) = match self.name {
                "python" => (folder.join(self.interpreter), self.sources()),
                _ => (self.interpreter.into(), folder.clone()),
            };
            let output = Command::new("timeout")
                .arg(SCRIPT_TIMEOUT_S)
                .arg(interpreter)
                .arg(place.join(script))
                .envs(surroundings.iter().map(|(name, value)| (name, value)))
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .env("NO_PROXY", "127.0.0.1")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            println!("{script}:\n{said}");
            let faults = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{script}: {said}\n{faults}");
        }
    }
}

fn copy_atomically(from: &Path, to: &Path) {
    let copy = tempfile::NamedTempFile::new_in(to.parent().unwrap()).unwrap();
    std::fs::copy(from, copy.path()).unwrap();
    copy.persist(to).unwrap();
}
