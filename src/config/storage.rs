//! `store`: which engine keeps the books, and where.

use std::path::PathBuf;
use std::time::Duration;

use super::scalar::{choice, days, duration_in, text, whole};
use super::secret::SecretText;
use super::section::{Field, Section};
use super::{OnUnavailable, RedisConfig, RedisMode, StoreConfig};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Engine {
    Embedded,
    Redis,
}

/// Reads `store.*`. What belongs to the engine that is not chosen is checked all the same.
pub fn store(mut section: Section<'_>) -> StoreConfig {
    let engines = &[("embedded", Engine::Embedded), ("redis", Engine::Redis)];
    let engine = section.or("kind", Engine::Embedded, choice(engines));
    let folder = section.at.report.folder;
    let path = section.field("path").and_then(|field| field.path());
    let sync_full = section.or("sync", false, choice(&[("normal", false), ("full", true)]));
    let retention_days = section.or("retention", 30, days);
    let path = path.unwrap_or_else(|| folder.join("./data/quota.db"));
    let journal = path.with_file_name("journal.db");
    let redis = redis(section.section("redis"), journal, retention_days);
    section.finish();
    match engine {
        Engine::Redis => StoreConfig::Redis(redis),
        Engine::Embedded => StoreConfig::Embedded {
            path,
            sync_full,
            retention_days,
        },
    }
}

fn redis(mut section: Section<'_>, journal: PathBuf, retention_days: u32) -> RedisConfig {
    let modes = &[
        ("standalone", RedisMode::Standalone),
        ("sentinel", RedisMode::Sentinel),
        ("cluster", RedisMode::Cluster),
    ];
    let mode = section.or("mode", RedisMode::Standalone, choice(modes));
    let redis = RedisConfig {
        mode,
        urls: urls(section.field("urls"), mode),
        primary: section.or("primary", String::from("mymaster"), text),
        pool_size: section.or("pool_size", 4, whole(1, 1_024)),
        timeout: section.or(
            "timeout",
            Duration::from_millis(250),
            duration_in("1ms", "1m"),
        ),
        on_unavailable: section.or(
            "on_unavailable",
            OnUnavailable::Deny,
            choice(&[
                ("deny", OnUnavailable::Deny),
                ("allow", OnUnavailable::Allow),
            ]),
        ),
        journal,
        retention_days,
    };
    section.finish();
    redis
}

fn urls(field: Option<Field<'_>>, mode: RedisMode) -> Vec<SecretText> {
    let Some(field) = field else {
        return vec![SecretText::new("redis://127.0.0.1:6379/0")];
    };
    let items = field.items();
    match (mode, items.len()) {
        (_, 0) => field.at.fault("is empty, expected a list such as [\"redis://127.0.0.1:6379/0\"]"),
        (RedisMode::Standalone, 2..) => field.at.fault(
            "names several servers, expected one with mode standalone; set mode: sentinel or cluster",
        ),
        _ => {}
    }
    let checked = |text: &str| redis_url(text, mode).map(|()| SecretText::new(text));
    items
        .iter()
        .filter_map(|item| item.hidden(checked))
        .collect()
}

/// Whether this names a server for this mode. The URL may hold a password: it is never repeated.
fn redis_url(url: &str, mode: RedisMode) -> Result<(), String> {
    let expected = || {
        String::from(
            "expected a URL such as redis://127.0.0.1:6379/0 or rediss://user:password@host:6380/0",
        )
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(expected)?;
    if matches!(scheme, "unix" | "redis+unix" | "valkey+unix") {
        let fits = mode == RedisMode::Standalone && rest.starts_with('/');
        return if fits { Ok(()) } else { Err(expected()) };
    }
    if !matches!(scheme, "redis" | "rediss" | "valkey" | "valkeys") {
        return Err(expected());
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host_port = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let authority: http::uri::Authority = host_port.parse().map_err(|_| expected())?;
    let has_port = authority.as_str().len() > authority.host().len();
    let port_fits = !has_port || authority.port_u16().is_some_and(|port| port > 0);
    let database = path.split('?').next().unwrap_or_default();
    let database_fits = database.is_empty() || database.parse::<u32>().is_ok();
    if authority.host().is_empty() || !port_fits || !database_fits {
        return Err(expected());
    }
    if mode == RedisMode::Cluster && !matches!(database, "" | "0") {
        return Err(String::from(
            "expected no database number, or 0, with mode cluster",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_urls() {
        for right in [
            "redis://127.0.0.1:6379/0",
            "redis://:p%40ss@redis.internal/3?protocol=resp3",
            "rediss://user:pa:ss@[::1]:6380",
            "valkey://host",
            "unix:///run/redis.sock",
        ] {
            assert_eq!(redis_url(right, RedisMode::Standalone), Ok(()), "{right}");
        }
        for wrong in [
            "",
            "127.0.0.1:6379",
            "http://h",
            "redis://",
            "redis://h:0",
            "redis://h:x",
            "redis://h/x",
        ] {
            assert!(redis_url(wrong, RedisMode::Standalone).is_err(), "{wrong}");
        }
        assert!(redis_url("redis://h/1", RedisMode::Cluster).is_err());
        assert!(redis_url("unix:///run/redis.sock", RedisMode::Sentinel).is_err());
    }
}
