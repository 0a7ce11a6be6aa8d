//! The real, unmodified SDKs of OpenAI and Anthropic, for Python and Node, against the fake and then
//! through the proxy. The scripts are in `tests/sdk`; what they need is installed once, under `target`.
#![expect(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use quota_proxy::cli::fake_upstream::Options;
use serde_json::json;
use sha2::{Digest as _, Sha256};

mod support;

use support::admin::Key;
use support::fake::Fake;
use support::rig::{Rig, chat};

/// Seconds that one script may take.
const SCRIPT_TIMEOUT_S: &str = "180";

/// An interpreter and its folder of scripts.
struct Language {
    name: &'static str,
    /// Inside the folder, or in `PATH`.
    interpreter: &'static str,
    installation: &'static [&'static str],
    /// What the installed packages depend on.
    pins: &'static [&'static str],
    scripts: &'static [&'static str],
}

const PYTHON: Language = Language {
    name: "python",
    interpreter: "venv/bin/python",
    installation: &[
        "python3 -m venv venv",
        "venv/bin/python -m pip install --quiet --requirement requirements.txt",
    ],
    pins: &["requirements.txt"],
    scripts: &["test_openai.py", "test_anthropic.py"],
};

const NODE: Language = Language {
    name: "node",
    interpreter: "node",
    installation: &["npm ci --ignore-scripts --no-audit --no-fund"],
    pins: &["package.json", "package-lock.json"],
    scripts: &["openai.mjs", "anthropic.mjs"],
};

impl Language {
    fn sources(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/sdk")
            .join(self.name)
    }

    /// The folder with the scripts and their packages. It is named by its content and made once; of
    /// several tests that make it at the same time the first to finish wins.
    fn installed(&self) -> PathBuf {
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

    /// Runs every script of the language.
    ///
    /// # Panics
    /// One fails; with what it printed.
    fn run(&self, surroundings: &[(&str, String)]) {
        let folder = self.installed();
        for script in self.scripts {
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

fn satisfied_by_the_fake(language: &Language) {
    let fake = Fake::start(Options::default());
    language.run(&[
        ("BASE_URL", fake.url()),
        ("API_KEY", "sk-anything".to_owned()),
        ("LEDGER_URL", format!("{}/_fake/ledger", fake.url())),
    ]);
}

#[test]
fn the_fake_satisfies_the_python_sdks() {
    satisfied_by_the_fake(&PYTHON);
}

#[test]
fn the_fake_satisfies_the_node_sdks() {
    satisfied_by_the_fake(&NODE);
}

/// A key whose only request is spent.
async fn empty_key(rig: &Rig) -> Key {
    let body = json!({"name": "empty", "token_limit": 0, "request_limit": 1,
                      "rate_limit_tier": "unlimited"});
    let key = rig.admin().create(body).await;
    let first = rig
        .post("/v1/chat/completions", &key.secret, &chat("gpt-4o"))
        .await;
    assert_eq!(first.status(), 200);
    first.bytes().await.unwrap();
    key
}

async fn through_the_proxy(language: &'static Language) {
    let rig = Rig::builder()
        .set("edge.max_request_body", json!("2MiB"))
        .start()
        .await;
    let admin = rig.admin();
    let key = admin.key(0).await;
    let empty = empty_key(&rig).await;
    let disabled = admin.key(0).await;
    admin.act(&disabled, "disable").await;
    let narrow = json!({"name": "narrow", "token_limit": 0, "rate_limit_tier": "unlimited",
                        "allowed_models": ["other-*"]});
    let narrow = admin.create(narrow).await;
    let refused = |shown: &serde_json::Value| shown["error_count"].as_u64().unwrap();
    let refused_before = refused(&admin.show(&empty).await);
    let surroundings = [
        ("BASE_URL", rig.url()),
        ("API_KEY", key.secret.clone()),
        ("LEDGER_URL", format!("{}/_fake/ledger", rig.fake().url())),
        ("BEHIND_PROXY", "1".to_owned()),
        ("EMPTY_KEY", empty.secret.clone()),
        ("DISABLED_KEY", disabled.secret),
        ("NARROW_KEY", narrow.secret),
    ];
    let run = tokio::task::spawn_blocking(move || language.run(&surroundings));
    run.await.unwrap();
    // Each script called once with the empty key, and its SDK obeyed `x-should-retry: false`.
    let calls = language.scripts.len() as u64;
    let refused_calls = support::wait::eventually(support::wait::PATIENCE, || async {
        let count = refused(&admin.show(&empty).await) - refused_before;
        support::wait::that(count, |&count| count >= calls)
    });
    assert_eq!(refused_calls.await, calls);
}

#[tokio::test]
async fn the_python_sdks_work_through_the_proxy() {
    through_the_proxy(&PYTHON).await;
}

#[tokio::test]
async fn the_node_sdks_work_through_the_proxy() {
    through_the_proxy(&NODE).await;
}
