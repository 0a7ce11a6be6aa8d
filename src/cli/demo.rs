//! `quota-proxy demo`: the main job with nothing to configure.

use std::io::Write;
use std::net::SocketAddr;

use super::fake_upstream;
use super::scratch::Scratch;
use crate::admin::key_change::new_key;
use crate::config;
use crate::keys::{KeyId, KeyRecord, Secret};
use crate::quota::{Limit, NANO_PER_USD, Quotas};
use crate::server::{self, Prepared};
use crate::store::{AuditEntry, Store, StoreError};
use crate::time::UnixMs;

/// Options of `demo`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where the edge listens
    #[arg(long, default_value = "127.0.0.1:8787", value_parser = address)]
    edge: SocketAddr,
    /// Where the admin service listens
    #[arg(long, default_value = "127.0.0.1:8788", value_parser = address)]
    admin: SocketAddr,
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse()
        .map_err(|_| "expected an address such as 127.0.0.1:8787")
}

/// Runs until Ctrl-C. With `OPENAI_API_KEY` or `ANTHROPIC_API_KEY` set it fronts the real provider.
///
/// # Errors
/// A text for the person at the terminal: a taken port above all.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<(), String> {
    let text = |fault: &dyn std::fmt::Display| fault.to_string();
    let scratch = Scratch::new(&std::env::temp_dir()).map_err(|fault| text(&fault))?;
    let providers =
        Providers::find(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    let fake = match providers.any_real() {
        true => None,
        false => Some(start_fake().map_err(|fault| text(&fault))?),
    };
    let token = Secret::generate("admin", random()?);
    let yaml = configuration(options, &providers, fake, &token);
    let env = |name: &str| std::env::var(name).ok();
    let loaded =
        config::parse(&yaml, "(demo)", &scratch.path, &env).map_err(|faults| text(&faults))?;
    server::install_logger(loaded.config.log.level);
    let prepared = server::prepare(loaded.config, None).map_err(|fault| {
        format!(
            "{fault}\nAnother port: quota-proxy demo --edge 127.0.0.1:8797 --admin 127.0.0.1:8798"
        )
    })?;
    let secret = make_key(&prepared)?;
    let story = tell(&prepared, &providers, &secret, &token);
    out.write_all(story.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|fault| text(&fault))?;
    prepared
        .run(&mut std::io::sink())
        .map_err(|fault| text(&fault))
}

/// Which real providers the environment has credentials for.
struct Providers {
    openai: bool,
    anthropic: bool,
}

impl Providers {
    fn find(env: impl Fn(&str) -> Option<String>) -> Self {
        Providers {
            openai: env("OPENAI_API_KEY").is_some(),
            anthropic: env("ANTHROPIC_API_KEY").is_some(),
        }
    }

    fn any_real(&self) -> bool {
        self.openai || self.anthropic
    }
}

fn random() -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|fault| fault.to_string())?;
    Ok(bytes)
}

/// Runs the fake LLM on a thread of its own; it ends with the process.
fn start_fake() -> std::io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let options = fake_upstream::Options {
        latency: std::time::Duration::from_millis(150),
        chunk_interval: std::time::Duration::from_millis(40),
        record: false,
        ..fake_upstream::Options::default()
    };
    let serve = move || {
        super::serve::block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            fake_upstream::serve(listener, options).await
        })
    };
    std::thread::Builder::new()
        .name("fake-upstream".into())
        .spawn(serve)?;
    Ok(address)
}

/// Real credentials stay references to the environment: they are written nowhere.
fn configuration(
    options: &Options,
    providers: &Providers,
    fake: Option<SocketAddr>,
    token: &Secret,
) -> String {
    let mut pools = String::new();
    let mut pool = |name: &str, dialect: &str, models: &str, url: &str, credential: &str| {
        pools.push_str(&format!(
            "  - name: {name}\n    dialect: {dialect}\n    models: [{models}]\n    peers: [{{url: \"{url}\", credential: \"{credential}\"}}]\n"
        ));
    };
    if let Some(fake) = fake {
        let url = format!("http://{fake}");
        pool(
            "fake-anthropic",
            "anthropic",
            "\"claude-*\"",
            &url,
            "demo-upstream-credential",
        );
        pool(
            "fake-gemini",
            "gemini",
            "\"gemini-*\"",
            &url,
            "demo-upstream-credential",
        );
        pool(
            "fake-openai",
            "openai",
            "\"*\"",
            &url,
            "demo-upstream-credential",
        );
    }
    if providers.anthropic {
        pool(
            "anthropic",
            "anthropic",
            "\"claude-*\"",
            "https://api.anthropic.com",
            "${ANTHROPIC_API_KEY}",
        );
    }
    if providers.openai {
        pool(
            "openai",
            "openai",
            "\"*\"",
            "https://api.openai.com",
            "${OPENAI_API_KEY}",
        );
    }
    format!(
        "edge: {{listen: [\"{}\"]}}\nadmin: {{listen: \"{}\", token: \"{}\", environment: demo}}\nstore: {{path: quota.db}}\nlog: {{level: warn}}\npools:\n{pools}",
        options.edge,
        options.admin,
        token.reveal(),
    )
}

