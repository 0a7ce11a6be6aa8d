//! The house rules as tests: which module may know which, how long things may get, which words and
//! which dependencies are ours. Each failure names file and line, and how to mend it.
//!
//! The idea is TigerBeetle's: what reviewers would have to repeat, a test says once.

mod dependencies;
mod layers;
mod shape;
mod source;

/// Fails with every finding at once.
fn demand(findings: Vec<String>) {
    assert!(
        findings.is_empty(),
        "\n{} to mend:\n{}\n",
        findings.len(),
        findings.join("\n")
    );
}
