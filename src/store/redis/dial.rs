//! Making connections: to one server, to the primary that the sentinels name, to a cluster.

use std::fmt;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _,
    RedisError,
};
use tokio::time::timeout;

use super::fault::text;
use super::link::{LinkOptions, Topology};
use super::pools::{PoolLimits, Pools};
use super::sentinel::primary_by;
use super::session::Hot;
use crate::store::{StoreError, StoreResult};

/// One attempt to reach one server, greeting included.
const DIAL_TIMEOUT: Duration = Duration::from_millis(500);

/// Sent data that nobody acknowledges for so long ends a connection (`TCP_USER_TIMEOUT`).
const USER_TIMEOUT: Duration = Duration::from_secs(3);

/// Steps that may wait inside the process to be written.
const SEND_QUEUE: usize = 1_024;

/// Bytes gathered for one write.
const WRITE_BATCH: usize = 64 * 1_024;

/// What a successful dial gives.
pub(super) struct Dialed {
    pub(super) hot: Hot,
    pub(super) pools: Pools,
    /// Where it leads, for people.
    pub(super) server: String,
}

/// What to dial, read once from the options.
pub(super) struct Dialer {
    place: Place,
    pool_size: usize,
    timeout: Duration,
    background_timeout: Duration,
}

enum Place {
    Node(ConnectionInfo),
    Sentinels {
        sentinels: Vec<ConnectionInfo>,
        primary: String,
    },
    Cluster {
        seeds: Vec<ConnectionInfo>,
        client: Box<ClusterClient>,
    },
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").finish_non_exhaustive()
    }
}

impl LinkOptions {
    /// Which servers and which database: the same text is the same set of books. Without credentials.
    pub fn servers(&self) -> String {
        let infos = self
            .urls
            .iter()
            .filter_map(|url| url.as_str().into_connection_info().ok());
        let mut servers: Vec<String> = infos
            .map(|info| format!("{}/{}", info.addr(), info.redis_settings().db()))
            .collect();
        servers.sort_unstable();
        let servers = servers.join(", ");
        match self.topology {
            Topology::Standalone => servers,
            Topology::Sentinel => format!("{} of sentinels {servers}", self.primary),
            Topology::Cluster => format!("cluster {servers}"),
        }
    }
}

impl Dialer {
    /// # Errors
    /// `Fault` where a URL makes no sense; it is not repeated, as it may hold a password.
    pub(super) fn new(options: &LinkOptions, background_timeout: Duration) -> StoreResult<Self> {
        let infos: Vec<ConnectionInfo> = options
            .urls
            .iter()
            .map(|url| url.as_str().into_connection_info())
            .map(|info| info.map(|info| info.set_tcp_settings(tcp_settings())))
            .collect::<Result<_, _>>()
            .map_err(unusable)?;
        let Some(first) = infos.first().cloned() else {
            return Err(StoreError::Fault(String::from("no Redis URL is given")));
        };
        let place = match options.topology {
            Topology::Standalone => Place::Node(first),
            Topology::Sentinel => Place::Sentinels {
                sentinels: infos,
                primary: options.primary.clone(),
            },
            Topology::Cluster => Place::Cluster {
                client: Box::new(cluster_client(infos.clone(), options.timeout).map_err(unusable)?),
                seeds: infos,
            },
        };
        Ok(Dialer {
            place,
            pool_size: options.pool_size,
            timeout: options.timeout,
            background_timeout,
        })
    }

    /// How long a probe waits for its answer. A cluster's connection answers nobody while it learns
    /// anew which node has which slots, and a node that hangs makes that long.
    pub(super) fn probe_wait(&self) -> Duration {
        let least = match self.place {
            Place::Cluster { .. } => 2 * DIAL_TIMEOUT,
            _ => Duration::from_millis(100),
        };
        self.timeout.clamp(least, Duration::from_secs(2))
    }

    /// One attempt. The error is a text for people, without credentials.
    pub(super) async fn dial(&self) -> Result<Dialed, String> {
        match &self.place {
            Place::Node(info) => self.dial_node(info).await,
            Place::Sentinels { sentinels, primary } => self.dial_primary(sentinels, primary).await,
            Place::Cluster { seeds, client } => self.dial_cluster(seeds, client).await,
        }
    }

    async fn dial_node(&self, info: &ConnectionInfo) -> Result<Dialed, String> {
        let connection = connect(info).await?;
        let config = connection_config().set_response_timeout(Some(self.background_timeout));
        let pools = Pools::of_node(info.clone(), config, self.pool_limits())?;
        Ok(Dialed {
            hot: Hot::Node(connection),
            pools,
            server: info.addr().to_string(),
        })
    }

