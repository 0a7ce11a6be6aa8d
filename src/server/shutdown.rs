//! The end: streams finish within the grace period, then the books are closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::server::{ExecutionPhase, ShutdownWatch};
use tokio::sync::{Mutex, broadcast, watch};

use crate::exchange::{Settler, SettlerQueue};
use crate::proxy::Active;
use crate::store::Store;
use crate::telemetry::access_log::AccessLog;

/// For how long nothing must have run before the grace period ends early: a request that was
/// accepted a moment ago is not overlooked.
const IDLE: Duration = Duration::from_millis(300);

/// The same for a process whose place another has taken: clients that keep connections open send on
/// them, are told to close them, and come to the other process with their next.
const LINGER: Duration = Duration::from_secs(3);

/// Longest wait for what was cut to be settled. The store is not waited for beyond it: a lease is the
/// last resort.
const LAST_SETTLEMENTS: Duration = Duration::from_secs(5);

/// Closes the books, once.
pub struct Closing {
    store: Arc<dyn Store>,
    queue: Arc<Mutex<SettlerQueue>>,
    access_log: Option<Arc<AccessLog>>,
    settler: Arc<Settler>,
    active: Active,
    /// The admin port serves until the books are closed.
    admin_ends: watch::Sender<bool>,
    closed: parking_lot::Mutex<bool>,
    after: parking_lot::Mutex<Option<Box<dyn FnOnce() + Send>>>,
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
            admin_ends: watch::Sender::new(false),
            closed: parking_lot::Mutex::new(false),
            after: parking_lot::Mutex::default(),
        }
    }

    pub fn active(&self) -> Active {
        self.active.clone()
    }

    /// What is done last of all, in place of what was set before.
    pub fn after(&self, act: impl FnOnce() + Send + 'static) {
        *self.after.lock() = Some(Box::new(act));
    }

    /// Tells the admin service to stop, at the very end: health and metrics are asked above all of a
    /// process that drains.
    pub fn admin_end(&self) -> ShutdownWatch {
        self.admin_ends.subscribe()
    }

    /// Ends the process early when nothing runs any more: Pingora would sleep its grace period out.
    pub fn watch(self: &Arc<Self>, mut phases: broadcast::Receiver<ExecutionPhase>) {
        let closing = Arc::clone(self);
        let watch = move || {
            while let Ok(phase) = phases.blocking_recv() {
                if matches!(phase, ExecutionPhase::ShutdownGracePeriod) {
                    closing.end_when_idle(IDLE);
                }
            }
        };
        on_a_thread(watch);
    }

    /// Ends the process when nothing runs any more; another has taken its place. The admin port, too,
    /// serves what it has.
    pub fn leave_when_idle(self: &Arc<Self>) {
        let closing = Arc::clone(self);
        on_a_thread(move || closing.end_when_idle(LINGER));
    }

    fn end_when_idle(&self, idle: Duration) {
        self.wait_until_idle(idle);
        self.close();
        std::process::exit(0);
    }

    fn wait_until_idle(&self, idle: Duration) {
        let mut idle_since = Instant::now();
        while idle_since.elapsed() < idle {
            std::thread::sleep(Duration::from_millis(20));
            if self.settler.running() > 0 || self.active.count() > 0 {
                idle_since = Instant::now();
            }
        }
    }

    /// Books what was cut, writes everything out. A second call waits for the first and does nothing.
    pub fn close(&self) {
        let mut closed = self.closed.lock();
        if std::mem::replace(&mut *closed, true) {
            return;
        }
        self.admin_ends.send_replace(true);
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
            self.settle_what_is_left().await;
            self.store.close().await;
        });
        if let Some(access_log) = &self.access_log {
            access_log.close();
        }
        let after = self.after.lock().take();
        if let Some(after) = after {
            after();
        }
    }

    /// Exchanges that were cut hand their settlements over while their threads still end.
    async fn settle_what_is_left(&self) {
        let deadline = Instant::now() + LAST_SETTLEMENTS;
        // A process before this one whose steps are served here counts as active: what it cuts is settled
        // in these books too.
        let open = || self.settler.running() > 0 || self.active.count() > 0;
        while open() && Instant::now() < deadline {
            // Where the service still has the queue, it works it off itself.
            if let Ok(mut queue) = self.queue.try_lock() {
                queue.drain(&*self.store).await;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn on_a_thread(run: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name("shutdown".into());
    if let Err(fault) = thread.spawn(run) {
        log::warn!("the end will take as long as it may: {fault}");
    }
}
