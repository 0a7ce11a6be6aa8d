//! The thread of upgrades: takes the word from the process before, serves what still runs there, and
//! listens for the process after.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::taker::Predecessor;
use super::{Giver, Taker};
use crate::proxy::{Active, ActiveRequest};
use crate::server::notify::ServiceManager;
use crate::server::reload::Reload;
use crate::store::Store;
use crate::store::movable::host::host;
use crate::telemetry::access_log::AccessLog;

/// Services that accept connections: the edge's and the admin's.
const SERVICES: usize = 2;

/// What a process needs to be one of a row.
pub struct Succession {
    pub giver: Arc<Giver>,
    /// `None`: this process is the first.
    pub taker: Option<Taker>,
    /// Hears of each service that could accept connections.
    pub are_ready: Receiver<()>,
    /// Lets them.
    pub begin: watch::Sender<bool>,
    pub store: Arc<dyn Store>,
    /// The process before counts among the requests that this one waits for at its end.
    pub active: Active,
    pub access_log: Option<Arc<AccessLog>>,
    pub reload: Arc<Reload>,
    pub manager: Arc<ServiceManager>,
    /// What is done when this process serves.
    pub serving: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for Succession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Succession").finish_non_exhaustive()
    }
}

/// A process before, which this one serves.
struct Running {
    before: Predecessor,
    /// This process does not end by itself meanwhile.
    request: ActiveRequest,
}

impl Succession {
    /// Starts the thread. Its runtime lasts as long as the process: connections between processes
    /// live on it.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn begin(self) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(String::from("upgrade"));
        let run = move || {
            if let Err(fault) = self.run() {
                log::error!("could not take over, this process ends: {fault}");
                std::process::exit(1);
            }
        };
        thread.spawn(run).map(drop)
    }

    fn run(mut self) -> io::Result<()> {
        let taker = self.taker.take();
        let taken_at = taker.as_ref().map(|taker| taker.path().to_owned());
        let took_over = taker.is_some();
        let (runtime, running) = match taker {
            None => (runtime()?, None),
            Some(taker) => self.take_over(taker)?,
        };
        let same = taken_at
            .as_deref()
            .is_some_and(|path| are_same(path, self.giver.path()));
        runtime.block_on(async {
            if let Err(fault) = Arc::clone(&self.giver).listen(same).await {
                let path = self.giver.path().display();
                log::warn!("this process cannot be upgraded while it runs: {path}: {fault}");
            }
            if let Some(before) = taken_at.filter(|_| !same) {
                leave(&before);
            }
            self.manager.ready();
            if let Some(serving) = self.serving.take() {
                serving();
            }
            if took_over {
                self.catch_up();
            }
            if let Some(running) = running {
                self.serve(running).await;
            }
            std::future::pending().await
        })
    }

    fn take_over(&self, taker: Taker) -> io::Result<(Runtime, Option<Running>)> {
        let request = self.active.enter();
        // It ends early where a service has died.
        let ready = self.are_ready.iter().take(SERVICES).count();
        let why = match ready < SERVICES {
            true => Some("its services did not start"),
            false if self.giver.is_draining() => Some("it was told to end"),
            false => None,
        };
        if let Some(why) = why {
            taker.give_up(why);
            return Err(io::Error::other(why));
        }
        let (runtime, before) = taker.take_the_word()?;
        self.begin.send_replace(true);
        log::info!("took over from the process before");
        Ok((runtime, before.map(|before| Running { before, request })))
    }

    /// What the process before was told while this one began: that files have changed, that its log was
    /// moved away.
    fn catch_up(&self) {
        if let Some(access_log) = &self.access_log {
            access_log.reopen();
        }
        let reload = Arc::clone(&self.reload);
        // Nobody waits for it, the exchanges of the process before least of all.
        drop(tokio::task::spawn_blocking(move || reload.catch_up()));
    }

    /// Until the process before has ended.
    async fn serve(&self, running: Running) {
        let Running { before, request } = running;
        self.giver.before.is(before.process);
        host(before.connection, Arc::clone(&self.store)).await;
        self.giver.before.is_over();
        drop(request);
        log::info!("the process before has ended");
    }
}

/// Two names of one path are one.
fn are_same(a: &Path, b: &Path) -> bool {
    let whole = |path: &Path| path.canonicalize().ok();
    a == b || whole(a).is_some_and(|a| Some(a) == whole(b))
}

/// Nobody is to knock any more where only the process before listens.
fn leave(path: &Path) {
    if let Err(fault) = fs::remove_file(path) {
        log::warn!("{} stays behind: {fault}", path.display());
    }
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_by_another_name_is_the_same_socket() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("run")).unwrap();
        fs::write(at("run/a.sock"), "").unwrap();
        fs::write(at("run/b.sock"), "").unwrap();
        let path = at("run/a.sock");
        assert!(are_same(&path, &path) && are_same(&at("none"), &at("none")));
        assert!(are_same(&path, &at("run/../run/a.sock")));
        assert!(!are_same(&path, &at("run/b.sock")));
        assert!(!are_same(&path, &at("none")) && !are_same(&at("no"), &at("none")));
    }
}
