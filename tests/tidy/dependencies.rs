//! What we build on: each used, none unwelcome, every licence one we may pass on.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use super::demand;
use super::source::{root, sources};

/// Licences that go with Apache-2.0 in one binary, by their SPDX names.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "OpenSSL",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// What must not come in, and why.
const UNWELCOME: &[(&str, &str)] = &[
    (
        "openssl-sys",
        "links the system's OpenSSL; choose the crate's rustls feature",
    ),
    (
        "native-tls",
        "links the system's OpenSSL; choose the crate's rustls feature",
    ),
    ("serde_yml", "unmaintained and unsound (RUSTSEC-2025-0068)"),
    ("yaml-rust", "unmaintained (RUSTSEC-2024-0320)"),
    ("atty", "unmaintained and unsound (RUSTSEC-2021-0145)"),
];

/// Unwelcome among our own, though others may bring it.
const UNWELCOME_OF_OURS: &[(&str, &str)] = &[
    ("chrono", "jiff is our calendar"),
    ("serde_yaml", "deprecated; serde_yaml_ng goes on with it"),
    (
        "lazy_static",
        "no statics; std::sync::LazyLock where one is due",
    ),
    (
        "once_cell",
        "no statics; std::sync::LazyLock where one is due",
    ),
];

/// Crates that stand in Cargo.lock in several incompatible versions. A ratchet: it only goes down.
const MAX_DOUBLED: usize = 30;

#[test]
fn every_dependency_is_used() {
    let code: Vec<String> = sources(&["src", "lua-free-plugins"])
        .iter()
        .flat_map(|source| {
            source
                .code()
                .map(|(_, code)| String::from(code))
                .collect::<Vec<_>>()
        })
        .collect();
    let unused = direct_dependencies().into_iter().filter(|(name, _)| {
        let path = format!("{}::", name.replace('-', "_"));
        !code.iter().any(|line| line.contains(&path))
    });
    let tell =
        |(name, line)| format!("Cargo.toml:{line}: nothing in src uses `{name}`; take it out");
    demand(unused.map(tell).collect());
}

/// The names under `[dependencies]`, with their lines.
fn direct_dependencies() -> Vec<(String, usize)> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap_or_default();
    let mut inside = false;
    let mut found = Vec::new();
    for (at, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if let Some((name, _)) = line
            .split_once('=')
            .filter(|_| inside && !line.starts_with('#'))
        {
            found.push((String::from(name.trim()), at + 1));
        }
    }
    assert!(found.len() > 5, "Cargo.toml could not be read");
    found
}

#[test]
fn nothing_unwelcome_comes_in() {
    let locked = locked_versions();
    let all = UNWELCOME
        .iter()
        .filter(|(name, _)| locked.contains_key(*name));
    let mut findings: Vec<String> = all
        .map(|(name, why)| format!("Cargo.lock:1: `{name}` has come in: {why}"))
        .collect();
    let metadata = metadata();
    let ours = metadata["packages"].as_array().into_iter().flatten();
    let ours = ours.filter(|package| package["name"] == env!("CARGO_PKG_NAME"));
    let wanted: BTreeSet<&str> = ours
        .flat_map(|package| package["dependencies"].as_array().into_iter().flatten())
        .filter_map(|dependency| dependency["name"].as_str())
        .collect();
    for (name, why) in UNWELCOME_OF_OURS
        .iter()
        .filter(|(name, _)| wanted.contains(name))
    {
        findings.push(format!("Cargo.toml:1: `{name}`: {why}"));
    }
    demand(findings);
}

#[test]
fn few_crates_are_there_twice() {
    let doubled: Vec<String> = locked_versions()
        .into_iter()
        .filter(|(_, versions)| versions.len() > 1)
        .map(|(name, versions)| format!("{name} {}", Vec::from_iter(versions).join(", ")))
        .collect();
    assert!(
        doubled.len() <= MAX_DOUBLED,
        "Cargo.lock:1: {} crates in several versions, more than {MAX_DOUBLED}; \
         choose versions that share theirs:\n{}",
        doubled.len(),
        doubled.join("\n")
    );
}

