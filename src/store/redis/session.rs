//! The connection of the moment: who has it, who lost it, who waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use log::{info, warn};
use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::{Cmd, FromRedisValue as _, RedisResult, Value};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::dial::{Dialed, Dialer};
use super::fault::{Trouble, away, text};
use super::pools::Pools;
use crate::store::{StoreError, StoreResult};

/// For so long after a loss a call waits for the next connection; later it fails at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// Pauses before dialling again: the last one from then on.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
];

/// A connection that lived for less is not yet a success: the pauses go on growing.
const SETTLED: Duration = Duration::from_secs(1);

/// How often an idle connection is asked whether it lives.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// The shared connection for steps; a clone sends over the same socket.
#[derive(Clone)]
pub(super) enum Hot {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Hot {
    /// Cancel safe: a command that was sent is carried out, its answer dropped.
    pub(super) async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        let answer = match self {
            Hot::Node(connection) => connection.send_packed_command(command).await,
            Hot::Cluster(connection) => connection.req_packed_command(command).await,
        };
        answer.and_then(Value::extract_error)
    }

    /// Whether steps can be taken now; on a cluster, whether its nodes say so.
    pub(super) async fn ping(&mut self) -> Result<(), Trouble> {
        let answer = match self {
            Hot::Node(_) => self.send(&redis::cmd("PING")).await,
            Hot::Cluster(connection) => {
                ask_any(connection, redis::cmd("CLUSTER").arg("INFO")).await
            }
        };
        let answer = answer.map_err(|error| Trouble::of(&error))?;
        let is_cluster = matches!(self, Hot::Cluster(_));
        match String::from_redis_value(answer) {
            Ok(info) if is_cluster && !info.contains("cluster_state:ok") => Err(Trouble::Refused(
                String::from("the cluster is down, some of its slots are not served"),
            )),
            _ => Ok(()),
        }
    }

    /// Whether the server answers; on a cluster, whether any of its nodes does.
    async fn probe(&mut self, wait: Duration) -> Result<(), String> {
        let answer = match self {
            Hot::Node(_) => timeout(wait, self.send(&redis::cmd("PING"))).await,
            Hot::Cluster(connection) => {
                timeout(wait, ask_any(connection, &redis::cmd("PING"))).await
            }
        };
        match answer {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(text(&error)),
            Err(_) => Err(format!(
                "no answer to a ping within {} ms",
                wait.as_millis()
            )),
        }
    }
}

/// Three nodes by chance: one that hangs must not condemn the others.
async fn ask_any(connection: &ClusterConnection, command: &Cmd) -> RedisResult<Value> {
    let ask = || {
        let mut connection = connection.clone();
        let route = RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random);
        Box::pin(async move { connection.route_command(command.clone(), route).await })
    };
    let (answer, _) = futures_util::future::select_ok([ask(), ask(), ask()]).await?;
    answer.extract_error()
}

/// What one successful dial gave.
#[derive(Clone)]
pub(super) struct Session {
    /// Counts dials: a late report of a loss must not hit the session after.
    pub(super) generation: u64,
    pub(super) hot: Hot,
    pub(super) pools: Pools,
    /// Where it leads, for people.
    pub(super) server: Arc<str>,
}

struct State {
    session: Option<Session>,
    dials: u64,
    /// Since when there is no session.
    lost_at: Instant,
    /// Why there is none.
    why: Arc<str>,
    /// Whether the log says that Redis is away.
    announced: bool,
    closed: bool,
}

/// The connection of the moment, shared by all calls and the task that keeps it.
pub(super) struct Board {
    state: watch::Sender<State>,
    /// Somebody waited in vain: a probe is due.
    suspect: Notify,
    /// Connections lost, and steps that a cluster's nodes did not take.
    troubles: AtomicU64,
}

impl Board {
    pub(super) fn new() -> Self {
        let state = State {
            session: None,
            dials: 0,
            lost_at: Instant::now(),
            why: Arc::from("not connected yet"),
            announced: false,
            closed: false,
        };
        Board {
            state: watch::Sender::new(state),
            suspect: Notify::new(),
            troubles: AtomicU64::new(0),
        }
    }

    /// The session of the moment. Where there is none it waits for one, until the deadline, but only
    /// within [`PATIENCE`] of the loss.
    pub(super) async fn session(&self, deadline: Instant) -> StoreResult<Session> {
        let patience = {
            let state = self.state.borrow();
            if let Some(session) = &state.session {
                return Ok(session.clone());
            }
            state.lost_at + PATIENCE
        };
        if patience > Instant::now() {
            let mut changes = self.state.subscribe();
            let arrived = changes.wait_for(|state| state.session.is_some() || state.closed);
            if let Ok(Ok(state)) = timeout_at(deadline.min(patience), arrived).await
                && let Some(session) = &state.session
            {
                return Ok(session.clone());
            }
        }
        Err(self.absence())
    }

