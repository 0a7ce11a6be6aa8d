//! A primary and its replica under three sentinels, on loopback, quick to fail over.
//!
//! ```ignore
//! let set = SentinelSet::start();
//! // The store under test connects by set.sentinel_urls() and set.primary_name().
//! set.kill_primary();
//! let promoted = set.wait_for_failover();
//! assert!(promoted.is_running());
//! ```

use std::collections::HashMap;
use std::sync::Mutex;

use super::redis_server::{Port, RedisServer, Setup, soon};

const NAME: &str = "main";
const SENTINELS: usize = 3;
/// A primary that is silent for so long is down. Less than twice the ping period would take one that
/// was just promoted, and not yet asked, for dead.
const DOWN_AFTER_MS: u32 = 1_000;
/// A failover that did not succeed is tried again after twice this.
const FAILOVER_TIMEOUT_MS: u32 = 2_000;

/// Sentinels look around every second and tell what they saw every ten; a test has no such time. Nor
/// may one that a busy machine held up lie low ("tilt") for half a minute. A replica whose last word
/// is older than five ping periods is not promoted, and without a primary it speaks every second.
const TIMES_MS: &[(&str, &str)] = &[
    ("PING-PERIOD", "400"),
    ("INFO-PERIOD", "300"),
    ("ASK-PERIOD", "100"),
    ("PUBLISH-PERIOD", "200"),
    ("TILT-PERIOD", "1000"),
];

/// The servers of one set. All are killed when it is dropped.
#[derive(Debug)]
pub struct SentinelSet {
    nodes: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
    /// The port of the primary that the last call knew.
    primary: Mutex<u16>,
}

impl SentinelSet {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more arguments for the primary and its replica, as on redis-server's command line.
    pub fn start_with(arguments: &[&str]) -> Self {
        let primary = RedisServer::start_with(arguments);
        let port = primary.port();
        let number = port.to_string();
        let of_replica = [arguments, &["--replicaof", "127.0.0.1", &number]].concat();
        let replica = RedisServer::start_with(&of_replica);
        let ports: Vec<Port> = (0..SENTINELS).map(|_| Port::free()).collect();
        let numbers: Vec<u16> = ports.iter().map(|port| port.address.port()).collect();
        let start = |(at, own): (usize, Port)| {
            let setup = Setup {
                sentinel: Some(configuration(at, port, replica.port(), &numbers)),
                ..Setup::default()
            };
            let sentinel = RedisServer::launch(own, setup);
            for (name, time) in TIMES_MS {
                sentinel.command(&["SENTINEL", "DEBUG", name, time]);
            }
            sentinel
        };
        let sentinels = ports.into_iter().enumerate().map(start).collect();
        let set = SentinelSet {
            nodes: vec![primary, replica],
            sentinels,
            primary: Mutex::new(port),
        };
        set.wait_until_whole();
        set
    }

    pub fn sentinel_urls(&self) -> Vec<String> {
        self.sentinels.iter().map(RedisServer::url).collect()
    }