/// Name to the incompatible versions of it in Cargo.lock: the major, or the minor of a 0.x.
fn locked_versions() -> BTreeMap<String, BTreeSet<String>> {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap_or_default();
    let mut locked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let quoted = |line: &str, field: &str| {
        let value = line.strip_prefix(field)?.strip_prefix(" = ")?;
        Some(String::from(value.trim_matches('"')))
    };
    let mut name = String::new();
    for line in lock.lines() {
        if let Some(found) = quoted(line, "name") {
            name = found;
        } else if let Some(version) = quoted(line, "version").filter(|_| !name.is_empty()) {
            let parts: Vec<&str> = version.split('.').collect();
            let kept = if parts.first() == Some(&"0") { 2 } else { 1 };
            let series = parts
                .iter()
                .take(kept)
                .copied()
                .collect::<Vec<_>>()
                .join(".");
            locked
                .entry(std::mem::take(&mut name))
                .or_default()
                .insert(series);
        }
    }
    assert!(locked.len() > 20, "Cargo.lock could not be read");
    locked
}

#[test]
fn every_licence_is_one_we_may_pass_on() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    assert!(packages.len() > 20, "cargo metadata could not be read");
    let mut findings = Vec::new();
    for package in &packages {
        let licence = package["license"].as_str().unwrap_or_default();
        if !acceptable(licence) {
            let (name, version) = (&package["name"], &package["version"]);
            findings.push(format!(
                "Cargo.lock:1: {name} {version} is under {licence:?}; choose another crate, or add \
                 the licence to tests/tidy/dependencies.rs once it is known to go with Apache-2.0"
            ));
        }
    }
    demand(findings);
}

/// What cargo knows of everything that is built for this machine.
fn metadata() -> serde_json::Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| String::from("cargo"));
    let host = Command::new("rustc")
        .arg("-vV")
        .output()
        .map(|output| output.stdout);
    let host = String::from_utf8(host.unwrap_or_default()).unwrap_or_default();
    let triple = host
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap_or_default();
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(["--filter-platform", triple])
        .current_dir(root())
        .output();
    let json = output.map(|output| output.stdout).unwrap_or_default();
    serde_json::from_slice(&json).unwrap_or_default()
}

/// Whether an SPDX expression can be met with our licences alone. `/` is the old way to write OR.
fn acceptable(expression: &str) -> bool {
    let expression = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut words: Vec<&str> = expression.split_whitespace().rev().collect();
    any_of(&mut words) && words.is_empty()
}

fn any_of(words: &mut Vec<&str>) -> bool {
    let mut met = all_of(words);
    while words.last() == Some(&"OR") {
        words.pop();
        met |= all_of(words);
    }
    met
}

fn all_of(words: &mut Vec<&str>) -> bool {
    let mut met = one(words);
    while words.last() == Some(&"AND") {
        words.pop();
        met &= one(words);
    }
    met
}

fn one(words: &mut Vec<&str>) -> bool {
    let Some(word) = words.pop() else {
        return false;
    };
    if word == "(" {
        let met = any_of(words);
        return words.pop() == Some(")") && met;
    }
    let mut name = String::from(word);
    if words.last() == Some(&"WITH") {
        words.pop();
        name = format!("{name} WITH {}", words.pop().unwrap_or_default());
    }
    LICENCES.contains(&name.as_str())
}

#[test]
fn licence_expressions_are_understood() {
    for right in [
        "MIT",
        "MIT OR Apache-2.0",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
    ] {
        assert!(acceptable(right), "{right}");
    }
    for wrong in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT",
        "MIT Apache-2.0",
        "MIT)",
    ] {
        assert!(!acceptable(wrong), "{wrong}");
    }
}
