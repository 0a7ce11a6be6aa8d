//! The thread of upgrades: takes the word from the process before, serves what still runs there, and
//! listens for the process after.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::{Giver, Taker};
use crate::proxy::Active;
use crate::server::notify::ServiceManager;
use crate::store::Store;
use crate::store::movable::host::host;

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
    pub manager: Arc<ServiceManager>,
}

impl std::fmt::Debug for Succession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Succession").finish_non_exhaustive()
    }
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

    fn run(self) -> io::Result<()> {
        let replace = self.taker.is_some();
        let (runtime, before) = match self.taker {
            None => (runtime()?, None),
            Some(taker) => {
                // It ends early where a service has died.
                if self.are_ready.iter().take(SERVICES).count() < SERVICES {
                    let why = "its services did not start";
                    taker.give_up(why);
                    return Err(io::Error::other(why));
                }
                let (runtime, before) = taker.take_the_word()?;
                self.begin.send_replace(true);
                log::info!("took over from the process before");
                (runtime, before)
            }
        };
        runtime.block_on(async {
            if let Err(fault) = Arc::clone(&self.giver).listen(replace).await {
                let path = self.giver.path().display();
                log::warn!("this process cannot be upgraded while it runs: {path}: {fault}");
            }
            self.manager.ready();
            if let Some(before) = before {
                serve(before, self.store, &self.active).await;
            }
            std::future::pending().await
        })
    }
}

/// Until the process before has ended.
async fn serve(before: UnixStream, store: Arc<dyn Store>, active: &Active) {
    let _running = active.enter();
    host(before, store).await;
    log::info!("the process before has ended");
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}
