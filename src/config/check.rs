//! The whole of a configuration: every section, its defaults, and what sections must agree on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;

use super::edge::{Listener, edge, overlaps};
use super::load::UPGRADE_SOCK;
use super::scalar::{self, boolean, choice, duration_in, listen_address, text, whole};
use super::secret::SecretText;
use super::section::{At, Field, Section};
use super::{
    AdminConfig, Config, Estimate, LocalSlices, LogConfig, OnClientGone, OnOverrun, QuotaConfig,
    ServerConfig, StoreConfig, alerts, pools, price_table, storage,
};
use crate::quota::amount::MAX_AMOUNT;
use crate::quota::{Admission, Rates};
use crate::store::LostReservation;

/// Reads every section. Where something is wrong its default stands in, and the report says so.
pub fn config(root: Field<'_>) -> Config {
    let mut root = root.section();
    let mut listeners = Vec::new();
    let server = server(root.section("server"));
    let edge = edge(root.section("edge"), &mut listeners);
    let admin_section = root.section("admin");
    let mount = edge.mount_admin.then(|| root.section("edge"));
    let admin = admin(admin_section, mount, &mut listeners);
    overlaps(&listeners);
    let quota = quota(root.section("quota"));
    let store = storage::store(root.section("store"));
    if matches!(store, StoreConfig::Embedded { .. }) && quota.local_slices.is_some() {
        let field = root.section("quota").field("local_slices");
        let idle = "has no effect with the embedded store, which admits from memory anyway";
        field.into_iter().for_each(|field| field.at.notice(idle));
    }
    let tiers = tiers(root.field("tiers"));
    let pools = pools::pools(&mut root);
    let prices = Arc::new(price_table::pricing(root.section("pricing")));
    let (alerts, key_thresholds) = alerts::alerts(root.section("alerts"));
    if root.field("alerts").is_some() {
        root.later("alerts");
    }
    let plugins = alerts::plugins(&mut root);
    let log = log(root.section("log"));
    root.finish();
    Config {
        server,
        edge,
        admin,
        store,
        quota,
        tiers,
        pools,
        prices,
        key_thresholds,
        alerts,
        plugins,
        log,
    }
}

fn server(mut section: Section<'_>) -> ServerConfig {
    let grace_seconds = section.or("grace_period_seconds", 30, whole(0, 86_400));
    let server = ServerConfig {
        threads: section.or("threads", 2, whole(1, 1_024)),
        grace_period: Duration::from_secs(grace_seconds),
        upgrade_sock: upgrade_sock(&mut section),
    };
    section.finish();
    server
}

pub fn upgrade_sock(server: &mut Section<'_>) -> PathBuf {
    let field = server.field("upgrade_sock");
    let path = field.and_then(|field| field.path());
    path.unwrap_or_else(|| PathBuf::from(UPGRADE_SOCK))
}

/// `mount` is the edge's section where it serves the admin endpoints too.
fn admin<'a>(
    mut section: Section<'a>,
    mount: Option<Section<'a>>,
    listeners: &mut Vec<Listener<'a>>,
) -> AdminConfig {
    let default = std::net::SocketAddr::from(([127, 0, 0, 1], 8788));
    let listen = section.or("listen", default, listen_address);
    let listen_at = section
        .field("listen")
        .map_or_else(|| section.at.clone(), |field| field.at);
    listeners.push((listen, listen_at.clone()));
    let given = |section: &mut Section<'a>, name| section.field(name).is_some();
    let faults_before = section.at.report.faults.borrow().len();
    let both = given(&mut section, "password") && given(&mut section, "password_hash");
    let admin = AdminConfig {
        listen,
        username: section.or("username", String::from("admin"), username),
        password: section.secret("password"),
        password_hash: section
            .field("password_hash")
            .and_then(|field| field.hidden(argon2id_hash)),
        token: section.secret("token"),
        secret_key: section.secret("secret_key"),
        environment: section.or("environment", String::from("production"), text),
        session_ttl: section.or(
            "session_ttl",
            Duration::from_secs(86_400),
            duration_in("1m", "365d"),
        ),
        allow_registration: section.or("allow_registration", false, boolean),
        master_key: section
            .field("master_key")
            .map_or_else(Vec::new, master_keys),
    };
    if both && admin.password.is_some() {
        section
            .at
            .fault("has both password and password_hash; keep password_hash");
    }
    if !admin.master_key.is_empty() {
        section.later("master_key");
    }
    weak_secret_key(&mut section, &admin);
    short_secret(&mut section, "token", admin.token.as_ref());
    short_secret(&mut section, "password", admin.password.as_ref());
    // A faulty secret is told once, and not as a missing one too.
    let all_read = section.at.report.faults.borrow().len() == faults_before;
    let is_open =
        admin.password.is_some() || admin.password_hash.is_some() || admin.token.is_some();
    if all_read && !is_open {
        deny_public(listen, &listen_at, mount.as_ref());
    }
    section.finish();
    admin
}

