//! Every example configuration is loaded, so that none of them can rot; and the contract's own sample.

#![expect(clippy::panic, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use quota_proxy::cli::check::check_with;
use quota_proxy::config::{self, Loaded, StoreConfig};

mod support;

use support::tls::Certificates;

const FERNET_KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";

fn conf() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf")
}

/// What an operator would set: every variable that the examples name without a default.
fn env(name: &str) -> Option<String> {
    let value = match name {
        "MASTER_ENCRYPTION_KEY" => FERNET_KEY,
        "SMTP_SERVER" => "smtp.example.com",
        "SMTP_FROM" => "ops@example.com",
        "WEBHOOK_URL" => "https://hooks.example.com/x",
        "TLS_CERT" => return Some(pair("server.pem")),
        "TLS_KEY" => return Some(pair("server.key")),
        "SMTP_PORT" | "PORT" | "REDIS_URL" | "QUOTA_PROXY_CONFIG" => return None,
        _ => "a-made-up-secret-of-more-than-32-bytes",
    };
    Some(String::from(value))
}

fn pair(name: &str) -> String {
    static PAIR: LazyLock<Certificates> = LazyLock::new(|| Certificates::of("DNS:localhost"));
    PAIR.path(name).display().to_string()
}

fn load(file: &str) -> Loaded {
    config::load(Some(&conf().join(file)), &env).unwrap_or_else(|faults| panic!("{faults}"))
}

#[test]
fn every_example_loads_and_serves_something() {
    let mut seen = 0;
    for entry in std::fs::read_dir(conf()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".yaml") && name != "prices.yaml" {
            let loaded = load(&name);
            assert!(!loaded.config.pools.is_empty(), "{name} serves nothing");
            assert!(
                loaded.config.admin.token.is_some(),
                "{name} leaves its admin API locked"
            );
            seen += 1;
        }
    }
    assert!(seen >= 10, "{seen} examples");
}

#[test]
fn the_redis_examples_name_their_modes() {
    for (file, mode) in [
        ("redis-standalone.yaml", config::RedisMode::Standalone),
        ("redis-sentinel.yaml", config::RedisMode::Sentinel),
        ("redis-cluster.yaml", config::RedisMode::Cluster),
    ] {
        let StoreConfig::Redis(redis) = load(file).config.store else {
            panic!("{file} keeps its books elsewhere")
        };
        assert_eq!(redis.mode, mode);
        assert!(!redis.urls.is_empty());
    }
}

#[test]
fn the_full_example_shows_the_defaults() {
    let full = load("quota-proxy.yaml").config;
    let built_in = config::parse("", "none", &conf(), &|_| None)
        .unwrap()
        .config;
    assert_eq!(
        format!("{:?}", (&full.server, &full.edge, &full.store, &full.quota)),
        format!(
            "{:?}",
            (
                &built_in.server,
                &built_in.edge,
                &built_in.store,
                &built_in.quota
            )
        )
    );
    assert_eq!(full.tiers, built_in.tiers);
    assert_eq!(full.key_thresholds, built_in.key_thresholds);
    assert_eq!(full.admin.listen, built_in.admin.listen);
    assert_eq!(full.admin.session_ttl, built_in.admin.session_ttl);
    assert_eq!(full.prices.unknown_model, built_in.prices.unknown_model);
    // Secrets are none by default.
    let bare = "pools: [{name: openai, dialect: openai, models: [\"gpt-*\", \"o*\", \"text-embedding-*\"], \
                peers: [{url: \"https://api.openai.com\", credential: x}]}]";
    let bare = config::parse(bare, "bare", &conf(), &|_| None)
        .unwrap()
        .config;
    assert_eq!(format!("{:?}", full.pools), format!("{:?}", bare.pools));
}

/// Every field of the contract, in its own words.
#[test]
fn the_contract_s_sample_loads() {
    let text = include_str!("config_corpus/contract.yaml");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(
        conf().join("prices.yaml"),
        folder.path().join("prices.yaml"),
    )
    .unwrap();
    let loaded = config::parse(text, "contract.yaml", folder.path(), &env);
    let config = loaded.unwrap_or_else(|faults| panic!("{faults}")).config;
    assert_eq!(config.pools.len(), 3);
    assert_eq!(config.edge.max_request_body, 32 << 20);
    assert_eq!(config.admin.master_key.len(), 1);
    let StoreConfig::Embedded { path, .. } = config.store else {
        panic!("the embedded store is the default")
    };
    assert_eq!(path, folder.path().join("./data/quota.db"));
    let azure = &config.pools[0].peers[1];
    assert_eq!(
        (azure.name().as_str(), azure.base_path.as_str()),
        ("my-azure.example:443", "/openai")
    );
    assert_eq!(config.alerts.webhooks.len(), 1);
}

#[test]
fn check_says_what_is_there_and_what_comes_later() {
    let (text, ok) = check_with(&conf().join("multi-provider.yaml"), &env);
    assert!(ok, "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("ok: 6 pools, 7 peers, "), "{text}");
    assert!(last.ends_with(" prices"), "{text}");
    let (text, ok) = check_with(&conf().join("alerts.yaml"), &env);
    assert!(ok, "{text}");
    assert!(
        text.contains("alerts: notice: accepted; takes effect with a later release"),
        "{text}"
    );
}

#[test]
fn check_tells_every_fault_in_the_order_of_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.yaml");
    std::fs::write(&path, "log: {level: loud}\nedge: {max_upload: big}\n").unwrap();
    let (text, ok) = check_with(&path, &env);
    assert!(!ok);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].contains("bad.yaml:1: log.level: "), "{text}");
    assert!(lines[1].contains("bad.yaml:2: edge.max_upload: "), "{text}");
    assert_eq!(lines[2], "2 faults");
    let (text, ok) = check_with(&folder.path().join("none.yaml"), &env);
    assert!(!ok);
    assert!(
        text.contains("none.yaml:1: (file): cannot be read"),
        "{text}"
    );
}

#[test]
fn the_environment_names_the_file_where_the_command_line_does_not() {
    let path = conf().join("openai.yaml");
    let named = |name: &str| match name {
        config::FILE_VARIABLE => Some(path.display().to_string()),
        name => env(name),
    };
    assert_eq!(
        config::load(None, &named).unwrap().source,
        Some(path.clone())
    );
}
