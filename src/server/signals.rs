//! Signals: SIGTERM ends gracefully, SIGINT at once, SIGHUP reloads, SIGUSR2 reopens files. The service
//! manager hears what becomes of them. A process whose place another has taken ends here, too.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::notify::ServiceManager;
use super::reload::Reload;
use super::shutdown::Closing;
use super::upgrade::Successor;
use crate::exchange::Desk;
use crate::telemetry::access_log::AccessLog;

/// Waits for signals while the server runs.
pub struct Signals {
    draining: Arc<AtomicBool>,
    desk: Arc<Desk>,
    access_log: Option<Arc<AccessLog>>,
    reload: Arc<Reload>,
    closing: Arc<Closing>,
    taken: watch::Receiver<Option<Successor>>,
    manager: Arc<ServiceManager>,
    heard: Mutex<Heard>,
}

/// Listeners that are set up. What arrives before they are asked waits in them.
#[derive(Default)]
struct Heard {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
    quit: Option<Signal>,
    hangup: Option<Signal>,
    reopen: Option<Signal>,
}

impl Signals {
    pub fn new(
        draining: Arc<AtomicBool>,
        desk: Arc<Desk>,
        access_log: Option<Arc<AccessLog>>,
        reload: Arc<Reload>,
        closing: Arc<Closing>,
        taken: watch::Receiver<Option<Successor>>,
        manager: Arc<ServiceManager>,
    ) -> Self {
        Signals {
            draining,
            desk,
            access_log,
            reload,
            closing,
            taken,
            manager,
            heard: Mutex::default(),
        }
    }

    /// Sets the listeners up. From here on no signal ends the process by itself, so it comes before
    /// anyone is told that the process is there.
    ///
    /// # Errors
    /// What the operating system says to the pipe that signals come through.
    pub fn listen(&self) -> io::Result<()> {
        // Registering needs a runtime, hearing does not need the same one.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let _context = runtime.enter();
        *self.heard.lock() = Heard {
            terminate: listen(SignalKind::terminate()),
            interrupt: listen(SignalKind::interrupt()),
            quit: listen(SignalKind::quit()),
            hangup: listen(SignalKind::hangup()),
            reopen: listen(SignalKind::user_defined2()),
        };
        Ok(())
    }

    /// Whom to tell that everything is built and listens.
    pub fn manager(&self) -> Arc<ServiceManager> {
        Arc::clone(&self.manager)
    }

    /// From here on nothing more is taken.
    fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        // The service goes on in the process that took over.
        if self.taken.borrow().is_none() {
            self.manager.stopping();
        }
    }

    /// Waits until another process has taken over and what ran here has ended, which ends this
    /// process. Returns where it takes longer than any request may.
    async fn leave(&self) {
        if self.taken.clone().wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
        let config = Arc::clone(&self.desk.live.load().config);
        let longest = config.edge.request_timeout + config.server.grace_period;
        self.closing.leave_when_idle();
        tokio::time::sleep(longest).await;
        log::warn!("requests that began before the upgrade run for {longest:?}: they are cut");
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
        let mut heard = std::mem::take(&mut *self.heard.lock());
        let mut leave = std::pin::pin!(self.leave());
        loop {
            tokio::select! {
                () = leave.as_mut() => return ShutdownSignal::FastShutdown,
                () = next(&mut heard.terminate) => {
                    self.drain();
                    return ShutdownSignal::GracefulTerminate;
                }
                // Pingora's sign for an upgrade. Here a new process comes by itself, so that a signal
                // with nobody there ends nothing.
                () = next(&mut heard.quit) => log::warn!(
                    "SIGQUIT changes nothing: `quota-proxy upgrade` starts a new binary, SIGTERM ends this process"
                ),
                () = next(&mut heard.interrupt) => {
                    self.drain();
                    return ShutdownSignal::FastShutdown;
                }
                () = next(&mut heard.hangup) => {
                    // Its verdict is in the log.
                    drop(self.reload.run());
                }
                () = next(&mut heard.reopen) => {
                    if let Some(access_log) = &self.access_log {
                        access_log.reopen();
                    }
                }
            }
        }
    }
}