/// Without password and token the admin service must stay where only this machine reaches it.
fn deny_public(listen: std::net::SocketAddr, listen_at: &At<'_>, mount: Option<&Section<'_>>) {
    if !listen.ip().is_loopback() {
        listen_at.fault(
            "is not a loopback address, and there is neither password nor token; \
             set admin.password_hash or admin.token, or listen on 127.0.0.1",
        );
    }
    if let Some(edge) = mount {
        edge.place_of("mount_admin").fault(
            "is true, and there is neither password nor token; \
             set admin.password_hash or admin.token, or take it out",
        );
    }
}

fn username(name: &str) -> Result<String, String> {
    if name.contains(':') {
        // RFC 7617, section 2: a user-id ends at the first colon.
        return Err(String::from("expected a name without a colon"));
    }
    text(name)
}

fn weak_secret_key(section: &mut Section<'_>, admin: &AdminConfig) {
    // RFC 7518, section 3.2: an HS256 key has at least 256 bits.
    const MIN_BYTES: usize = 32;
    let short = admin.secret_key.as_ref();
    if short.is_some_and(|key| key.reveal().len() < MIN_BYTES)
        && let Some(field) = section.field("secret_key")
    {
        field
            .at
            .notice("is shorter than 32 bytes; a random one of 32 bytes or more is safer");
    }
}

/// Guesses are slowed, but a short secret falls to few of them.
fn short_secret(section: &mut Section<'_>, name: &'static str, secret: Option<&SecretText>) {
    const MIN_CHARS: usize = 16;
    if secret.is_some_and(|secret| secret.reveal().chars().count() < MIN_CHARS)
        && let Some(field) = section.field(name)
    {
        field.at.notice(format!(
            "is shorter than {MIN_CHARS} characters; a random one of {MIN_CHARS} or more is safer"
        ));
    }
}

fn argon2id_hash(phc: &str) -> Result<SecretText, String> {
    let parsed = argon2::password_hash::phc::PasswordHash::new(phc).ok();
    let whole = |hash: &argon2::password_hash::phc::PasswordHash| {
        hash.algorithm.as_str() == "argon2id" && hash.salt.is_some() && hash.hash.is_some()
    };
    match parsed.filter(whole) {
        Some(_) => Ok(SecretText::new(phc)),
        None => Err(String::from(
            "expected an argon2id hash such as $argon2id$v=19$m=19456,t=2,p=1$…$…",
        )),
    }
}

/// Fernet keys: a list, or one text with commas between them.
fn master_keys(field: Field<'_>) -> Vec<SecretText> {
    let is_list = matches!(field.node.value, super::document::Value::List(_));
    let fields = if is_list { field.items() } else { vec![field] };
    let keys = |text: &str| -> Result<Vec<SecretText>, String> {
        let parts = text.split(',').map(str::trim).filter(|key| !key.is_empty());
        parts.map(fernet_key).collect()
    };
    let each = fields.iter().filter_map(|field| field.hidden(keys));
    each.flatten().collect()
}

