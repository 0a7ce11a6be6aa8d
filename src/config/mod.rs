//! The configuration as the running process sees it: checked domain values, no text left to parse.
//!
//! ```text
//! file ─ document ─▶ tree with lines ─ section, scalar, env ─▶ check, pools, … ─▶ Config
//!                          └────────────── every fault at once, with its place ──▶ Faults
//! ```
//!
//! `document` knows YAML and nothing of us; `section` asks the tree field by field and notes what is
//! wrong; `scalar` makes a value of one text; `check`, `edge`, `storage`, `pools`, `peers`,
//! `authorities`, `certificates`, `alerts` and `price_table` name our fields, their defaults and their rules, each once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::metering::Dialect;
use crate::metering::price::Price;
use crate::quota::{Admission, Rates};
use crate::store::LostReservation;

mod alerts;
mod authorities;
mod certificates;
mod check;
mod document;
mod edge;
mod env;
mod error;
mod load;
mod peers;
mod pools;
mod price_table;
mod reload;
mod scalar;
pub mod secret;
mod section;
mod storage;
mod url;

pub use alerts::{AlertsConfig, SmtpConfig, WebhookConfig, WebhookFormat};
pub use authorities::Authorities;
pub use certificates::{Certificate, ClientCertificates, TlsListener};
pub use env::Env;
pub use error::{Fault, Faults, Notice, Place};
pub use load::{DEFAULT_FILE, FILE_VARIABLE, Files, Loaded, load, load_upgrade_sock, parse};
pub use price_table::{BUILT_IN as BUILT_IN_PRICES, is_pattern as is_price_pattern};
pub use scalar::nearest;
pub use secret::SecretText;

/// Everything `serve` needs. Field names are those of the YAML.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: ServerConfig,
    pub edge: EdgeConfig,
    pub admin: AdminConfig,
    pub store: StoreConfig,
    pub quota: QuotaConfig,
    pub tiers: BTreeMap<String, Rates>,
    pub pools: Vec<Arc<PoolConfig>>,
    pub prices: Arc<Prices>,
    /// Percent of a quota at which a key raises an alert.
    pub key_thresholds: Vec<u8>,
    pub alerts: AlertsConfig,
    /// In the order in which they run.
    pub plugins: Vec<PluginConfig>,
    pub log: LogConfig,
}

#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub threads: usize,
    pub grace_period: Duration,
    pub upgrade_sock: PathBuf,
}

#[derive(Clone, Debug)]
pub struct EdgeConfig {
    pub listen: Vec<SocketAddr>,
    pub tls: Vec<TlsListener>,
    pub trusted_proxies: Vec<IpNet>,
    /// Bytes.
    pub max_request_body: usize,
    pub max_upload: usize,
    pub max_buffered: usize,
    pub request_timeout: Duration,
    pub body_timeout: Duration,
    /// 0: as many as the limit of open files bears.
    pub max_connections: usize,
    pub self_service: bool,
    pub cors_origins: Vec<String>,
    pub allow_unmetered: bool,
    pub mount_admin: bool,
}

#[derive(Clone, Debug)]
pub struct AdminConfig {
    pub listen: SocketAddr,
    pub username: String,
    pub password: Option<SecretText>,
    /// argon2id, PHC string.
    pub password_hash: Option<SecretText>,
    pub token: Option<SecretText>,
    pub secret_key: Option<SecretText>,
    pub environment: String,
    pub session_ttl: Duration,
    pub allow_registration: bool,
    pub master_key: Vec<SecretText>,
}

