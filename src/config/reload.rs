//! What a running process takes from a configuration that is read again.

use std::collections::BTreeSet;

use crate::time::UnixMs;

use super::{Config, EdgeConfig, PluginConfig, TlsListener};

impl Config {
    /// This configuration with the pools, prices, tiers, alerts, certificates and log level of `new`.
    /// What else differs takes a restart: a lease that runs, a socket that is bound cannot change under
    /// way. A TLS listener that `new` does not name goes on as it is, and one that asks no certificates
    /// of clients begins to with a restart: sessions from before would be resumed without one for ever.
    pub fn reloaded(&self, new: Config) -> Config {
        let mut log = self.log.clone();
        log.level = new.log.level;
        let tls = self.edge.tls.iter().map(|old| {
            let new = of_address(&new, old).unwrap_or(old);
            TlsListener {
                clients: match (&old.clients, &new.clients) {
                    (Some(_), Some(clients)) => Some(clients.clone()),
                    (stays, _) => stays.clone(),
                },
                ..new.clone()
            }
        });
        let edge = EdgeConfig {
            tls: tls.collect(),
            ..self.edge.clone()
        };
        Config {
            edge,
            tiers: new.tiers,
            pools: new.pools,
            prices: new.prices,
            key_thresholds: new.key_thresholds,
            alerts: new.alerts,
            log,
            ..self.clone()
        }
    }

    /// The addresses with TLS, and when the first certificate of each expires.
    pub fn certificate_expiries(&self) -> Vec<(String, UnixMs)> {
        let first = |listener: &TlsListener| {
            let expiries = listener.certificates.iter().filter_map(|one| one.expires);
            Some((listener.listen.to_string(), expiries.min()?))
        };
        self.edge.tls.iter().filter_map(first).collect()
    }

    fn plugins_differ(&self, new: &Config) -> bool {
        let same =
            |(a, b): (&PluginConfig, &PluginConfig)| a.name == b.name && a.config == b.config;
        let pairs = self.plugins.iter().zip(&new.plugins);
        self.plugins.len() != new.plugins.len() || !pairs.into_iter().all(same)
    }

    /// The sections of which `new` says otherwise, and which a reload leaves alone. Compared as shown:
    /// secrets show no difference, and need none to be told.
    pub fn needing_restart(&self, new: &Config) -> Vec<&'static str> {
        let differ =
            |a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| format!("{a:?}") != format!("{b:?}");
        let all = [
            ("server", differ(&self.server, &new.server)),
            (
                "edge",
                differ(&without_tls(&self.edge), &without_tls(&new.edge)),
            ),
            ("edge.tls[].listen", addresses(self) != addresses(new)),
            (
                "whether edge.tls asks clients for certificates",
                self.edge.tls.iter().any(|old| {
                    let new = of_address(new, old);
                    new.is_some_and(|new| new.clients.is_some() != old.clients.is_some())
                }),
            ),
            ("admin", differ(&self.admin, &new.admin)),
            ("store", differ(&self.store, &new.store)),
            ("quota", differ(&self.quota, &new.quota)),
            ("plugins", self.plugins_differ(new)),
            ("log.access", differ(&self.log.access, &new.log.access)),
        ];
        let differing = all.into_iter().filter(|(_, differs)| *differs);
        differing.map(|(section, _)| section).collect()
    }
}

fn without_tls(edge: &EdgeConfig) -> EdgeConfig {
    EdgeConfig {
        tls: Vec::new(),
        ..edge.clone()
    }
}

/// The listener with the address of another.
fn of_address<'a>(config: &'a Config, other: &TlsListener) -> Option<&'a TlsListener> {
    let mut all = config.edge.tls.iter();
    all.find(|listener| listener.listen == other.listen)
}

fn addresses(config: &Config) -> BTreeSet<std::net::SocketAddr> {
    let listen = |listener: &TlsListener| listener.listen;
    config.edge.tls.iter().map(listen).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::parse;

    #[test]
    fn a_lease_stays_and_a_tier_changes() {
        let load = |text: &str| {
            parse(text, "c.yaml", Path::new("."), &|_| None)
                .unwrap()
                .config
        };
        let old = load("quota: {reservation_ttl: 15m}\ntiers: {t: {concurrency: 1}}\n");
        let new = load("quota: {reservation_ttl: 2s}\ntiers: {t: {concurrency: 2}}\n");
        let now = old.reloaded(new);
        assert_eq!(now.quota.reservation_ttl.as_secs(), 900);
        assert_eq!(now.tiers["t"].concurrency, 2);
    }
    #[test]
    fn what_takes_a_restart_is_named() {
        let load = |text: &str| {
            parse(text, "c.yaml", Path::new("."), &|_| None)
                .unwrap()
                .config
        };
        let named = |new: &str| {
            let old = load("plugins: [{name: a, config: {x: 1}}]");
            old.needing_restart(&load(new))
        };
        assert!(named("plugins: [{name: a, config: {x: 1}}]").is_empty());
        assert_eq!(named("plugins: [{name: a, config: {x: 2}}]"), ["plugins"]);
        assert_eq!(named("quota: {reservation_ttl: 2s}"), ["quota", "plugins"]);
    }
}
