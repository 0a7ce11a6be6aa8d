//! Every example configuration is loaded, so that none of them can rot.
#![expect(clippy::panic, reason = "helpers of tests")]

use std::path::{Path, PathBuf};

use quota_proxy::config::{self, Loaded};

const FERNET_KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";

fn conf() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf")
}

/// What an operator would set: every variable that the examples name.
fn env(name: &str) -> Option<String> {
    let value = match name {
        "MASTER_ENCRYPTION_KEY" => FERNET_KEY,
        "SMTP_SERVER" => "smtp.example.com",
        "SMTP_FROM" | "SMTP_TO" => "ops@example.com",
        "REDIS_URL" => "redis://127.0.0.1:6379/0",
        "WEBHOOK_URL" => "https://hooks.example.com/x",
        "QUOTA_PROXY_CONFIG" => return None,
        _ => "secret-of-thirty-two-bytes-or-more",
    };
    Some(String::from(value))
}

fn load(file: &str) -> Loaded {
    config::load(Some(&conf().join(file)), &env).unwrap_or_else(|faults| panic!("{faults}"))
}

#[test]
fn every_example_loads() {
    let mut seen = 0;
    for entry in std::fs::read_dir(conf()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".yaml") && name != "prices.yaml" {
            let loaded = load(&name);
            assert!(!loaded.config.pools.is_empty(), "{name} serves nothing");
            seen += 1;
        }
    }
    assert!(seen > 0);
}

#[test]
fn the_full_example_shows_the_defaults() {
    let full = load("quota-proxy.yaml").config;
    let built_in = config::parse("", "none", &conf(), &|_| None)
        .unwrap()
        .config;
    // What has no default, or needs a secret, is not compared.
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
    let bare = "pools: [{name: openai, dialect: openai, models: [\"gpt-*\", \"o*\", \"text-embedding-*\"], \
                health_check: {path: /v1/models}, peers: [{url: \"https://api.openai.com\", credential: x}]}]";
    let bare = config::parse(bare, "bare", &conf(), &|_| None)
        .unwrap()
        .config;
    assert_eq!(format!("{:?}", full.pools), format!("{:?}", bare.pools));
}
