//! The one way to Redis: steps on a shared, pipelined connection, the rest on a pool beside it.
//!
//! Every connection lives on a runtime of the link's own. A call from another runtime only sends to
//! it and awaits the answer, so the end of a Pingora service takes no connection along.
//!
//! ```text
//!          dial ok                    broken, READONLY, LOADING, failed probe
//!  away ───────────→ connected ─────────────────────────────────────────────→ away
//!   │ for 1 s: calls wait, until their deadline
//!   └ then: calls fail at once
//! ```

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, FromRedisValue as _, ToRedisArgs, Value};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::dial::Dialer;
use super::fault::{Trouble, away};
use super::inspect::{Finding, findings, save_of};
pub(super) use super::script::Script;
use super::session::{Board, Hot, Session, report};
use crate::store::{StoreError, StoreResult};

/// Background work may take so many times as long as a step, and at least [`BACKGROUND_LEAST`].
const BACKGROUND_FACTOR: u32 = 20;
const BACKGROUND_LEAST: Duration = Duration::from_secs(2);

/// Before a server that could not be asked is asked again what may be wrong with it.
const INSPECT_AGAIN: Duration = Duration::from_secs(1);

/// Before a step is repeated on a cluster whose nodes change roles.
const CLUSTER_PAUSE: Duration = Duration::from_millis(20);

/// How the servers are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    Standalone,
    Sentinel,
    Cluster,
}

/// Where Redis is and how long to wait for it.
#[derive(Clone)]
pub struct LinkOptions {
    pub topology: Topology,
    /// The server, the sentinels, or some nodes of the cluster. They may hold passwords.
    pub urls: Vec<String>,
    /// The name by which the sentinels know the primary.
    pub primary: String,
    /// Connections for background work.
    pub pool_size: usize,
    /// The deadline of a step.
    pub timeout: Duration,
}

impl LinkOptions {
    /// One server, and the configuration's defaults.
    pub fn standalone(url: String) -> LinkOptions {
        LinkOptions {
            topology: Topology::Standalone,
            urls: vec![url],
            primary: String::from("mymaster"),
            pool_size: 4,
            timeout: Duration::from_millis(250),
        }
    }
}

impl fmt::Debug for LinkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkOptions")
            .field("topology", &self.topology)
            .field("servers", &self.urls.len())
            .field("primary", &self.primary)
            .field("pool_size", &self.pool_size)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// The link of one process to its Redis.
pub(super) struct Link {
    board: Arc<Board>,
    timeout: Duration,
    background_timeout: Duration,
    /// Only `Drop` takes it.
    runtime: Option<Runtime>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("is_up", &self.is_up())
            .finish_non_exhaustive()
    }
}

impl Link {
    /// Starts a runtime of one thread, on which every connection lives as long as the link, and begins
    /// to connect. Does not wait for Redis. Starts threads: not to be called before a daemon forks.
    ///
    /// # Errors
    /// `Fault` where a URL cannot be used, `Unavailable` where no thread can be started.
    pub(super) fn start(options: &LinkOptions) -> StoreResult<Link> {
        let background_timeout = (options.timeout * BACKGROUND_FACTOR).max(BACKGROUND_LEAST);
        let dialer = Dialer::new(options, background_timeout)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("store-redis")
            .enable_all()
            .build()
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let board = Arc::new(Board::new());
        runtime.spawn(Arc::clone(&board).keep(dialer));
        Ok(Link {
            board,
            timeout: options.timeout,
            background_timeout,
            runtime: Some(runtime),
        })
    }

    /// Takes one step on the shared connection, within `LinkOptions::timeout` altogether. A lost script
    /// is sent anew, unnoticed; on a broken connection the step is repeated on the next one, so it must
    /// be idempotent. On a cluster the first key says where.
    ///
    /// Cancel safe: a step that was sent is carried out whole, or not at all.
    ///
    /// # Errors
    /// `Unavailable` where Redis is away, too slow, or takes no writes now: the step may have happened.
    /// `Fault` where the script or its arguments are wrong.
    pub(super) async fn run<K: ToRedisArgs, A: ToRedisArgs>(
        &self,
        script: &Script,
        keys: &[K],
        args: &[A],
    ) -> StoreResult<Value> {
        let deadline = Instant::now() + self.timeout;
        let mut command = script.by_hash(keys, args);
        let mut has_source = false;
        loop {
            match self.attempt(&command, deadline).await? {
                Ok(value) => return Ok(value),
                Err(Trouble::NoScript) if !has_source => {
                    command = script.by_source(keys, args);
                    has_source = true;
                }
                Err(Trouble::Broken(_) | Trouble::Moving(_)) if Instant::now() < deadline => {}
                Err(trouble) => return Err(trouble.into()),
            }
        }
    }

    /// One attempt on the session of the moment. What it reports of a loss is done when it returns.
    async fn attempt(
        &self,
        command: &Cmd,
        deadline: Instant,
    ) -> StoreResult<Result<Value, Trouble>> {
        let mut session = self.board.session(deadline).await?;
        let Ok(answer) = timeout_at(deadline, session.hot.send(command)).await else {
            return Err(self.late());
        };
        let trouble = match answer {
            Ok(value) => return Ok(Ok(value)),
            Err(error) => Trouble::of(&error),
        };
        report(&self.board, &session, &trouble);
        if matches!(
            (&session.hot, &trouble),
            (Hot::Cluster(_), Trouble::Broken(_))
        ) {
            sleep_until((Instant::now() + CLUSTER_PAUSE).min(deadline)).await;
        }
        Ok(Err(trouble))
    }