    /// What the sentinels call the primary they watch.
    pub fn primary_name(&self) -> &'static str {
        NAME
    }

    /// The primary as of the last call that waited for one.
    pub fn primary(&self) -> &RedisServer {
        self.node(*self.primary.lock().unwrap())
    }

    /// The other one; after [`SentinelSet::kill_primary`] and a failover, the dead one.
    pub fn replica(&self) -> &RedisServer {
        let primary = self.primary().port();
        let mut others = self.nodes.iter().filter(|node| node.port() != primary);
        others.next().unwrap()
    }

    /// SIGKILL.
    pub fn kill_primary(&self) {
        self.look();
        self.primary().kill();
    }

    /// Orders a failover with everybody alive; [`SentinelSet::wait_for_failover`] sees it through.
    pub fn failover(&self) {
        self.look();
        let order = ["SENTINEL", "FAILOVER", NAME];
        soon("a failover begins", || {
            match self.sentinels[0].attempt::<String>(&order) {
                Err(e) if e.code() == Some("INPROG") => Ok(()),
                answer => answer.map(drop),
            }
        });
    }

    /// Waits until all sentinels name a new primary since the last kill or order, and it is one.
    pub fn wait_for_failover(&self) -> &RedisServer {
        let known = self.primary().port();
        self.adopt("all sentinels know a new primary", |port| port != known)
    }

    /// Waits until primary, replica and sentinels all see each other: after
    /// [`RedisServer::restart`] of the one that was killed.
    pub fn wait_until_whole(&self) {
        soon("the replica follows", || {
            self.look();
            let (primary, replica) = (self.primary(), self.replica());
            let link = replica.info("master_link_status");
            let port = replica.info("master_port");
            let is_up = link.as_deref() == Some("up");
            let follows = port == Some(primary.port().to_string());
            if is_up && follows {
                Ok(())
            } else {
                Err((link, port))
            }
        });
        for sentinel in &self.sentinels {
            soon("a sentinel sees all", || sees_all(sentinel));
        }
    }

    /// Busy machines see failovers that nobody ordered: whose primary is it now?
    fn look(&self) {
        self.adopt("all sentinels know one primary", |_| true);
    }

    fn adopt(&self, what: &str, test: impl Fn(u16) -> bool) -> &RedisServer {
        let port = soon(what, || {
            let named: Vec<u16> = self.sentinels.iter().map(primary_by).collect();
            let port = named[0];
            let is_agreed = named.iter().all(|other| *other == port) && test(port);
            if is_agreed && role(self.node(port)) == "master" {
                Ok(port)
            } else {
                Err(named)
            }
        });
        *self.primary.lock().unwrap() = port;
        self.node(port)
    }

    fn node(&self, port: u16) -> &RedisServer {
        let mut nodes = self.nodes.iter();
        nodes.find(|node| node.port() == port).unwrap()
    }
}

/// Each knows all others from the start: to find each other takes them seconds.
fn configuration(own: usize, primary: u16, replica: u16, sentinels: &[u16]) -> String {
    let id = |at: usize| format!("{:040x}", at + 1);
    let mut lines = format!(
        "sentinel myid {}
         sentinel monitor {NAME} 127.0.0.1 {primary} 2
         sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}
         sentinel failover-timeout {NAME} {FAILOVER_TIMEOUT_MS}
         sentinel known-replica {NAME} 127.0.0.1 {replica}\n",
        id(own)
    );
    for (at, port) in sentinels.iter().enumerate().filter(|(at, _)| *at != own) {
        let line = format!(
            "sentinel known-sentinel {NAME} 127.0.0.1 {port} {}\n",
            id(at)
        );
        lines.push_str(&line);
    }
    lines
}

fn primary_by(sentinel: &RedisServer) -> u16 {
    let (_, port): (String, u16) = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
    port
}

fn sees_all(sentinel: &RedisServer) -> Result<(), Vec<HashMap<String, String>>> {
    let quorum: Result<String, _> = sentinel.attempt(&["SENTINEL", "CKQUORUM", NAME]);
    let has_all = quorum.is_ok_and(|text| text.starts_with("OK 3 usable"));
    let replicas: Vec<HashMap<String, String>> = sentinel.ask(&["SENTINEL", "REPLICAS", NAME]);
    let is_good = |replica: &HashMap<String, String>| {
        replica["flags"] == "slave" && replica["master-link-status"] == "ok"
    };
    let has_replica = replicas.len() == 1 && replicas.iter().all(is_good);
    if has_all && has_replica {
        Ok(())
    } else {
        Err(replicas)
    }
}

fn role(node: &RedisServer) -> String {
    let role: Result<Vec<redis::Value>, _> = node.attempt(&["ROLE"]);
    let name = role.ok().and_then(|role| role.into_iter().next());
    let name = name.and_then(|name| redis::from_redis_value(name).ok());
    name.unwrap_or_default()
}
