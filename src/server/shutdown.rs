//! The end: streams finish within the grace period, then the books are closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use pingora::server::ShutdownWatch;
use tokio::sync::{Mutex, watch};

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
    draining: Arc<AtomicBool>,
    /// Tells the edge to accept no more.
    edge_ends: watch::Sender<bool>,
    /// The admin port serves until the books are closed.
    admin_ends: watch::Sender<bool>,
    closed: parking_lot::Mutex<bool>,
    /// Since when nothing runs but what was cut.
    cut_at: parking_lot::Mutex<Option<Instant>>,
    /// What the process ends with.
    code: AtomicI32,
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
            draining: Arc::default(),
            edge_ends: watch::Sender::new(false),
            admin_ends: watch::Sender::new(false),
            closed: parking_lot::Mutex::new(false),
            cut_at: parking_lot::Mutex::default(),
            code: AtomicI32::new(0),
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

    /// When nothing more is accepted at the edge.
    pub fn edge_end(&self) -> ShutdownWatch {
        self.edge_ends.subscribe()
    }

    /// Whether this process was told to end.
    pub fn draining(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.draining)
    }

    /// Accepts no more, and ends the process when nothing runs any more. Whoever calls sees to it that it
    /// takes no longer than the grace period. Once; false the second time.
    pub fn drain(self: &Arc<Self>) -> bool {
        if self.draining.swap(true, Ordering::Relaxed) {
            return false;
        }
        self.edge_ends.send_replace(true);
        let closing = Arc::clone(self);
        on_a_thread(move || closing.end_when_idle(IDLE));
        true
    }

    /// Ends the process when nothing runs any more; another has taken its place. The admin port, too,
    /// serves what it has.
    pub fn leave_when_idle(self: &Arc<Self>) {
        let closing = Arc::clone(self);
        on_a_thread(move || closing.end_when_idle(LINGER));
    }

    fn end_when_idle(&self, idle: Duration) {
        self.wait_until_idle(idle);
        self.close_once();
        std::process::exit(self.code());
    }

    /// That this process ends is a fault: whoever watches it is to start it anew.
    pub fn ends_badly(&self) {
        self.code.store(1, Ordering::Relaxed);
    }

    /// The process's exit code.
    pub fn code(&self) -> i32 {
        self.code.load(Ordering::Relaxed)
    }

    /// A process before this one whose steps are served here counts as active: what it cuts is settled in
    /// these books too.
    fn is_open(&self) -> bool {
        self.settler.running() > 0 || self.active.count() > 0
    }

    fn wait_until_idle(&self, idle: Duration) {
        let mut idle_since = Instant::now();
        while idle_since.elapsed() < idle {
            std::thread::sleep(Duration::from_millis(20));
            if self.is_open() {
                idle_since = Instant::now();
            }
        }
    }

    /// Books what was cut, writes everything out. A second call waits for the first and does nothing.
    pub fn close(&self) {
        self.cut_at.lock().get_or_insert_with(Instant::now);
        self.close_once();
    }

    fn close_once(&self) {
        let mut closed = self.closed.lock();
        if std::mem::replace(&mut *closed, true) {
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
            self.settle_what_is_left().await;
            self.admin_ends.send_replace(true);
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

    /// Exchanges that were cut hand their settlements over while their threads still end. A request that
    /// came in the last moment is not cut by this: it ends first.
    async fn settle_what_is_left(&self) {
        let in_time = || {
            let cut_at = *self.cut_at.lock();
            cut_at.is_none_or(|at| at.elapsed() < LAST_SETTLEMENTS)
        };
        while self.is_open() && in_time() {
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
