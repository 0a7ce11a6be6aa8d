//! Signals: SIGTERM ends gracefully, SIGINT at once, SIGHUP reloads, SIGUSR2 reopens files.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{self, Config};
use crate::exchange::{Desk, Live};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::event::Reloaded;
use crate::telemetry::log as logging;

/// Waits for signals while the server runs.
pub struct Signals {
    draining: Arc<AtomicBool>,
    desk: Arc<Desk>,
    admin_config: Arc<ArcSwap<Config>>,
    access_log: Option<Arc<AccessLog>>,
    source: Option<PathBuf>,
}

impl Signals {
    pub fn new(
        draining: Arc<AtomicBool>,
        desk: Arc<Desk>,
        admin_config: Arc<ArcSwap<Config>>,
        access_log: Option<Arc<AccessLog>>,
        source: Option<PathBuf>,
    ) -> Self {
        Signals {
            draining,
            desk,
            admin_config,
            access_log,
            source,
        }
    }

    /// Pools, prices, tiers and log level change as one whole; a bad file changes nothing.
    fn reload(&self) {
        let env = |name: &str| std::env::var(name).ok();
        match config::load(self.source.as_deref(), &env) {
            Ok(loaded) => {
                logging::set_level(loaded.config.log.level);
                let config = Arc::new(loaded.config);
                self.admin_config.store(Arc::clone(&config));
                self.desk.live.store(Arc::new(Live::new(config)));
                Reloaded { faults: None }.emit();
            }
            Err(faults) => Reloaded {
                faults: Some(&faults.to_string()),
            }
            .emit(),
        }
    }
}

async fn next(listener: &mut Option<Signal>) {
    match listener {
        Some(listener) => {
            listener.recv().await;
        }
        None => std::future::pending().await,
    }
}

fn listen(kind: SignalKind) -> Option<Signal> {
    signal(kind)
        .inspect_err(|fault| log::error!("signal {kind:?} is not heard: {fault}"))
        .ok()
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let mut terminate = listen(SignalKind::terminate());
        let mut interrupt = listen(SignalKind::interrupt());
        let mut quit = listen(SignalKind::quit());
        let mut hangup = listen(SignalKind::hangup());
        let mut reopen = listen(SignalKind::user_defined2());
        loop {
            tokio::select! {
                () = next(&mut terminate) => {
                    self.draining.store(true, Ordering::Relaxed);
                    return ShutdownSignal::GracefulTerminate;
                }
                () = next(&mut quit) => {
                    self.draining.store(true, Ordering::Relaxed);
                    return ShutdownSignal::GracefulTerminate;
                }
                () = next(&mut interrupt) => {
                    self.draining.store(true, Ordering::Relaxed);
                    return ShutdownSignal::FastShutdown;
                }
                () = next(&mut hangup) => self.reload(),
                () = next(&mut reopen) => {
                    if let Some(access_log) = &self.access_log {
                        access_log.reopen();
                    }
                }
            }
        }
    }
}
