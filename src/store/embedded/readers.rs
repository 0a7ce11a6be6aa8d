//! Threads that answer queries on connections of their own: a long listing never holds up a commit,
//! and no async runtime is blocked or needed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};

use super::state::closed;
use crate::store::StoreResult;
use crate::store::file;
use crate::store::file::fault;

const THREADS: usize = 2;

type Query = Box<dyn FnOnce(&mut Connection) + Send>;

#[derive(Debug)]
pub(super) struct Readers {
    queries: Mutex<Option<Sender<Query>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    path: PathBuf,
    /// Reads of the whole file: one at a time.
    whole: Arc<Semaphore>,
}

impl Readers {
    pub fn start(path: &Path) -> StoreResult<Readers> {
        let (queries, to_answer) = channel::<Query>();
        let to_answer = Arc::new(Mutex::new(to_answer));
        let mut threads = Vec::with_capacity(THREADS);
        for _ in 0..THREADS {
            let mut connection = file::connect_reader(path)?;
            let to_answer = to_answer.clone();
            let thread = std::thread::Builder::new()
                .name(String::from("store-reader"))
                .spawn(move || {
                    while let Some(query) = next(&to_answer) {
                        query(&mut connection);
                    }
                });
            threads.push(thread.map_err(super::no_thread)?);
        }
        Ok(Readers {
            queries: Mutex::new(Some(queries)),
            threads: Mutex::new(threads),
            path: path.to_owned(),
            whole: Arc::new(Semaphore::new(1)),
        })
    }

    /// Runs a query on one of the threads.
    pub async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> StoreResult<T> {
        let (answer, answered) = oneshot::channel();
        let query: Query = Box::new(move |connection| {
            // Nobody to answer: the caller has gone.
            drop(answer.send(query(connection)));
        });
        let sent = self.queries.lock().as_ref().map(|to| to.send(query));
        match sent {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return Err(closed()),
        }
        answered.await.map_err(|_| closed())?.map_err(fault)
    }

    /// Runs a read of the whole file on a thread of its own, so that no query waits for it. It is told
    /// whether anybody still asks.
    pub async fn aside<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Connection, &dyn Fn() -> bool) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        let turn = self.whole.clone().acquire_owned().await;
        let turn = turn.map_err(|_| closed())?;
        let (answer, answered) = oneshot::channel();
        let path = self.path.clone();
        let run = move || {
            let _turn = turn;
            let connection = file::connect_reader(&path);
            let done = connection.and_then(|mut connection| {
                let asked = || !answer.is_closed();
                read(&mut connection, &asked)
            });
            // Nobody to answer: the caller has gone.
            drop(answer.send(done));
        };
        super::spawn("store-whole-read", run)?;
        answered.await.map_err(|_| closed())?
    }

    /// Answers what was asked and ends the threads.
    pub fn stop(&self) {
        self.whole.close();
        drop(self.queries.lock().take());
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked has nothing left to do.
            drop(thread.join());
        }
    }
}

fn next(queries: &Mutex<Receiver<Query>>) -> Option<Query> {
    queries.lock().recv().ok()
}