    /// One command of admin or background work, on a connection of the pool, not repeated. The
    /// deadline is 20 times that of a step, at least 2 s. On a cluster its key says where.
    ///
    /// # Errors
    /// As [`Link::run`].
    pub(super) async fn ask(&self, command: Cmd) -> StoreResult<Value> {
        Ok(self.on_pool(command).await??)
    }

    /// As [`Link::ask`], a script.
    ///
    /// # Errors
    /// As [`Link::run`].
    pub(super) async fn run_background<K: ToRedisArgs, A: ToRedisArgs>(
        &self,
        script: &Script,
        keys: &[K],
        args: &[A],
    ) -> StoreResult<Value> {
        match self.on_pool(script.by_hash(keys, args)).await? {
            Err(Trouble::NoScript) => self.ask(script.by_source(keys, args)).await,
            answer => Ok(answer?),
        }
    }

    /// Commands that do not depend on each other, pipelined; the answers in their order. On a cluster
    /// each goes to its own key's node. The first refused one fails all.
    ///
    /// # Errors
    /// As [`Link::run`].
    pub(super) async fn ask_all(&self, commands: Vec<Cmd>) -> StoreResult<Vec<Value>> {
        let answers =
            self.in_background(|session| async move { session.pools.all(commands).await });
        Ok(answers.await??)
    }

    async fn on_pool(&self, command: Cmd) -> StoreResult<Result<Value, Trouble>> {
        self.in_background(|session| async move { session.pools.one(&command).await })
            .await
    }

    /// Does work on the link's own runtime, where the pools' connections are made, within the
    /// background deadline.
    async fn in_background<T, F>(
        &self,
        work: impl FnOnce(Session) -> F,
    ) -> StoreResult<Result<T, Trouble>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Trouble>> + Send + 'static,
    {
        let deadline = Instant::now() + self.background_timeout;
        let session = self.board.session(deadline).await?;
        let Some(runtime) = &self.runtime else {
            return Err(away("the link is closed"));
        };
        let task = runtime.spawn(timeout_at(deadline, work(session)));
        match task.await {
            Ok(Ok(answer)) => {
                if let Err(Trouble::Broken(_)) = &answer {
                    self.board.suspect();
                }
                Ok(answer)
            }
            Ok(Err(_)) => {
                self.board.suspect();
                let wait = self.background_timeout.as_millis();
                Err(away(&format!("no answer within {wait} ms")))
            }
            Err(_) => Err(away("the link was closed meanwhile")),
        }
    }

    /// Whether Redis answers, within the deadline of a step.
    ///
    /// # Errors
    /// `Unavailable` where it does not.
    pub(super) async fn ping(&self) -> StoreResult<()> {
        let deadline = Instant::now() + self.timeout;
        let mut session = self.board.session(deadline).await?;
        match timeout_at(deadline, session.hot.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(trouble)) => {
                report(&self.board, &session, &trouble);
                Err(trouble.into())
            }
            Err(_) => Err(self.late()),
        }
    }

    /// Says in the log what is wrong with the server, as soon as there is one.
    pub(super) fn inspect_once(self: &Arc<Self>) {
        let Some(runtime) = &self.runtime else {
            return;
        };
        let link = Arc::downgrade(self);
        runtime.spawn(async move {
            while let Some(link) = link.upgrade() {
                if let Ok(findings) = link.inspect().await {
                    findings.iter().for_each(Finding::log);
                    return;
                }
                drop(link);
                tokio::time::sleep(INSPECT_AGAIN).await;
            }
        });
    }

    /// What is wrong with the server, or with each primary of the cluster, for a warning at start.
    ///
    /// # Errors
    /// `Unavailable` where it cannot be asked.
    pub(super) async fn inspect(&self) -> StoreResult<Vec<Finding>> {
        let answers = self.in_background(|session| async move {
            let (pools, server) = (&session.pools, &session.server);
            let infos = pools.of_primaries(server, redis::cmd("INFO")).await?;
            let mut save = redis::cmd("CONFIG");
            save.arg("GET").arg("save");
            let mut saves: HashMap<_, _> = pools
                .of_primaries(server, save)
                .await?
                .into_iter()
                .collect();
            let mut found = Vec::new();
            for (server, info) in infos {
                let info = info.and_then(|info| String::from_redis_value(info).ok());
                let save = save_of(saves.remove(&server).flatten());
                let info = info.unwrap_or_default();
                found.extend(findings(&server, &info, save.as_deref()));
            }
            Ok(found)
        });
        Ok(answers.await??)
    }

    /// The step may be carried out yet; the connection may be half open.
    fn late(&self) -> StoreError {
        self.board.suspect();
        let wait = self.timeout.as_millis();
        away(&format!("no answer within {wait} ms"))
    }

    /// Whether there is a connection, as last known.
    pub(super) fn is_up(&self) -> bool {
        self.away_since().is_none()
    }

    /// Since when there is none, as last known; every loss has its own moment.
    pub(super) fn away_since(&self) -> Option<Instant> {
        self.board.away_since()
    }

    /// How often a step met a broken connection or a server that changed its role.
    pub(super) fn troubles(&self) -> u64 {
        self.board.troubles()
    }

    /// Does work of the background on the link's own runtime; it ends with the link.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(work);
        }
    }

    /// Lets the connections go; later calls are `Unavailable`.
    pub(super) fn close(&self) {
        self.board.close();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.board.close();
        // Not waiting: this may be a thread of another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests;
