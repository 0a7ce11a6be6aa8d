//! What a running process takes from a configuration that is read again.

use super::{Config, PluginConfig};

impl Config {
    /// This configuration with the pools, prices, tiers, alerts and log level of `new`. What else
    /// differs takes a restart: a lease that runs, a socket that is bound cannot change under way.
    pub fn reloaded(&self, new: Config) -> Config {
        for (section, differs) in self.needing_restart(&new) {
            if differs {
                log::warn!("{section} has changed; that takes effect with a restart");
            }
        }
        let mut log = self.log.clone();
        log.level = new.log.level;
        Config {
            tiers: new.tiers,
            pools: new.pools,
            prices: new.prices,
            key_thresholds: new.key_thresholds,
            alerts: new.alerts,
            log,
            ..self.clone()
        }
    }

    fn plugins_differ(&self, new: &Config) -> bool {
        let same =
            |(a, b): (&PluginConfig, &PluginConfig)| a.name == b.name && a.config == b.config;
        let pairs = self.plugins.iter().zip(&new.plugins);
        self.plugins.len() != new.plugins.len() || !pairs.into_iter().all(same)
    }

    /// Each section that a reload leaves alone, and whether `new` says otherwise. Compared as shown:
    /// secrets show no difference, and need none to be told.
    fn needing_restart(&self, new: &Config) -> [(&'static str, bool); 7] {
        let differ =
            |a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| format!("{a:?}") != format!("{b:?}");
        [
            ("server", differ(&self.server, &new.server)),
            ("edge", differ(&self.edge, &new.edge)),
            ("admin", differ(&self.admin, &new.admin)),
            ("store", differ(&self.store, &new.store)),
            ("quota", differ(&self.quota, &new.quota)),
            ("plugins", self.plugins_differ(new)),
            ("log.access", differ(&self.log.access, &new.log.access)),
        ]
    }
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
            let differs = old.needing_restart(&load(new));
            let named = differs.into_iter().filter(|(_, differs)| *differs);
            named.map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert!(named("plugins: [{name: a, config: {x: 1}}]").is_empty());
        assert_eq!(named("plugins: [{name: a, config: {x: 2}}]"), ["plugins"]);
        assert_eq!(named("quota: {reservation_ttl: 2s}"), ["quota", "plugins"]);
    }
}
