//! Signals: SIGTERM ends gracefully, SIGINT at once, and so does SIGTERM once more; SIGHUP reloads, SIGUSR2
//! reopens files. The service manager hears what becomes of them. A process whose place another has taken
//! ends here, too.
//!
//! All of them are heard to the very end: Pingora only learns that it is over, never that it drains, for
//! while it waits for a grace period it hears nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use rustix::process::Signal as Told;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::notify::ServiceManager;
use super::reload::Reload;
use super::shutdown::Closing;
use super::upgrade::{END_TOO, Giver};
use crate::exchange::Desk;
use crate::telemetry::access_log::AccessLog;

/// What the end takes at most beyond the grace period: last settlements, and the store's own end.
const AFTER_GRACE: Duration = Duration::from_secs(10);

/// Waits for signals while the server runs.
pub struct Signals {
    desk: Arc<Desk>,
    access_log: Option<Arc<AccessLog>>,
    reload: Arc<Reload>,
    closing: Arc<Closing>,
    giver: Arc<Giver>,
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
    end_too: Option<Signal>,
}

impl Signals {
    pub fn new(
        desk: Arc<Desk>,
        access_log: Option<Arc<AccessLog>>,
        reload: Arc<Reload>,
        closing: Arc<Closing>,
        giver: Arc<Giver>,
        manager: Arc<ServiceManager>,
    ) -> Self {
        Signals {
            desk,
            access_log,
            reload,
            closing,
            giver,
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
            end_too: listen(SignalKind::from_raw(END_TOO.as_raw())),
        };
        Ok(())
    }

    /// Whom to tell that everything is built and listens.
    pub fn manager(&self) -> Arc<ServiceManager> {
        Arc::clone(&self.manager)
    }

    pub fn reload(&self) -> Arc<Reload> {
        Arc::clone(&self.reload)
    }

    fn is_taken(&self) -> bool {
        self.giver.taken().borrow().is_some()
    }

    /// From here on nothing more is taken, here and in the process before.
    fn drain(&self) {
        if !self.closing.drain() {
            return;
        }
        self.giver.close();
        // The service goes on in the process that took over.
        if !self.is_taken() {
            let grace = self.desk.live.load().config.server.grace_period;
            self.manager.stopping(grace + AFTER_GRACE);
        }
        self.giver.before.end(END_TOO);
    }

    /// What runs is cut, and settled then.
    fn end(&self) -> ShutdownSignal {
        self.drain();
        self.giver.before.end(Told::INT);
        ShutdownSignal::FastShutdown
    }

    /// Waits until another process has taken over and what ran here has ended, which ends this
    /// process. Returns where it takes longer than any request may.
    async fn leave(&self) {
        if self.giver.taken().wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
        let config = Arc::clone(&self.desk.live.load().config);
        let longest = config.edge.request_timeout + config.server.grace_period;
        self.closing.leave_when_idle();
        tokio::time::sleep(longest).await;
        log::warn!("requests that began before the upgrade run for {longest:?}: they are cut");
    }

    /// Waits for the end of the grace period of a process that was told to end.
    async fn grace(&self) {
        if self.closing.edge_end().wait_for(|end| *end).await.is_err() {
            std::future::pending::<()>().await;
        }
        let config = Arc::clone(&self.desk.live.load().config);
        tokio::time::sleep(config.server.grace_period).await;
        log::warn!(
            "the grace period of {:?} is over: what still runs is cut",
            config.server.grace_period
        );
    }

    /// Waits until the process that took over has ended, and with it everything that would settle here.
    async fn left_alone(&self) {
        if self.giver.alone().wait_for(|alone| *alone).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn hang_up(&self) {
        if self.giver.is_draining() {
            log::warn!("SIGHUP changes nothing any more: this process ends");
        } else {
            // Its verdict is in the log.
            drop(self.reload.run());
        }
    }

    fn reopen(&self) {
        if let Some(access_log) = &self.access_log {
            access_log.reopen();
        }
        self.giver.before.tell(Told::USR2);
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
        let mut grace = std::pin::pin!(self.grace());
        let mut left_alone = std::pin::pin!(self.left_alone());
        // By this signal: a process that took over tells it, too, and that is no second time.
        let mut terminated = false;
        loop {
            tokio::select! {
                () = leave.as_mut() => return self.end(),
                () = grace.as_mut() => return self.end(),
                () = left_alone.as_mut() => {
                    self.closing.ends_badly();
                    return self.end();
                }
                () = next(&mut heard.terminate) => {
                    if std::mem::replace(&mut terminated, true) {
                        log::warn!("SIGTERM once more: what still runs is cut");
                        return self.end();
                    }
                    self.drain();
                }
                () = next(&mut heard.end_too) => if self.is_taken() {
                    self.drain();
                } else {
                    log::warn!("SIGUSR1 changes nothing in a process whose place nobody has taken");
                },
                // Pingora's sign for an upgrade. Here a new process comes by itself, so that a signal
                // with nobody there ends nothing.
                () = next(&mut heard.quit) => log::warn!(
                    "SIGQUIT changes nothing: `quota-proxy upgrade` starts a new binary, SIGTERM ends this process"
                ),
                () = next(&mut heard.interrupt) => return self.end(),
                () = next(&mut heard.hangup) => self.hang_up(),
                () = next(&mut heard.reopen) => self.reopen(),
            }
        }
    }
}