fn fernet_key(text: &str) -> Result<SecretText, String> {
    const KEY_BYTES: usize = 32;
    let decoded = base64::engine::general_purpose::URL_SAFE.decode(text);
    match decoded {
        Ok(bytes) if bytes.len() == KEY_BYTES => Ok(SecretText::new(text)),
        _ => Err(String::from(
            "expected a Fernet key: 32 random bytes in URL-safe base64 (44 characters)",
        )),
    }
}

fn quota(mut section: Section<'_>) -> QuotaConfig {
    let quota = QuotaConfig {
        reservation_ttl: section.or(
            "reservation_ttl",
            Duration::from_secs(900),
            duration_in("1s", "24h"),
        ),
        lost_reservation: section.or(
            "lost_reservation",
            LostReservation::Charge,
            choice(&[
                ("charge", LostReservation::Charge),
                ("release", LostReservation::Release),
            ]),
        ),
        default_max_output_tokens: section.or(
            "default_max_output_tokens",
            4_096,
            whole(1, 10_000_000),
        ),
        estimate: section.or(
            "estimate",
            Estimate::Auto,
            choice(&[("auto", Estimate::Auto), ("declared", Estimate::Declared)]),
        ),
        admission: section.or(
            "admission",
            Admission::Clamp,
            choice(&[
                ("clamp", Admission::Clamp),
                ("strict", Admission::Strict),
                ("open", Admission::Open),
            ]),
        ),
        on_overrun: section.or(
            "on_overrun",
            OnOverrun::TopUp,
            choice(&[("top_up", OnOverrun::TopUp), ("record", OnOverrun::Record)]),
        ),
        on_client_gone: section.or(
            "on_client_gone",
            OnClientGone::BillStreamed,
            choice(&[
                ("bill_streamed", OnClientGone::BillStreamed),
                ("drain", OnClientGone::Drain),
                ("keep_hold", OnClientGone::KeepHold),
            ]),
        ),
        local_slices: section.field("local_slices").and_then(local_slices),
    };
    section.finish();
    quota
}

fn local_slices(field: Field<'_>) -> Option<LocalSlices> {
    if matches!(field.node.value, super::document::Value::Scalar { .. }) {
        let off = |text: &str| match text {
            "off" => Ok(()),
            _ => Err(String::from("expected off, or {size: 5%, max: 100000}")),
        };
        field.value(off);
        return None;
    }
    let mut section = field.section();
    let slices = LocalSlices {
        size_percent: section.or("size", 5, scalar::percent),
        max: section.or("max", 100_000, whole(1, MAX_AMOUNT)),
    };
    section.finish();
    Some(slices)
}

/// The built-in tiers, and those of the file: a tier of the same name replaces the built-in one.
fn tiers(field: Option<Field<'_>>) -> BTreeMap<String, Rates> {
    let per_minute = |requests_per_minute| Rates {
        requests_per_minute,
        ..Rates::default()
    };
    let mut tiers = BTreeMap::from([
        (String::from("basic"), per_minute(100)),
        (String::from("premium"), per_minute(1_000)),
        (String::from("unlimited"), Rates::default()),
    ]);
    for (name, field) in field.map_or_else(Vec::new, |field| field.named()) {
        if text(name).is_err() {
            field.at.fault("expected a tier with a name");
        }
        let mut section = field.section();
        let rates = Rates {
            requests_per_minute: section.or("requests_per_minute", 0, whole(0, MAX_AMOUNT)),
            tokens_per_minute: section.or("tokens_per_minute", 0, whole(0, MAX_AMOUNT)),
            concurrency: section.or("concurrency", 0, whole(0, MAX_AMOUNT)),
        };
        section.finish();
        tiers.insert(String::from(name), rates);
    }
    tiers
}

fn log(mut section: Section<'_>) -> LogConfig {
    use log::LevelFilter::{Debug, Error, Info, Off, Trace, Warn};
    let log = LogConfig {
        level: section.or(
            "level",
            Info,
            choice(&[
                ("off", Off),
                ("error", Error),
                ("warn", Warn),
                ("info", Info),
                ("debug", Debug),
                ("trace", Trace),
            ]),
        ),
        access: section.field("access").and_then(|field| field.path()),
    };
    section.finish();
    log
}
