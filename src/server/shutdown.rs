//! The end: streams finish within the grace period, then the books are closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pingora::server::ExecutionPhase;
use tokio::sync::{Mutex, broadcast};

use crate::exchange::{Settler, SettlerQueue};
use crate::proxy::Active;
use crate::store::Store;
use crate::telemetry::access_log::AccessLog;

/// For how long nothing must have run before the grace period ends early: a request that was
/// accepted a moment ago is not overlooked.
const IDLE: Duration = Duration::from_millis(300);

/// Closes the books, once.
pub struct Closing {
    store: Arc<dyn Store>,
    queue: Arc<Mutex<SettlerQueue>>,
    access_log: Option<Arc<AccessLog>>,
    settler: Arc<Settler>,
    active: Active,
    closed: AtomicBool,
}

impl Closing {
    pub fn new(
        store: Arc<dyn Store>,
        queue: Arc<Mutex<SettlerQueue>>,
        access_log: Option<Arc<AccessLog>>,
        settler: Arc<Settler>,
    ) -> Self {
        Closing {
            store,
            queue,
            access_log,
            settler,
            active: Active::default(),
            closed: AtomicBool::new(false),
        }
    }

    pub fn active(&self) -> Active {
        self.active.clone()
    }

    /// Ends the process early when nothing runs any more: Pingora would sleep its grace period out.
    pub fn watch(self: &Arc<Self>, mut phases: broadcast::Receiver<ExecutionPhase>) {
        let closing = Arc::clone(self);
        let watch = move || {
            while let Ok(phase) = phases.blocking_recv() {
                if matches!(phase, ExecutionPhase::ShutdownGracePeriod) {
                    closing.wait_until_idle();
                    closing.close();
                    std::process::exit(0);
                }
            }
        };
        if let Err(fault) = std::thread::Builder::new()
            .name("shutdown".into())
            .spawn(watch)
        {
            log::warn!("a stop will take the whole grace period: {fault}");
        }
    }

    fn wait_until_idle(&self) {
        let mut idle_since = Instant::now();
        while idle_since.elapsed() < IDLE {
            std::thread::sleep(Duration::from_millis(20));
            if self.settler.running() > 0 || self.active.count() > 0 {
                idle_since = Instant::now();
            }
        }
    }

    /// Books what is queued, writes everything out. Later calls do nothing.
    pub fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(fault) => {
                log::error!(
                    "the books could not be closed, leases will resolve what is open: {fault}"
                );
                return;
            }
        };
        runtime.block_on(async {
            // While the service still works the queue off, there is nothing left for us to do.
            if let Ok(mut queue) = self.queue.try_lock() {
                queue.drain(&*self.store).await;
            }
            self.store.close().await;
        });
        if let Some(access_log) = &self.access_log {
            access_log.close();
        }
    }
}