#[derive(Clone, Debug)]
pub enum StoreConfig {
    Embedded {
        path: PathBuf,
        sync_full: bool,
        retention_days: u32,
    },
    Redis(RedisConfig),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisMode {
    Standalone,
    Sentinel,
    Cluster,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnavailable {
    Deny,
    Allow,
}

#[derive(Clone, Debug)]
pub struct RedisConfig {
    pub mode: RedisMode,
    pub urls: Vec<SecretText>,
    /// The name by which Sentinel knows the primary.
    pub primary: String,
    pub pool_size: usize,
    pub timeout: Duration,
    pub on_unavailable: OnUnavailable,
    /// What was served without Redis waits here for its return: beside `store.path`.
    pub journal: PathBuf,
    pub retention_days: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Estimate {
    Auto,
    Declared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOverrun {
    TopUp,
    Record,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnClientGone {
    BillStreamed,
    Drain,
    KeepHold,
}

#[derive(Clone, Copy, Debug)]
pub struct LocalSlices {
    /// Percent of the quota that is drawn at once.
    pub size_percent: u8,
    pub max: i64,
}

#[derive(Clone, Debug)]
pub struct QuotaConfig {
    pub reservation_ttl: Duration,
    pub lost_reservation: LostReservation,
    pub default_max_output_tokens: i64,
    pub estimate: Estimate,
    pub admission: Admission,
    pub on_overrun: OnOverrun,
    pub on_client_gone: OnClientGone,
    pub local_slices: Option<LocalSlices>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastConnections,
    Weighted,
    ConsistentHash,
    Fallback,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    Connect,
    TooManyRequests,
    Timeout,
    ServerError,
}

#[derive(Clone, Debug)]
pub struct HealthCheck {
    pub path: String,
    pub interval: Duration,
    /// For the whole of an answer.
    pub timeout: Duration,
    /// Checks in a row that bring a peer back, and that take it out.
    pub rise: u32,
    pub fall: u32,
    /// Statuses that pass.
    pub expect: Vec<RangeInclusive<u16>>,
}

impl HealthCheck {
    /// Whether this answer passes.
    pub fn accepts(&self, status: u16) -> bool {
        self.expect.iter().any(|range| range.contains(&status))
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub connect: Duration,
    pub first_byte: Duration,
    pub idle: Duration,
}

#[derive(Clone, Debug)]
pub struct PoolConfig {
    pub name: String,
    pub dialect: Dialect,
    /// Globs; the first pool with a match serves.
    pub models: Vec<String>,
    pub aliases: BTreeMap<String, String>,
    /// Pools to try when this one cannot serve; `None`: the others that serve the model.
    pub fallback: Option<Vec<String>>,
    pub balance: Balance,
    /// Attempts within this pool, the first one included.
    pub attempts: u32,
    pub retry_on: Vec<RetryOn>,
    pub cooldown_failures: u32,
    pub cooldown: Duration,
    pub health_check: Option<HealthCheck>,
    pub output_bound: String,
    pub paths: Vec<String>,
    pub timeouts: Timeouts,
    pub peers: Vec<PeerConfig>,
}

#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// `https://api.openai.com` without a trailing slash; `base_path` is apart.
    pub tls: bool,
    pub host: String,
    pub port: u16,
    /// `/openai`, or empty.
    pub base_path: String,
    /// Sent with every request, without the `?`.
    pub query: Option<SecretText>,
    /// Whether HTTP/2 is offered, and over TLS negotiated; over plain TCP it is then spoken as it is.
    pub http2: bool,
    /// The name that its certificate must have; `None`: the host's.
    pub sni: Option<String>,
    /// Who may vouch for its certificate; `None`: the public authorities.
    pub ca: Option<Arc<Authorities>>,
    pub credential: Option<SecretText>,
    pub headers: Vec<(String, SecretText)>,
    /// 0: it takes no exchanges.
    pub weight: u32,
    pub account: Option<String>,
}

impl PeerConfig {
    /// `host:port`, as logs and metrics name a peer.
    pub fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// The price table.
#[derive(Clone, Debug, Default)]
pub struct Prices {
    /// Exact names.
    pub exact: BTreeMap<String, Price>,
    /// Globs, the longest pattern first.
    pub globs: Vec<(globset::GlobMatcher, Price)>,
    pub unknown_model: Price,
}

impl Prices {
    /// The price of a model and whether it was known. Exact names win over globs, longer globs over
    /// shorter ones.
    pub fn of(&self, model: &str) -> (Price, bool) {
        if let Some(price) = self.exact.get(model) {
            return (*price, true);
        }
        let glob = self.globs.iter().find(|(glob, _)| glob.is_match(model));
        glob.map_or((self.unknown_model, false), |(_, price)| (*price, true))
    }
}

/// A plugin and its own configuration, which only the plugin understands. It may hold secrets, so
/// `Debug` does not show it.
#[derive(Clone)]
pub struct PluginConfig {
    pub name: String,
    pub config: serde_yaml::Value,
}

impl std::fmt::Debug for PluginConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginConfig")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
pub struct LogConfig {
    pub level: log::LevelFilter,
    pub access: Option<PathBuf>,
}