    fn absence(&self) -> StoreError {
        let state = self.state.borrow();
        if state.closed {
            return StoreError::Unavailable(String::from("the store is closed"));
        }
        away(&state.why)
    }

    /// Since when there is no connection; `None` where there is one.
    pub(super) fn away_since(&self) -> Option<Instant> {
        let state = self.state.borrow();
        state.session.is_none().then_some(state.lost_at)
    }

    pub(super) fn troubles(&self) -> u64 {
        self.troubles.load(Ordering::Relaxed)
    }

    /// A call got no answer in time: the connection may be half open.
    pub(super) fn suspect(&self) {
        self.suspect.notify_one();
    }

    /// The session of this generation is of no more use.
    pub(super) fn lose(&self, generation: u64, why: &str) {
        let lost = self.state.send_if_modified(|state| {
            let current = state.session.as_ref().map(|session| session.generation);
            if current != Some(generation) {
                return false;
            }
            state.session = None;
            state.lost_at = Instant::now();
            state.why = Arc::from(why);
            state.announced = true;
            true
        });
        if lost {
            self.troubles.fetch_add(1, Ordering::Relaxed);
            warn!("the connection to Redis is lost: {why}; trying to reach it again");
        }
    }

    fn dial_failed(&self, why: &str) {
        let mut first = false;
        self.state.send_modify(|state| {
            first = !state.announced && !state.closed;
            state.announced = true;
            state.why = Arc::from(why);
        });
        if first {
            warn!("Redis cannot be reached: {why}; trying again");
        }
    }

    fn publish(&self, dialed: Dialed) {
        let mut absent = None;
        self.state.send_modify(|state| {
            if state.closed {
                return;
            }
            absent = state.announced.then(|| state.lost_at.elapsed());
            state.announced = false;
            state.dials += 1;
            let generation = state.dials;
            state.session = Some(Session {
                generation,
                hot: dialed.hot,
                pools: dialed.pools,
                server: Arc::from(dialed.server),
            });
        });
        if let Some(absent) = absent {
            info!("Redis is back after {} ms", absent.as_millis());
        }
    }

    /// Ends the session and every later call.
    pub(super) fn close(&self) {
        let mut ended = None;
        self.state.send_modify(|state| {
            state.closed = true;
            ended = state.session.take();
        });
        if let Some(session) = ended {
            session.pools.close();
        }
    }

    fn is_closed(&self) -> bool {
        self.state.borrow().closed
    }

    /// Dials, watches over what it got, and dials again, until the board is closed.
    pub(super) async fn keep(self: Arc<Self>, dialer: Dialer) {
        let mut pauses = 0;
        while !self.is_closed() {
            match dialer.dial().await {
                Ok(dialed) => {
                    let since = Instant::now();
                    self.publish(dialed);
                    self.watch_over(dialer.probe_wait()).await;
                    if since.elapsed() >= SETTLED {
                        pauses = 0;
                    }
                }
                Err(why) => self.dial_failed(&why),
            }
            let pause = PAUSES.get(pauses).or(PAUSES.last());
            sleep(pause.copied().unwrap_or_default()).await;
            pauses += 1;
        }
    }

    /// Returns when the session is gone, by a call's report or by a failed probe.
    async fn watch_over(&self, wait: Duration) {
        let mut changes = self.state.subscribe();
        loop {
            tokio::select! {
                _ = changes.wait_for(|state| state.session.is_none()) => return,
                () = self.suspect.notified() => {}
                () = sleep(PROBE_EVERY) => {}
            }
            let session = self.state.borrow().session.clone();
            let Some(mut session) = session else { return };
            if let Err(why) = session.hot.probe(wait).await {
                self.lose(session.generation, &why);
                return;
            }
        }
    }
}

/// What a failed call does to the session it used. On a cluster one node's trouble is not the whole
/// connection's, which mends itself: it is only probed.
pub(super) fn report(board: &Board, session: &Session, trouble: &Trouble) {
    let Trouble::Broken(why) = trouble else {
        return;
    };
    match session.hot {
        Hot::Node(_) => board.lose(session.generation, why),
        Hot::Cluster(_) => {
            board.troubles.fetch_add(1, Ordering::Relaxed);
            board.suspect();
        }
    }
}
