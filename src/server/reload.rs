//! Takes a changed configuration while the server runs.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::notify::ServiceManager;
use crate::config;
use crate::exchange::Desk;
use crate::telemetry::event::Reloaded;
use crate::telemetry::log as logging;
use crate::telemetry::metrics::Metrics;

/// Reads the configuration again, for a signal and for `quota-proxy reload`.
pub struct Reload {
    desk: Arc<Desk>,
    source: Option<PathBuf>,
    manager: Arc<ServiceManager>,
    metrics: Arc<Metrics>,
    /// One at a time: what was read last holds.
    turn: Mutex<()>,
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reload").finish_non_exhaustive()
    }
}

impl Reload {
    /// `source` is the file that is read; `None`: the built-in defaults.
    pub fn new(
        desk: Arc<Desk>,
        source: Option<PathBuf>,
        manager: Arc<ServiceManager>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Reload {
            desk,
            source,
            manager,
            metrics,
            turn: Mutex::default(),
        }
    }

    /// Pools, prices, tiers, certificates and log level change as one whole, and the service manager
    /// hears of it. Returns the sections that have changed too and wait for a restart. Blocks while it
    /// reads files.
    ///
    /// # Errors
    /// Every fault of the file, by line. Nothing has changed then.
    pub fn run(&self) -> Result<Vec<&'static str>, String> {
        let _turn = self.turn.lock();
        self.manager.reloading();
        let done = self.take();
        Reloaded {
            refused: done.as_ref().err().map(String::as_str),
        }
        .emit(&self.metrics);
        self.manager.reloaded(done.is_ok());
        done
    }

    fn take(&self) -> Result<Vec<&'static str>, String> {
        let env = |name: &str| std::env::var(name).ok();
        let loaded = config::load(self.source.as_deref(), &env);
        let loaded = loaded.map_err(|faults| faults.to_string())?;
        logging::set_level(loaded.config.log.level);
        loaded.tell();
        let live = self.desk.live.load();
        let waiting = live.config.needing_restart(&loaded.config);
        for section in &waiting {
            log::warn!("{section} has changed; that takes effect with a restart");
        }
        let config = Arc::new(live.config.reloaded(loaded.config));
        self.metrics.certificates(&config.certificate_expiries());
        self.desk.live.store(Arc::new(live.changed(config)));
        Ok(waiting)
    }
}
