//! The repository's Rust files, as lines.

use std::path::{Path, PathBuf};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A Rust file. Its code ends where its unit tests begin.
pub struct Source {
    /// From the repository's root, with slashes.
    pub path: String,
    pub lines: Vec<String>,
    /// How many of the lines come before `#[cfg(test)]`.
    pub code_lines: usize,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let lines: Vec<String> = text.lines().map(String::from).collect();
        // A declaration of a file of tests, or of something tests need, has code after it.
        let tests_begin = |two: &[String]| {
            two[0] == "#[cfg(test)]" && two[1].starts_with("mod ") && two[1].ends_with('{')
        };
        let tests_at = lines.windows(2).position(tests_begin);
        Source {
            path: String::from(path),
            code_lines: tests_at.unwrap_or(lines.len()),
            lines,
        }
    }

    /// The code, line by line from 1, comments blanked.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let code = self.lines.iter().take(self.code_lines);
        code.enumerate().map(|(at, line)| (at + 1, bare(line)))
    }

    /// `quota` for `src/quota/ledger.rs` and `src/quota.rs`.
    pub fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let first = inside.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }
}

/// A line without its comment. A `//` in a string ends the line too early, which hides nothing that
/// these rules look for but a name in that string.
fn bare(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Every Rust file below these folders, in order of path.
pub fn sources(folders: &[&str]) -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in folders {
        collect(&root().join(folder), &mut paths);
    }
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let relative = path.strip_prefix(root()).unwrap_or(&path);
        Source::new(&relative.to_string_lossy().replace('\\', "/"), &text)
    };
    paths.into_iter().map(read).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            let skipped = path.ends_with("target") || path.ends_with("corpus");
            if !skipped {
                collect(&path, paths);
            }
        } else if path.extension().is_some_and(|end| end == "rs") {
            paths.push(path);
        }
    }
}

#[test]
fn the_files_are_found() {
    let found = sources(&["src", "tests"]);
    assert!(found.iter().any(|source| source.path == "src/lib.rs"));
    assert!(
        found
            .iter()
            .any(|source| source.path == "tests/tidy/main.rs")
    );
}
