//! Books that are with another process: each call is a message, each answer another.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::frame;
use crate::store::{StoreError, StoreResult};

/// Longest wait for an answer: a query over all books takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// Calls that may wait to be sent; more wait for their turn.
const QUEUE: usize = 1024;

/// What the other process answered, not yet read; `None` when it has gone.
type Answers = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Box<RawValue>>>>>>;

/// A connection to the process that has the books.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    calls: mpsc::Sender<Vec<u8>>,
    answers: Answers,
    next: Arc<AtomicU64>,
}

impl Remote {
    /// Starts the tasks of a connection. They end with it, the second of them last.
    pub fn start(connection: UnixStream) -> (Remote, JoinHandle<()>) {
        let (read, mut write) = connection.into_split();
        let (calls, mut to_send) = mpsc::channel::<Vec<u8>>(QUEUE);
        let answers: Answers = Arc::new(Mutex::new(Some(HashMap::new())));
        tokio::spawn(async move {
            while let Some(call) = to_send.recv().await {
                if write.write_all(&call).await.is_err() {
                    break;
                }
            }
        });
        let ends = tokio::spawn(receive(read, Arc::clone(&answers)));
        let remote = Remote {
            calls,
            answers,
            next: Arc::default(),
        };
        (remote, ends)
    }

    /// Asks for a method of [`crate::store::Store`] by its name. Cancel safe as that is: the call may
    /// have been carried out.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        arguments: impl Serialize,
    ) -> StoreResult<T> {
        let no = self.next.fetch_add(1, Ordering::Relaxed);
        let message = frame::encode(&(no, method, arguments)).map_err(fault)?;
        let (answer, answered) = oneshot::channel();
        match &mut *self.answers.lock() {
            Some(waiting) => drop(waiting.insert(no, answer)),
            None => return Err(gone()),
        }
        let waiting = Waiting { of: self, no };
        let asked = async {
            self.calls.send(message).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        drop(waiting);
        let late = |_| StoreError::Unavailable(String::from("the new process does not answer"));
        serde_json::from_str::<StoreResult<T>>(answer.map_err(late)??.get()).map_err(fault)?
    }
}

/// A call that nobody waits for any more is forgotten.
struct Waiting<'a> {
    of: &'a Remote,
    no: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = &mut *self.of.answers.lock() {
            waiting.remove(&self.no);
        }
    }
}

async fn receive(mut read: OwnedReadHalf, answers: Answers) {
    while let Ok((no, answer)) = frame::receive::<(u64, Box<RawValue>)>(&mut read).await {
        let waiting = answers.lock().as_mut().and_then(|all| all.remove(&no));
        if let Some(waiting) = waiting {
            // Nobody waits for it where its caller has gone.
            drop(waiting.send(answer));
        }
    }
    drop(answers.lock().take());
}

fn gone() -> StoreError {
    StoreError::Unavailable(String::from(
        "the process that took the books over has ended",
    ))
}

fn fault(error: impl std::fmt::Display) -> StoreError {
    StoreError::Fault(format!("a message of an upgrade: {error}"))
}
