//! The arrow of `src/lib.rs`: who may know whom.

use super::demand;
use super::source::{Source, sources};

/// What each module may name of the others.
const MAY_USE: &[(&str, &[&str])] = &[
    ("time", &[]),
    ("language", &[]),
    ("quota", &["keys", "time"]),
    ("keys", &["quota", "time"]),
    ("metering", &["quota", "time"]),
    ("store", &["keys", "quota", "time"]),
    ("config", &["metering", "quota", "store", "time"]),
    ("upstream", &["config", "metering", "quota", "time"]),
    (
        "exchange",
        &[
            "config", "keys", "language", "metering", "quota", "store", "time", "upstream",
        ],
    ),
    (
        "telemetry",
        &["config", "keys", "metering", "quota", "store", "time"],
    ),
    (
        "plugins",
        &[
            "config",
            "exchange",
            "keys",
            "metering",
            "quota",
            "telemetry",
            "time",
        ],
    ),
    (
        "admin",
        &[
            "config",
            "exchange",
            "keys",
            "language",
            "metering",
            "quota",
            "store",
            "telemetry",
            "time",
            "upstream",
        ],
    ),
    (
        "proxy",
        &[
            "admin",
            "config",
            "exchange",
            "keys",
            "language",
            "metering",
            "plugins",
            "quota",
            "store",
            "telemetry",
            "time",
            "upstream",
        ],
    ),
    (
        "server",
        &[
            "admin",
            "config",
            "exchange",
            "keys",
            "metering",
            "plugins",
            "proxy",
            "quota",
            "store",
            "telemetry",
            "time",
            "upstream",
        ],
    ),
];

/// The composition of the whole may name everything.
const MAY_USE_ALL: &[&str] = &["lib", "main", "cli"];

/// What the core does without: it is given time, randomness and bytes.
const NOT_IN_CORE: &[&str] = &[
    "pingora",
    "tokio",
    "axum",
    "hyper",
    "rusqlite",
    "redis",
    "reqwest",
    "http::",
    "log::",
    "prometheus",
    "getrandom",
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "SystemTime",
    "Instant::now",
    "UnixMs::now",
];

/// The life of an exchange may wait, but knows no server, no database and no HTTP library.
const NOT_IN_EXCHANGE: &[&str] = &[
    "pingora", "axum", "hyper", "rusqlite", "redis", "reqwest", "http::",
];

const CORE: &[&str] = &["keys", "quota", "metering", "upstream"];

/// The half of `upstream` that talks to providers.
const SHELL_OF_UPSTREAM: &[&str] = &[
    "src/upstream/probe",
    "src/upstream/balance",
    "src/upstream/alert",
];

#[test]
fn modules_use_only_what_lies_to_their_right() {
    demand(sources(&["src"]).iter().flat_map(crossings).collect());
}

fn crossings(source: &Source) -> Vec<String> {
    let module = source.module().unwrap_or_default();
    if MAY_USE_ALL.contains(&module) {
        return Vec::new();
    }
    let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
        let path = &source.path;
        return vec![format!(
            "{path}:1: the module `{module}` has no place in the arrow; give it one in tests/tidy/layers.rs"
        )];
    };
    let crossing = |(line, used): &(usize, String)| {
        used != module && !allowed.contains(&used.as_str()) && *line > 0
    };
    let tell = |(line, used): (usize, String)| {
        format!(
            "{}:{line}: `{module}` may not use `{used}`: the arrow of src/lib.rs runs the other way; \
             move what both need to the right, or pass it as an argument",
            source.path
        )
    };
    uses(source)
        .into_iter()
        .filter(crossing)
        .map(tell)
        .collect()
}

/// Every `crate::module` with its line, `use crate::{a::B, c}` included.
fn uses(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // Depth of braces inside a `use crate::{ … }`; names count at depth 1.
    let mut depth = 0;
    for (line, code) in source.code() {
        let mut rest = code;
        while !rest.is_empty() {
            if depth == 0 {
                let Some((_, after)) = rest.split_once("crate::") else {
                    break;
                };
                rest = after;
                match rest.strip_prefix('{') {
                    Some(inside) => (depth, rest) = (1, inside),
                    None => found.push((line, first_name(rest))),
                }
                continue;
            }
            let name = first_name(rest);
            if !name.is_empty() {
                if depth == 1 {
                    found.push((line, name.clone()));
                }
                rest = rest.get(name.len()..).unwrap_or_default();
                // What follows a name up to the next comma belongs to it.
                let end = rest.find([',', '{', '}']).unwrap_or(rest.len());
                rest = rest.get(end..).unwrap_or_default();
                continue;
            }
            match rest.chars().next() {
                Some('{') => depth += 1,
                Some('}') => depth -= 1,
                _ => {}
            }
            rest = rest.get(1..).unwrap_or_default();
        }
    }
    found.retain(|(_, name)| name.chars().next().is_some_and(char::is_lowercase));
    found
}

fn first_name(text: &str) -> String {
    let name = |c: &char| c.is_alphanumeric() || *c == '_';
    text.chars().take_while(name).collect()
}

#[test]
fn the_core_knows_no_world() {
    let all = sources(&["src"]);
    let findings = all.iter().flat_map(|source| {
        let module = source.module().unwrap_or_default();
        let is_shell = SHELL_OF_UPSTREAM
            .iter()
            .any(|path| source.path.starts_with(path));
        let banned = match module {
            "exchange" => NOT_IN_EXCHANGE,
            module if CORE.contains(&module) && !is_shell => NOT_IN_CORE,
            _ => &[],
        };
        banned_names(source, banned)
    });
    demand(findings.collect());
}

fn banned_names(source: &Source, banned: &[&str]) -> Vec<String> {
    let mut findings = Vec::new();
    for (line, code) in source.code() {
        for name in banned.iter().filter(|name| names(code, name)) {
            let module = source.module().unwrap_or_default();
            findings.push(format!(
                "{}:{line}: `{module}` names `{name}`; the shell must do this, and hand over what it finds",
                source.path
            ));
        }
    }
    findings
}

/// Whether `code` holds `name` as a path of its own, not as the end of a longer word.
fn names(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code.get(..at).and_then(|before| before.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[test]
fn the_rules_see_what_they_forbid() {
    let text = "//! x\nuse crate::{\n    quota::{Limit, claim::Ask},\n    proxy::Facts, time,\n};\nlet a = crate::admin::b();\n";
    let source = Source::new("src/keys/x.rs", text);
    let used: Vec<String> = uses(&source).into_iter().map(|(_, name)| name).collect();
    assert_eq!(used, ["quota", "proxy", "time", "admin"]);
    assert_eq!(crossings(&source).len(), 2);
    let core = Source::new(
        "src/quota/x.rs",
        "let t = Instant::now();\n// tokio\nlet http_status = 1;\n",
    );
    assert_eq!(banned_names(&core, NOT_IN_CORE).len(), 1);
}