fn make_key(prepared: &Prepared) -> Result<Secret, String> {
    let limit = |limit| Limit {
        limit,
        ..Limit::default()
    };
    let quotas = Quotas {
        requests: limit(1_000),
        tokens: limit(1_000_000),
        usd: limit(5 * NANO_PER_USD),
    };
    let secret = Secret::generate("sk-demo", random()?);
    let (store, made) = (prepared.store(), secret.clone());
    super::serve::block_on(async move {
        key_in(&*store, "demo", "basic", &made, quotas)
            .await
            .map_err(std::io::Error::other)
    })?;
    Ok(secret)
}

/// Makes a key with this secret in `store`.
///
/// # Errors
/// The store's.
async fn key_in(
    store: &dyn Store,
    name: &str,
    tier: &str,
    secret: &Secret,
    quotas: Quotas,
) -> Result<(), StoreError> {
    let now = UnixMs::now();
    let id = KeyId(uuid::Uuid::new_v4());
    let record = KeyRecord {
        name: name.to_owned(),
        tier: tier.to_owned(),
        quotas,
        ..new_key(id, secret, format!("sk-{name}"), now)
    };
    let audit = AuditEntry {
        at: now,
        who: name.to_owned(),
        what: "key.create".to_owned(),
        subject: id.0.to_string(),
        before: None,
        after: None,
    };
    store.create_key(record, audit).await.map(|_| ())
}

/// What a newcomer reads: where things are, and lines to copy.
fn tell(prepared: &Prepared, providers: &Providers, secret: &Secret, token: &Secret) -> String {
    let edge = prepared
        .edge_addresses()
        .first()
        .map(|address| format!("http://{address}"))
        .unwrap_or_default();
    let admin = format!("http://{}", prepared.admin_address());
    let (key, token) = (secret.reveal(), token.reveal());
    let behind = if providers.any_real() {
        "the real provider, on your account"
    } else {
        "a built-in fake LLM"
    };
    let chat = |stream: &str| {
        format!(
            "curl {edge}/v1/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\\n    -d '{{\"model\": \"gpt-4o-mini\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello!\"}}]{stream}}}'"
        )
    };
    let messages = format!(
        "curl {edge}/v1/messages -H 'x-api-key: {key}' -H 'anthropic-version: 2023-06-01' -H 'Content-Type: application/json' \\\n    -d '{{\"model\": \"claude-haiku-4-5\", \"max_tokens\": 64, \"messages\": [{{\"role\": \"user\", \"content\": \"Hello!\"}}]}}'"
    );
    let mut lines = vec![
        format!("quota-proxy is running, in front of {behind}.\n"),
        format!("  edge       {edge}      (base URL for your SDK: {edge}/v1)"),
        format!("  admin      {admin}      (metrics: {admin}/metrics)"),
        format!("  key        {key}      (1,000 requests, 1,000,000 tokens, 5 USD)"),
        format!("  admin token {token}\n"),
    ];
    if providers.openai || !providers.any_real() {
        lines.push(format!("A plain request:\n\n  {}\n", chat("")));
        lines.push(format!(
            "A stream:\n\n  {}\n",
            chat(", \"stream\": true").replacen("curl ", "curl -N ", 1)
        ));
    }
    if providers.anthropic || !providers.any_real() {
        lines.push(format!("Anthropic's dialect:\n\n  {messages}\n"));
    }
    lines.push(format!(
        "What the key has used:\n\n  curl {edge}/api/usage/quota -H 'Authorization: Bearer {key}'\n"
    ));
    lines.push(format!(
        "All keys:\n\n  curl {admin}/admin/api-keys -H 'Authorization: Bearer {token}'\n"
    ));
    lines.push("Ctrl-C ends all of it.\n".to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_refused_with_one_that_would_do() {
        assert_eq!(address("[::1]:80").unwrap().port(), 80);
        assert_eq!(
            address("localhost:8787"),
            Err("expected an address such as 127.0.0.1:8787")
        );
    }
}
