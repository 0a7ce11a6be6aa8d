//! Takes a changed configuration while the server runs.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::notify::ServiceManager;
use crate::config::{self, Files};
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
    /// What was read last, and holds; one at a time.
    files: Mutex<Files>,
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reload").finish_non_exhaustive()
    }
}

impl Reload {
    /// `source` is the file that is read; `None`: the built-in defaults. `files` are those that the
    /// configuration of now is from.
    pub fn new(
        desk: Arc<Desk>,
        source: Option<PathBuf>,
        files: Files,
        manager: Arc<ServiceManager>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Reload {
            desk,
            source,
            manager,
            metrics,
            files: Mutex::new(files),
        }
    }

    /// Pools, prices, tiers, certificates and log level change as one whole, and the service manager
    /// hears of it. Returns the sections that have changed too and wait for a restart. Blocks while it
    /// reads files.
    ///
    /// # Errors
    /// Every fault of the file, by line. Nothing has changed then.
    pub fn run(&self) -> Result<Vec<&'static str>, String> {
        self.again(&mut self.files.lock())
    }

    /// The same where a file has changed since it was read. Blocks while it reads files.
    pub fn catch_up(&self) {
        let mut files = self.files.lock();
        if files.have_changed() {
            // Its verdict is in the log.
            drop(self.again(&mut files));
        }
    }

    fn again(&self, files: &mut Files) -> Result<Vec<&'static str>, String> {
        self.manager.reloading();
        let done = self.take(files);
        Reloaded {
            refused: done.as_ref().err().map(String::as_str),
        }
        .emit(&self.metrics);
        self.manager.reloaded(done.is_ok());
        done
    }

    fn take(&self, files: &mut Files) -> Result<Vec<&'static str>, String> {
        let env = |name: &str| std::env::var(name).ok();
        let loaded = config::load(self.source.as_deref(), &env);
        let loaded = loaded.map_err(|faults| faults.to_string())?;
        logging::set_level(loaded.config.log.level);
        loaded.tell();
        *files = loaded.files;
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
