//! How long files and functions may get, what they begin with, and what they are called.

use super::demand;
use super::source::{Source, sources};

const MAX_FILE_LINES: usize = 400;
const MAX_FUNCTION_LINES: usize = 70;

/// Names that say nothing of what lives there.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "types", "misc",
];

/// One word per thing: what is not said here, and what is said in its place.
const WORDS: &[(&str, &str)] = &[
    ("ticket", "reservation"),
    ("refund", "settlement"),
    ("rejection", "refusal"),
    ("backend", "peer"),
    ("apitoken", "key"),
    ("api_token", "key"),
];

#[test]
fn files_are_short() {
    let long = |source: &Source| source.code_lines > MAX_FILE_LINES;
    let tell = |source: &Source| {
        format!(
            "{}:{MAX_FILE_LINES}: {} lines of code, more than {MAX_FILE_LINES}; split it by meaning",
            source.path, source.code_lines
        )
    };
    let all = sources(&["src", "benches", "lua-free-plugins"]);
    demand(all.iter().filter(|source| long(source)).map(tell).collect());
}

#[test]
fn functions_are_short() {
    let all = sources(&["src", "benches", "lua-free-plugins"]);
    demand(all.iter().flat_map(long_functions).collect());
}

/// rustfmt puts the closing brace of a function under its first letter.
fn long_functions(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    for (at, code) in source.code() {
        let Some(name) = function_name(code) else {
            continue;
        };
        let indent = code.len() - code.trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        let rest = || source.lines.iter().skip(at - 1);
        // A head that ends in a semicolon has no body; one that opens and closes has a short one.
        let head_end = rest().find(|line| line.ends_with([';', '{', '}']));
        let has_body = head_end.is_some_and(|line| line.ends_with('{'));
        let length = rest().take_while(|line| **line != end).count() + 1;
        if !has_body || length <= MAX_FUNCTION_LINES {
            continue;
        }
        findings.push(format!(
            "{}:{at}: `{name}` has {length} lines, more than {MAX_FUNCTION_LINES}; \
             keep the ifs, and move the loops and details into functions of their own",
            source.path
        ));
    }
    findings
}

fn function_name(code: &str) -> Option<&str> {
    let (before, after) = code.split_once("fn ")?;
    let is_head = before.split_whitespace().all(|word| {
        word.starts_with("pub") || matches!(word, "async" | "const" | "crate)" | "super)" | "in")
    });
    let name = after.split(['(', '<']).next()?;
    // A macro's `fn $name` stands for many; what it expands to is not laid out here.
    (is_head && !name.is_empty() && !name.starts_with('$')).then_some(name)
}

#[test]
fn files_begin_with_what_they_are_for() {
    let all = sources(&["src", "tests", "benches", "lua-free-plugins"]);
    let silent = |source: &&Source| {
        !source
            .lines
            .first()
            .is_some_and(|line| line.starts_with("//! "))
    };
    let tell = |source: &Source| {
        format!(
            "{}:1: begins without `//! …`; say in a sentence what lives here",
            source.path
        )
    };
    demand(all.iter().filter(silent).map(tell).collect());
}

#[test]
fn modules_are_named_for_their_meaning() {
    let mut findings = Vec::new();
    for source in sources(&["src", "tests", "benches", "lua-free-plugins"]) {
        let mut parts = source.path.trim_end_matches(".rs").split('/');
        if let Some(name) = parts.find(|part| EMPTY_NAMES.contains(part)) {
            let path = &source.path;
            findings.push(format!(
                "{path}:1: `{name}` names nothing; call it after what it is about"
            ));
        }
    }
    demand(findings);
}

#[test]
fn nothing_is_allowed_without_an_end() {
    let mut findings = Vec::new();
    // Put together here, or this line would be a finding.
    let banned = ["#[", "#!["].map(|open| format!("{open}{}(", "allow"));
    for source in sources(&["src", "tests", "benches", "lua-free-plugins"]) {
        for (at, line) in source.lines.iter().enumerate() {
            if banned.iter().any(|banned| line.contains(banned.as_str())) {
                let (path, line) = (&source.path, at + 1);
                findings.push(format!(
                    "{path}:{line}: mend the code, or write `#[expect(…, reason = \"…\")]`"
                ));
            }
        }
    }
    demand(findings);
}

#[test]
fn one_word_per_thing() {
    let all = sources(&["src", "lua-free-plugins"]);
    demand(all.iter().flat_map(foreign_words).collect());
}

fn foreign_words(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    for (line, code) in source.code() {
        let Some(name) = declared_name(code) else {
            continue;
        };
        let lower = name.to_lowercase();
        for (word, ours) in WORDS.iter().filter(|(word, _)| lower.contains(word)) {
            let path = &source.path;
            findings.push(format!(
                "{path}:{line}: `{name}` says `{word}`; the house says `{ours}`"
            ));
        }
    }
    findings
}

/// The name that a line declares, if any.
fn declared_name(code: &str) -> Option<&str> {
    let mut words = code.split_whitespace().peekable();
    let kinds = [
        "struct", "enum", "trait", "type", "mod", "fn", "const", "static",
    ];
    words.find(|word| kinds.contains(word))?;
    words.next()?.split(['(', '<', ':', ';', '{']).next()
}

#[test]
fn the_rules_see_what_they_forbid() {
    let long = format!(
        "pub async fn long(\n) {{\n{}}}\n",
        "    x();\n".repeat(MAX_FUNCTION_LINES)
    );
    assert_eq!(long_functions(&Source::new("src/x.rs", &long)).len(), 1);
    let bodyless = format!(
        "    fn c(\n        d: u8,\n    ) -> u8;\n{}",
        "    // x\n".repeat(99)
    );
    assert!(long_functions(&Source::new("src/x.rs", &bodyless)).is_empty());
    let short = "fn a() {\n    b();\n}\nfn c();\n";
    assert!(long_functions(&Source::new("src/x.rs", short)).is_empty());
    let words = Source::new("src/x.rs", "struct RefundTicket;\nfn peer() {}\n");
    assert_eq!(foreign_words(&words).len(), 2);
}
