//! `pools`: which upstream endpoints serve which models, and how.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::peers::peers;
use super::scalar::{choice, duration, duration_in, glob, text, url_path, whole};
use super::section::{Field, Section};
use super::{Balance, HealthCheck, PoolConfig, RetryOn, Timeouts};
use crate::metering::Dialect;

/// How long a health check waits by default: its interval, within these bounds.
const SHORTEST_CHECK: Duration = Duration::from_secs(1);
const LONGEST_CHECK: Duration = Duration::from_secs(5);

/// Reads `pools`.
pub fn pools(root: &mut Section<'_>) -> Vec<Arc<PoolConfig>> {
    let fields = root.items("pools");
    if root.lacks("pools") {
        root.place_of("pools")
            .notice("there are none: nothing is forwarded, every model is unknown");
    }
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut pools = Vec::new();
    let mut fallbacks = Vec::new();
    for field in &fields {
        let (pool, fallback) = pool(field.section());
        fallbacks.push(fallback);
        let path = field.at.path.clone();
        if let Some(first) = names.get(&pool.name) {
            let message = format!(
                "the name {:?} is taken by {first}, expected another",
                pool.name
            );
            field.at.fault(message);
        } else if !pool.name.is_empty() {
            names.insert(pool.name.clone(), path);
        }
        pools.push(pool);
    }
    for (at, field) in fallbacks.into_iter().enumerate() {
        let named = field.map(|field| fallback(&field, &pools[at], &pools));
        pools[at].fallback = named;
    }
    pools.into_iter().map(Arc::new).collect()
}

/// The pools that `own` falls back to: each is there, is another one, and speaks the same dialect.
fn fallback(field: &Field<'_>, own: &PoolConfig, pools: &[PoolConfig]) -> Vec<String> {
    let expected = || {
        let fits = |pool: &&PoolConfig| pool.name != own.name && pool.dialect == own.dialect;
        let names: Vec<&str> = pools
            .iter()
            .filter(fits)
            .map(|pool| pool.name.as_str())
            .collect();
        match names.as_slice() {
            [] => String::from("expected none: no other pool has this pool's dialect"),
            names => format!(
                "expected another pool of this pool's dialect: {}",
                names.join(", ")
            ),
        }
    };
    let known = |name: &str| {
        let fits = |pool: &&PoolConfig| {
            pool.name == name && pool.name != own.name && pool.dialect == own.dialect
        };
        let found = pools.iter().find(fits);
        found.map(|pool| pool.name.clone()).ok_or_else(expected)
    };
    let items = field.items();
    items.iter().filter_map(|item| item.value(known)).collect()
}

/// A pool, and what it falls back to, which can be read when all pools are known.
fn pool(mut section: Section<'_>) -> (PoolConfig, Option<Field<'_>>) {
    let name = section.need("name", "a name of its own for the pool", text);
    let dialects = &[
        ("openai", Dialect::OpenAi),
        ("anthropic", Dialect::Anthropic),
        ("gemini", Dialect::Gemini),
    ];
    let dialect = section.need("dialect", "openai, anthropic or gemini", choice(dialects));
    let balance = balance(&mut section);
    let (attempts, retry_on) = retry(&mut section);
    let (cooldown_failures, cooldown) = cooldown(&mut section);
    let pool = PoolConfig {
        name: name.unwrap_or_default(),
        dialect: dialect.unwrap_or(Dialect::OpenAi),
        models: section.list("models", Vec::new(), glob),
        aliases: section.field("aliases").map_or_else(BTreeMap::new, aliases),
        fallback: None,
        balance,
        attempts,
        retry_on,
        cooldown_failures,
        cooldown,
        health_check: section.field("health_check").map(health_check),
        output_bound: section.or(
            "output_bound",
            String::from("max_completion_tokens"),
            field_name,
        ),
        paths: section.list("paths", Vec::new(), path_glob),
        timeouts: timeouts(section.section("timeouts")),
        peers: peers(&mut section, balance),
    };
    if section.lacks("models") && section.lacks("paths") {
        section.missing(
            "models",
            "a list of the models it serves, such as [\"gpt-*\"]",
        );
    }
    let fallback = section.field("fallback");
    section.finish();
    (pool, fallback)
}

fn balance(section: &mut Section<'_>) -> Balance {
    let balances = &[
        ("round_robin", Balance::RoundRobin),
        ("least_connections", Balance::LeastConnections),
        ("weighted", Balance::Weighted),
        ("consistent_hash", Balance::ConsistentHash),
        ("fallback", Balance::Fallback),
    ];
    section.or("balance", Balance::RoundRobin, choice(balances))
}

fn retry(section: &mut Section<'_>) -> (u32, Vec<RetryOn>) {
    let causes = &[
        ("connect", RetryOn::Connect),
        ("429", RetryOn::TooManyRequests),
        ("timeout", RetryOn::Timeout),
        ("5xx", RetryOn::ServerError),
    ];
    let mut retry = section.section("retry");
    let attempts = retry.or("attempts", 2, whole(1, 10));
    let default = vec![RetryOn::Connect, RetryOn::TooManyRequests];
    let retry_on = retry.list("on", default, choice(causes));
    retry.finish();
    (attempts, retry_on)
}

