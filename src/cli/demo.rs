//! `quota-proxy demo`: the main job with nothing to configure.

use std::io::Write;
use std::net::SocketAddr;

use super::fake_upstream;
use super::fleet::{self, Fleet, Redis, reachable};
use super::scratch::Scratch;
use super::story::Story;
use crate::admin::key_change::new_key;
use crate::config;
use crate::keys::{KeyId, KeyRecord, Secret};
use crate::quota::{Limit, NANO_PER_USD, Quotas};
use crate::server::{self, Prepared, Start};
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
    /// Two edges on one Redis: at URL, else at $REDIS_URL, else at 127.0.0.1:6379 if one answers
    /// there, else one that is started; `new` always starts one
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "")]
    redis: Option<String>,
    /// Where the second edge listens
    #[arg(long, requires = "redis", default_value = "127.0.0.1:8797", value_parser = address)]
    second_edge: SocketAddr,
    /// Where the second edge's admin service listens
    #[arg(long, requires = "redis", default_value = "127.0.0.1:8798", value_parser = address)]
    second_admin: SocketAddr,
}

fn url(address: &SocketAddr) -> String {
    format!("http://{address}")
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
    let wish = options.redis.as_deref();
    let redis = wish
        .map(|wish| Redis::find(wish, &scratch.path))
        .transpose()?;
    let shared = Shared {
        token: Secret::generate("admin", random()?),
        secret_key: Secret::generate("sessions", random()?),
        store: redis
            .as_ref()
            .map_or("{path: quota.db}".to_owned(), |_| fleet::STORE.to_owned()),
        pools: pools(&providers, fake),
    };
    let yaml = shared.configuration(options.edge, options.admin);
    let env = |name: &str| match &redis {
        Some(redis) if name == fleet::URL_VARIABLE => Some(redis.url.clone()),
        _ => std::env::var(name).ok(),
    };
    let loaded =
        config::parse(&yaml, "(demo)", &scratch.path, &env).map_err(|faults| text(&faults))?;
    server::install_logger(loaded.config.log.level);
    let prepared = server::prepare(loaded, Start::Fresh).map_err(|fault| {
        format!(
            "{fault}\nAnother port: quota-proxy demo --edge 127.0.0.1:8807 --admin 127.0.0.1:8808"
        )
    })?;
    let (id, secret) = make_key(&prepared)?;
    let second = shared.configuration(options.second_edge, options.second_admin);
    let fleet = redis
        .map(|redis| Fleet::start(redis, &second, &scratch.path))
        .transpose()?;
    let story = Story {
        edge: prepared
            .edge_addresses()
            .first()
            .map(url)
            .unwrap_or_default(),
        admin: url(&prepared.admin_address()),
        key: secret.reveal(),
        id,
        token: shared.token.reveal(),
        providers: &providers,
        fleet: fleet.as_ref(),
    };
    let story = story.tell();
    prepared.at_end(move || drop((fleet, scratch)));
    out.write_all(story.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|fault| text(&fault))?;
    prepared
        .run(&mut std::io::sink())
        .map_err(|fault| text(&fault))
}

/// Which real providers the environment has credentials for.
pub(super) struct Providers {
    pub(super) openai: bool,
    pub(super) anthropic: bool,
}

impl Providers {
    fn find(env: impl Fn(&str) -> Option<String>) -> Self {
        Providers {
            openai: env("OPENAI_API_KEY").is_some(),
            anthropic: env("ANTHROPIC_API_KEY").is_some(),
        }
    }

    pub(super) fn any_real(&self) -> bool {
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

/// What every edge of the demo has in common.
struct Shared {
    token: Secret,
    /// Signs sessions.
    secret_key: Secret,
    store: String,
    pools: String,
}

impl Shared {
    fn configuration(&self, edge: SocketAddr, admin: SocketAddr) -> String {
        let (token, secret_key) = (self.token.reveal(), self.secret_key.reveal());
        // Two edges share the folder.
        let upgrade_sock = format!("upgrade-{}.sock", admin.port());
        format!(
            "server: {{upgrade_sock: {upgrade_sock}}}\nedge: {{listen: [\"{edge}\"]}}\nadmin: {{listen: \"{admin}\", token: \"{token}\", secret_key: \"{secret_key}\", environment: demo}}\nstore: {}\nlog: {{level: warn}}\npools:\n{}",
            self.store, self.pools
        )
    }
}

/// Real credentials stay references to the environment: they are written nowhere.
fn pools(providers: &Providers, fake: Option<SocketAddr>) -> String {
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
    pools
}

fn make_key(prepared: &Prepared) -> Result<(KeyId, Secret), String> {
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
    let store = prepared.store();
    let mut id = None;
    super::serve::block_on(async {
        let make = async {
            reachable(&*store).await?;
            key_in(&*store, "demo", "basic", &secret, quotas).await
        };
        id = Some(make.await.map_err(std::io::Error::other)?);
        Ok(())
    })?;
    Ok((id.ok_or("no key was made")?, secret))
}

/// Makes a key with this secret in `store`; answers its id.
///
/// # Errors
/// The store's.
async fn key_in(
    store: &dyn Store,
    name: &str,
    tier: &str,
    secret: &Secret,
    quotas: Quotas,
) -> Result<KeyId, StoreError> {
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
    store.create_key(record, audit).await?;
    Ok(id)
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