    /// Asks all sentinels at once. One may still name the primary of yesterday: the first server
    /// named that is a primary is taken.
    async fn dial_primary(
        &self,
        sentinels: &[ConnectionInfo],
        primary: &str,
    ) -> Result<Dialed, String> {
        let mut answers: FuturesUnordered<_> = sentinels
            .iter()
            .map(|sentinel| primary_by(sentinel.clone(), primary, DIAL_TIMEOUT))
            .collect();
        let mut tried: Vec<ConnectionAddr> = Vec::new();
        let mut why = String::from("no sentinel is named");
        while let Some(answer) = answers.next().await {
            let server = match answer {
                Ok(server) if tried.contains(server.addr()) => continue,
                Ok(server) => server,
                Err(error) => {
                    // What a named server says tells more than a sentinel that is away.
                    if tried.is_empty() {
                        why = error;
                    }
                    continue;
                }
            };
            match self.dial_node(&server).await {
                Ok(dialed) => return Ok(dialed),
                Err(error) => why = error,
            }
            tried.push(server.addr().clone());
        }
        Err(why)
    }

    async fn dial_cluster(
        &self,
        seeds: &[ConnectionInfo],
        client: &ClusterClient,
    ) -> Result<Dialed, String> {
        // The seeds one after another, then the nodes they name: an attempt for each.
        let connection = timeout(4 * DIAL_TIMEOUT, client.get_async_connection())
            .await
            .map_err(|_| String::from("the cluster did not answer in time"))?
            .map_err(|error| text(&error))?;
        let pools = Pools::of_cluster(seeds.to_vec(), self.pool_limits())?;
        Ok(Dialed {
            hot: Hot::Cluster(connection),
            pools,
            server: String::from("the cluster"),
        })
    }

    fn pool_limits(&self) -> PoolLimits {
        PoolLimits {
            size: self.pool_size,
            wait: self.background_timeout,
            create: 4 * DIAL_TIMEOUT,
            recycle: DIAL_TIMEOUT,
        }
    }
}

fn unusable(error: RedisError) -> StoreError {
    StoreError::Fault(format!("a Redis URL cannot be used: {}", text(&error)))
}

fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(1))
        .with_retries(3);
    TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
        .set_user_timeout(USER_TIMEOUT)
}

/// No time-out for answers: every call has its own deadline.
fn connection_config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(DIAL_TIMEOUT))
        .set_response_timeout(None)
        .set_pipeline_buffer_size(SEND_QUEUE)
        .set_write_backpressure_boundary(WRITE_BATCH)
}

/// A connection to a server that takes writes now.
async fn connect(info: &ConnectionInfo) -> Result<MultiplexedConnection, String> {
    let address = info.addr();
    let greeted = async {
        let client = Client::open(info.clone())?;
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&connection_config())
            .await?;
        // A server that still loads its data refuses PING with LOADING.
        redis::cmd("PING").exec_async(&mut connection).await?;
        let role = redis::cmd("ROLE")
            .query_async::<redis::Value>(&mut connection)
            .await;
        Ok::<_, RedisError>((connection, role))
    };
    let (connection, role) = match timeout(DIAL_TIMEOUT, greeted).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => return Err(format!("{address}: {}", text(&error))),
        Err(_) => return Err(format!("{address} did not answer in time")),
    };
    if is_replica(&role) {
        return Err(format!("{address} is a replica, it takes no writes"));
    }
    Ok(connection)
}

/// Whether ROLE says so. An ACL may forbid it: then the first refused write tells.
fn is_replica(role: &redis::RedisResult<redis::Value>) -> bool {
    let Ok(redis::Value::Array(parts)) = role else {
        return false;
    };
    matches!(parts.first(), Some(redis::Value::BulkString(name)) if name == b"slave")
}

fn cluster_client(
    seeds: Vec<ConnectionInfo>,
    timeout: Duration,
) -> Result<ClusterClient, RedisError> {
    ClusterClient::builder(seeds)
        .tcp_settings(tcp_settings())
        .connection_timeout(timeout.clamp(Duration::from_millis(100), DIAL_TIMEOUT))
        .response_timeout(timeout)
        .overall_response_timeout(None)
        .retries(3)
        .min_retry_wait(5)
        .max_retry_wait(50)
        .write_backpressure_boundary(WRITE_BATCH)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_are_known_by_their_servers_and_no_secret_is_told() {
        let standalone = |url: &str| LinkOptions::standalone(url.to_owned()).servers();
        let first = standalone("redis://user:geheim@127.0.0.1:6379/2");
        assert_eq!(first, "127.0.0.1:6379/2");
        assert_eq!(first, standalone("redis://other:word@127.0.0.1:6379/2"));
        assert_ne!(first, standalone("redis://user:geheim@127.0.0.1:6379/3"));
        assert_ne!(first, standalone("redis://user:geheim@127.0.0.1:6380/2"));
        let several = |topology, urls: [&str; 2]| {
            let of_one = LinkOptions::standalone(String::new());
            let urls = urls.map(str::to_owned).to_vec();
            let options = LinkOptions {
                topology,
                urls,
                ..of_one
            };
            options.servers()
        };
        let [a, b] = ["redis://a:1", "redis://:geheim@b:2"];
        let cluster = several(Topology::Cluster, [a, b]);
        assert_eq!(cluster, "cluster a:1/0, b:2/0");
        assert_eq!(cluster, several(Topology::Cluster, [b, a]));
        let sentinels = several(Topology::Sentinel, [b, a]);
        assert_eq!(sentinels, "mymaster of sentinels a:1/0, b:2/0");
    }
}