fn cooldown(section: &mut Section<'_>) -> (u32, Duration) {
    let mut cooldown = section.section("cooldown");
    let failures = cooldown.or("failures", 3, whole(1, 1_000_000));
    let rest = cooldown.or("for", Duration::from_secs(30), duration);
    cooldown.finish();
    (failures, rest)
}

fn health_check(field: Field<'_>) -> HealthCheck {
    let mut section = field.section();
    let path = section.need("path", "a path such as /v1/models", url_path);
    let default = Duration::from_secs(10);
    let interval = section.or("interval", default, duration_in("100ms", "24h"));
    let timeout = interval.clamp(SHORTEST_CHECK, LONGEST_CHECK);
    let check = HealthCheck {
        path: path.unwrap_or_default(),
        interval,
        timeout: section.or("timeout", timeout, duration_in("50ms", "60s")),
        rise: section.or("rise", 1, whole(1, 100)),
        fall: section.or("fall", 2, whole(1, 100)),
        // Who answers 401 or 404 is there.
        expect: section.list("expect", vec![100..=499], statuses),
    };
    if section.field("expect").is_some() && section.lacks("expect") {
        let message = "is empty, and nothing would pass; expected statuses such as [200, 401]";
        section.place_of("expect").fault(message);
    }
    section.finish();
    check
}

/// `200`, `2xx`, `200-299`.
fn statuses(text: &str) -> Result<RangeInclusive<u16>, String> {
    let status = |text: &str| {
        text.trim()
            .parse()
            .ok()
            .filter(|one| (100..=599).contains(one))
    };
    let class = |digit: &str| Some(status(&format!("{digit}00"))?..=status(&format!("{digit}99"))?);
    let range = match text.split_once('-') {
        Some((from, to)) => status(from).zip(status(to)).map(|(from, to)| from..=to),
        None => match text.strip_suffix("xx") {
            Some(digit) => class(digit),
            None => status(text).map(|one| one..=one),
        },
    };
    range
        .filter(|range| !range.is_empty())
        .ok_or_else(|| String::from("expected a status or several: 200, 2xx or 200-299"))
}

fn timeouts(mut section: Section<'_>) -> Timeouts {
    let timeouts = Timeouts {
        connect: section.or("connect", Duration::from_secs(3), duration),
        first_byte: section.or("first_byte", Duration::from_secs(120), duration),
        idle: section.or("idle", Duration::from_secs(120), duration),
    };
    section.finish();
    timeouts
}

/// Model names that become others on their way upstream, each by the end of its chain. One that comes back to its start is a
/// fault, told once, at the first of its names.
fn aliases(field: Field<'_>) -> BTreeMap<String, String> {
    let named = field.named();
    let mut aliases = BTreeMap::new();
    for (from, field) in &named {
        if let Some(to) = field.value(text) {
            aliases.insert(String::from(*from), to);
        }
    }
    let mut told: Vec<&str> = Vec::new();
    for (from, field) in &named {
        if told.contains(from) {
            continue;
        }
        if let Some(cycle) = cycle(from, &aliases) {
            let chain = cycle.join(" → ");
            field.at.fault(format!(
                "{chain} goes in a circle, expected a model's real name at the end"
            ));
            told.extend(
                named
                    .iter()
                    .map(|(name, _)| *name)
                    .filter(|name| cycle.contains(name)),
            );
        }
    }
    let ends = aliases
        .keys()
        .map(|from| (from.clone(), end(from, &aliases)));
    ends.collect()
}

/// Where a chain of names ends; there is none without an end but in a file that is refused.
fn end(from: &str, aliases: &BTreeMap<String, String>) -> String {
    let mut at = from;
    for _ in 0..=aliases.len() {
        match aliases.get(at) {
            Some(to) => at = to,
            None => break,
        }
    }
    at.to_owned()
}

fn cycle<'a>(from: &'a str, aliases: &'a BTreeMap<String, String>) -> Option<Vec<&'a str>> {
    let mut chain = vec![from];
    let mut at = from;
    while let Some(to) = aliases.get(at) {
        chain.push(to);
        if to == from {
            return Some(chain);
        }
        if chain.len() > aliases.len() + 1 {
            return None;
        }
        at = to;
    }
    None
}

/// The name of a field in a request body.
fn field_name(name: &str) -> Result<String, String> {
    let fits = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (fits && !name.is_empty())
        .then(|| String::from(name))
        .ok_or_else(|| {
            String::from("expected the name of a request field such as max_completion_tokens")
        })
}

fn path_glob(path: &str) -> Result<String, String> {
    glob(path)
        .ok()
        .filter(|path| path.starts_with('/'))
        .ok_or_else(|| String::from("expected a path or a pattern of paths such as /v1/files*"))
}
