//! Connections for admin and background work, so that none of it delays a step.

use std::time::Duration;

use deadpool_redis::cluster::Pool as ClusterPool;
use deadpool_redis::{Pool, PoolConfig, PoolError, Runtime, Timeouts};
use futures_util::{StreamExt as _, stream};
use redis::aio::ConnectionLike;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{AsyncConnectionConfig, Cmd, ConnectionInfo, FromRedisValue as _, Value};

use super::fault::{Trouble, text};

/// Commands of one pipeline, or under way at once on a cluster.
const CHUNK: usize = 128;

/// The pool of one server, or of connections that each span a cluster.
#[derive(Clone)]
pub(super) enum Pools {
    Node(Pool),
    Cluster(ClusterPool),
}

/// Sizes and time-outs of a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolLimits {
    pub(super) size: usize,
    /// For a connection to become free.
    pub(super) wait: Duration,
    /// For a new connection.
    pub(super) create: Duration,
    /// For the ping at each checkout.
    pub(super) recycle: Duration,
}

impl PoolLimits {
    fn config(self) -> PoolConfig {
        PoolConfig {
            max_size: self.size,
            timeouts: Timeouts {
                wait: Some(self.wait),
                create: Some(self.create),
                recycle: Some(self.recycle),
            },
            ..PoolConfig::default()
        }
    }
}

impl Pools {
    /// Connects when first used.
    pub(super) fn of_node(
        info: ConnectionInfo,
        config: AsyncConnectionConfig,
        limits: PoolLimits,
    ) -> Result<Self, String> {
        let manager = deadpool_redis::Manager::new_with_config(info, config);
        Pool::builder(manager.map_err(|error| text(&error))?)
            .config(limits.config())
            .runtime(Runtime::Tokio1)
            .build()
            .map(Pools::Node)
            .map_err(|error| error.to_string())
    }

    /// Connects when first used.
    pub(super) fn of_cluster(
        seeds: Vec<ConnectionInfo>,
        limits: PoolLimits,
    ) -> Result<Self, String> {
        let manager = deadpool_redis::cluster::Manager::new(seeds, false);
        ClusterPool::builder(manager.map_err(|error| text(&error))?)
            .config(limits.config())
            .runtime(Runtime::Tokio1)
            .build()
            .map(Pools::Cluster)
            .map_err(|error| error.to_string())
    }

    pub(super) async fn one(&self, command: &Cmd) -> Result<Value, Trouble> {
        match self {
            Pools::Node(pool) => single(&mut pool.get().await.map_err(of_pool)?, command).await,
            Pools::Cluster(pool) => single(&mut pool.get().await.map_err(of_pool)?, command).await,
        }
    }

    /// The answers in the order of the commands.
    pub(super) async fn all(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, Trouble> {
        match self {
            Pools::Node(pool) => {
                let mut connection = pool.get().await.map_err(of_pool)?;
                let mut answers = Vec::with_capacity(commands.len());
                for chunk in commands.chunks(CHUNK) {
                    answers.extend(pipelined(&mut connection, chunk).await?);
                }
                Ok(answers)
            }
            // Each to its own node; what goes to one node is written together.
            Pools::Cluster(pool) => {
                let connection = pool.get().await.map_err(of_pool)?;
                let under_way = stream::iter(commands).map(|command| {
                    let mut connection = (*connection).clone();
                    async move { single(&mut connection, &command).await }
                });
                let answers: Vec<_> = under_way.buffered(CHUNK).collect().await;
                answers.into_iter().collect()
            }
        }
    }

    /// The command's answer from every primary, by its address; `server` is the address where there is
    /// one. What a server refuses has no answer.
    pub(super) async fn of_primaries(
        &self,
        server: &str,
        command: Cmd,
    ) -> Result<Vec<(String, Option<Value>)>, Trouble> {
        let mut connection = match self {
            Pools::Node(_) => {
                let answer = match self.one(&command).await {
                    Ok(answer) => Some(answer),
                    Err(Trouble::Fault(_)) => None,
                    Err(trouble) => return Err(trouble),
                };
                return Ok(vec![(server.to_owned(), answer)]);
            }
            Pools::Cluster(pool) => pool.get().await.map_err(of_pool)?,
        };
        let everywhere = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let answers = connection
            .route_command(command, everywhere)
            .await
            .map_err(|error| Trouble::of(&error))?;
        let Value::Map(answers) = answers else {
            return Err(Trouble::Fault(String::from("no answer for each node")));
        };
        answers
            .into_iter()
            .map(|(address, answer)| {
                let address = String::from_redis_value(address)
                    .map_err(|_| Trouble::Fault(String::from("a node without an address")))?;
                Ok((address, answer.extract_error().ok()))
            })
            .collect()
    }

    pub(super) fn close(&self) {
        match self {
            Pools::Node(pool) => pool.close(),
            Pools::Cluster(pool) => pool.close(),
        }
    }
}

async fn single<C: ConnectionLike>(connection: &mut C, command: &Cmd) -> Result<Value, Trouble> {
    connection
        .req_packed_command(command)
        .await
        .and_then(Value::extract_error)
        .map_err(|error| Trouble::of(&error))
}

async fn pipelined<C: ConnectionLike>(
    connection: &mut C,
    commands: &[Cmd],
) -> Result<Vec<Value>, Trouble> {
    let mut pipeline = redis::Pipeline::with_capacity(commands.len());
    for command in commands {
        pipeline.add_command(command.clone());
    }
    let answers = connection
        .req_packed_commands(&pipeline, 0, commands.len())
        .await
        .map_err(|error| Trouble::of(&error))?;
    answers
        .into_iter()
        .map(|answer| answer.extract_error().map_err(|error| Trouble::of(&error)))
        .collect()
}

fn of_pool(error: PoolError) -> Trouble {
    match error {
        PoolError::Backend(error) => Trouble::Broken(text(&error)),
        PoolError::Timeout(_) => {
            Trouble::Refused(String::from("no connection for background work in time"))
        }
        PoolError::Closed => Trouble::Refused(String::from("the connection was lost meanwhile")),
        error => Trouble::Refused(error.to_string()),
    }
}
