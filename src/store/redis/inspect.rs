//! What an operator should know of the server before it is trusted with quotas.

use std::collections::HashMap;
use std::fmt;

use redis::{FromRedisValue as _, Value};

/// The oldest server whose scripts and commands are used.
const OLDEST: (u32, u32) = (7, 0);

/// Something about a server that breaks a promise, or may. `Display` says what was found and what would
/// be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It lacks what the store's steps need: nothing will work.
    TooOld { server: String, version: String },
    /// It takes no writes: nothing will work.
    Replica { server: String },
    /// It throws records away when it is short of memory.
    Evicts {
        server: String,
        policy: String,
        /// Bytes; 0 where there is no bound, so that nothing is evicted yet.
        maxmemory: u64,
    },
    /// Neither AOF nor snapshots.
    NotPersistent { server: String },
    /// Snapshots, but no AOF.
    SnapshotsOnly { server: String },
    /// No AOF, and its snapshots are not ours to read.
    NoAof { server: String },
}

impl Finding {
    pub(super) fn log(&self) {
        match self {
            Finding::TooOld { .. } | Finding::Replica { .. } => log::error!("{self}"),
            _ => log::warn!("{self}"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::TooOld { server, version } => write!(
                f,
                "{server} is Redis {version}: 7.0 or newer is needed, or Valkey"
            ),
            Finding::Replica { server } => {
                write!(
                    f,
                    "{server} is a replica and takes no writes: name the primary"
                )
            }
            Finding::Evicts {
                server,
                policy,
                maxmemory: 0,
            } => write!(
                f,
                "{server} has maxmemory-policy {policy}: as soon as maxmemory is set, keys and \
                 counters may be evicted; set maxmemory-policy noeviction"
            ),
            Finding::Evicts {
                server,
                policy,
                maxmemory,
            } => write!(
                f,
                "{server} has maxmemory-policy {policy} with maxmemory {maxmemory}: keys and \
                 counters may be evicted; set maxmemory-policy noeviction"
            ),
            Finding::NotPersistent { server } => write!(
                f,
                "{server} keeps nothing on disk: a restart forgets all keys and all usage; set \
                 appendonly yes"
            ),
            Finding::SnapshotsOnly { server } => write!(
                f,
                "{server} writes snapshots but no AOF: a crash forgets what was booked since the \
                 last one; set appendonly yes"
            ),
            Finding::NoAof { server } => write!(
                f,
                "{server} has no AOF, and whether it writes snapshots cannot be read (CONFIG GET \
                 is refused): a crash may forget what was booked; set appendonly yes"
            ),
        }
    }
}

/// What `INFO` and `CONFIG GET save` of one server tell. `save` is `None` where it is refused.
pub(super) fn findings(server: &str, info: &str, save: Option<&str>) -> Vec<Finding> {
    let fields: HashMap<&str, &str> = info
        .lines()
        .filter_map(|line| line.trim_end().split_once(':'))
        .collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    let server = || server.to_owned();
    let mut findings = Vec::new();
    let version = field("redis_version");
    if is_older(version) {
        findings.push(Finding::TooOld {
            server: server(),
            version: version.to_owned(),
        });
    }
    if field("role") == "slave" {
        findings.push(Finding::Replica { server: server() });
    }
    let policy = field("maxmemory_policy");
    if !matches!(policy, "" | "noeviction") {
        findings.push(Finding::Evicts {
            server: server(),
            policy: policy.to_owned(),
            maxmemory: field("maxmemory").parse().unwrap_or(0),
        });
    }
    if field("aof_enabled") == "0" {
        findings.push(match save {
            Some("") => Finding::NotPersistent { server: server() },
            Some(_) => Finding::SnapshotsOnly { server: server() },
            None => Finding::NoAof { server: server() },
        });
    }
    findings
}

/// Valkey tells `redis_version:7.2.4` beside its own. What is no version is left alone.
fn is_older(version: &str) -> bool {
    let mut parts = version.split('.').map_while(|part| part.parse().ok());
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) => (major, minor) < OLDEST,
        _ => false,
    }
}

/// The value of `CONFIG GET save`, a list or a map of one pair; `None` where it was refused.
pub(super) fn save_of(answer: Option<Value>) -> Option<String> {
    let pairs = HashMap::<String, String>::from_redis_value(answer?).ok()?;
    pairs.get("save").cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nrole:master\r\n\
                         maxmemory:0\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\n";

    #[test]
    fn a_sound_server_gives_no_finding() {
        assert_eq!(findings("s", SOUND, Some("")), []);
        assert_eq!(findings("s", SOUND, None), []);
        assert_eq!(findings("s", "", None), []);
    }

    #[test]
    fn each_flaw_is_found_and_said() {
        let flaws = [
            (
                "redis_version:7.2.4",
                "redis_version:6.2.14",
                "Redis 6.2.14",
            ),
            ("role:master", "role:slave", "name the primary"),
            ("noeviction", "allkeys-lru", "as soon as maxmemory is set"),
            (
                "maxmemory:0\r\nmaxmemory_policy:noeviction",
                "maxmemory:99\r\nmaxmemory_policy:volatile-ttl",
                "volatile-ttl with maxmemory 99",
            ),
            ("aof_enabled:1", "aof_enabled:0", "keeps nothing on disk"),
        ];
        for (sound, flawed, said) in flaws {
            let info = SOUND.replace(sound, flawed);
            let found = findings("10.0.0.1:6379", &info, Some(""));
            assert_eq!(found.len(), 1, "{flawed}");
            let text = found[0].to_string();
            assert!(text.contains(said) && text.contains("10.0.0.1"), "{text}");
        }
        let no_aof = SOUND.replace("aof_enabled:1", "aof_enabled:0");
        let said = |save| findings("s", &no_aof, save)[0].to_string();
        assert!(said(Some("3600 1")).contains("writes snapshots but no AOF"));
        assert!(said(None).contains("cannot be read"));
    }

    #[test]
    fn versions() {
        for old in ["6.2.14", "5.0.0", "6.99.9"] {
            assert!(is_older(old), "{old}");
        }
        for new in ["7.0.0", "7.0.15", "8.2.1", "10.0.0", "", "unstable"] {
            assert!(!is_older(new), "{new}");
        }
    }
}
