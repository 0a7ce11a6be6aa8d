//! The background work of the books: late settlements, leases, sweeps, retention.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::{BackgroundService, GenBackgroundService, background_service};
use tokio::sync::Mutex;

use crate::config::StoreConfig;
use crate::exchange::{Desk, SettlerQueue};
use crate::store::{Reconciled, StoreError};
use crate::telemetry::event::{LeasesExpired, OutageReconciled};
use crate::telemetry::metrics::Metrics;
use crate::time::{DAY_MS, UnixMs};

/// How often expired leases are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// How often old usage events are deleted.
const PRUNE: Duration = Duration::from_secs(600);

/// Everything that must go on beside the exchanges.
pub struct Books {
    desk: Arc<Desk>,
    queue: Arc<Mutex<SettlerQueue>>,
    metrics: Arc<Metrics>,
}

impl Books {
    pub fn new(desk: Arc<Desk>, queue: Arc<Mutex<SettlerQueue>>, metrics: Arc<Metrics>) -> Self {
        Books {
            desk,
            queue,
            metrics,
        }
    }

    pub fn service(self) -> GenBackgroundService<Books> {
        background_service("books", self)
    }

    async fn settle(&self) {
        self.queue.lock().await.work(&*self.desk.store).await;
    }

    async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            match self.desk.store.sweep().await {
                Ok(count) => LeasesExpired { count }.emit(&self.metrics),
                Err(StoreError::Unavailable(why)) => log::warn!("expired leases wait: {why}"),
                Err(fault) => log::error!("expired leases could not be resolved: {fault}"),
            }
            self.reconcile().await;
        }
    }

    async fn reconcile(&self) {
        match self.desk.store.reconcile().await {
            Ok(Reconciled { exchanges: 0, .. }) => {}
            Ok(Reconciled { exchanges, overrun }) => {
                OutageReconciled { exchanges, overrun }.emit(&self.metrics);
            }
            Err(StoreError::Unavailable(_)) => {}
            Err(fault) => log::error!("what was served without the store waits: {fault}"),
        }
    }

    async fn prune(&self) {
        loop {
            let days = match &self.desk.live.load().config.store {
                StoreConfig::Embedded { retention_days, .. } => *retention_days,
                StoreConfig::Redis(redis) => redis.retention_days,
            };
            let before = UnixMs::now().plus_ms(-i64::from(days) * DAY_MS);
            match self.desk.store.prune_events(before).await {
                Ok(0) => {}
                Ok(count) => log::info!("deleted {count} usage events older than {days} days"),
                Err(fault) => log::warn!("old usage events stay for now: {fault}"),
            }
            tokio::time::sleep(PRUNE).await;
        }
    }
}

#[async_trait]
impl BackgroundService for Books {
    /// Goes on through the grace period: exchanges still end then. The runtime's end stops it.
    async fn start(&self, _shutdown: ShutdownWatch) {
        let leases = self.desk.settler.renew_leases(&*self.desk.store);
        tokio::join!(self.settle(), leases, self.sweep(), self.prune());
    }
}
