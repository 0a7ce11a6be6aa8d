//! A Redis Cluster of three primaries with a replica each, on loopback, quick to fail over.
//!
//! ```ignore
//! let cluster = RedisCluster::start();
//! // The store under test connects to cluster.urls().
//! let slot = cluster.slot_of("{group}:a");
//! cluster.move_slot(slot, cluster.other_primary(slot));
//! cluster.kill_primary_of(slot);
//! let promoted = cluster.wait_for_primary_of(slot);
//! ```

use std::collections::HashSet;

use super::fault_proxy::FaultProxy;
use super::redis_server::{Port, RedisServer, Setup, soon};

const PRIMARIES: usize = 3;
const NODES: usize = 2 * PRIMARIES;
const SLOTS: usize = 16_384;
const NODE_TIMEOUT_MS: &str = "1000";

/// The six nodes. All are killed when it is dropped.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    server: RedisServer,
    id: String,
    /// What its clients are told to connect to, if not to itself.
    proxy: Option<FaultProxy>,
    /// Of its cluster bus.
    bus: Port,
}

/// A primary as one node sees it.
#[derive(Debug)]
struct Owner {
    id: String,
    is_itself: bool,
    epoch: u64,
    slots: Vec<(u16, u16)>,
}

impl RedisCluster {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more arguments for every node, as on redis-server's command line.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::launch(arguments, false)
    }

    /// Each node tells its clients, and its replica, to come by way of a fault proxy of its own.
    pub fn start_behind_proxies() -> Self {
        Self::launch(&[], true)
    }

    fn launch(arguments: &[&str], has_proxies: bool) -> Self {
        let nodes: Vec<Node> = std::thread::scope(|scope| {
            let start = |_| scope.spawn(move || Node::start(arguments, has_proxies));
            let starting: Vec<_> = (0..NODES).map(start).collect();
            let ready = starting.into_iter().map(|node| node.join().unwrap());
            ready.collect()
        });
        let cluster = RedisCluster { nodes };
        cluster.join();
        cluster.wait_until_whole();
        cluster
    }

    /// By hand: `redis-cli --cluster create` waits for whole seconds.
    fn join(&self) {
        for (at, node) in self.nodes.iter().enumerate() {
            let epoch = (at + 1).to_string();
            node.server
                .command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
            for other in &self.nodes[..at] {
                let (port, bus) = (other.server.port(), other.bus.address.port());
                let (port, bus) = (port.to_string(), bus.to_string());
                let meet = ["CLUSTER", "MEET", "127.0.0.1", &port, &bus];
                node.server.command(&meet);
            }
        }
        let (primaries, replicas) = self.nodes.split_at(PRIMARIES);
        for (at, primary) in primaries.iter().enumerate() {
            let first = (at * SLOTS / PRIMARIES).to_string();
            let last = ((at + 1) * SLOTS / PRIMARIES - 1).to_string();
            let add = ["CLUSTER", "ADDSLOTSRANGE", &first, &last];
            primary.server.command(&add);
        }
        for (primary, replica) in primaries.iter().zip(replicas) {
            let follow = ["CLUSTER", "REPLICATE", &primary.id];
            soon("a replica knows its primary", || {
                replica.server.attempt::<String>(&follow)
            });
        }
    }

    /// Of every node, dead ones too; of their proxies where there are some.
    pub fn urls(&self) -> Vec<String> {
        let url = |node: &Node| match &node.proxy {
            Some(proxy) => node.server.url_at(proxy.addr()),
            None => node.server.url(),
        };
        self.nodes.iter().map(url).collect()
    }

    pub fn nodes(&self) -> impl Iterator<Item = &RedisServer> {
        self.nodes.iter().map(|node| &node.server)
    }

    /// The proxy of that node.
    ///
    /// # Panics
    /// The cluster was started without.
    pub fn proxy_of(&self, server: &RedisServer) -> &FaultProxy {
        self.node(server).proxy.as_ref().unwrap()
    }

    pub fn slot_of(&self, key: &str) -> u16 {
        let mut running = self.running();
        running.next().unwrap().ask(&["CLUSTER", "KEYSLOT", key])
    }

    /// The running node that serves the slot; waits for one while a failover goes on.
    pub fn primary_of(&self, slot: u16) -> &RedisServer {
        soon("a primary of the slot", || {
            let claims = self.nodes.iter().filter_map(|node| {
                let own = node.owners().into_iter().find(|owner| owner.is_itself);
                let own = own.filter(|owner| owner.has(slot))?;
                Some((own.epoch, &node.server))
            });
            // One that slept claims what it has lost until it hears of it.
            let last = claims.max_by_key(|(epoch, _)| *epoch);
            last.map(|(_, server)| server).ok_or(slot)
        })
    }

    /// A primary that does not serve the slot: where to move it.
    pub fn other_primary(&self, slot: u16) -> &RedisServer {
        let owners = self.node(self.primary_of(slot)).owners();
        let mut others = owners.iter().filter(|owner| !owner.is_itself);
        let other = &others.next().unwrap().id;
        let mut nodes = self.nodes.iter();
        &nodes.find(|node| node.id == *other).unwrap().server
    }

    /// SIGKILL; returns the dead node.
    pub fn kill_primary_of(&self, slot: u16) -> &RedisServer {
        let primary = self.primary_of(slot);
        primary.kill();
        primary
    }

    /// Waits until every running node serves, and all name the same running primary for the slot.
    pub fn wait_for_primary_of(&self, slot: u16) -> &RedisServer {
        soon("the cluster agrees on the slot's primary", || {
            let primary = self.node(self.primary_of(slot));
            for node in self.nodes.iter().filter(|node| node.server.is_running()) {
                let owners = node.owners();
                let owner = owners.iter().find(|owner| owner.has(slot));
                if owner.is_none_or(|owner| owner.id != primary.id) || !node.is_ok() {
                    return Err((node.server.port(), owners));
                }
            }
            Ok(&primary.server)
        })
    }

    /// Waits until all six serve, and every replica follows: after [`RedisServer::restart`].
    pub fn wait_until_whole(&self) {
        soon("all nodes serve", || {
            let not_ok = self.nodes.iter().find(|node| !node.is_whole());
            not_ok.map_or(Ok(()), |node| Err(node.server.attempt::<String>(NODES_OF)))
        });
    }

    /// Moves a slot with all its keys, and waits until every running node knows.
    pub fn move_slot(&self, slot: u16, to: &RedisServer) {
        self.begin_move(slot, to);
        self.move_keys(slot, to);
        self.finish_move(slot, to);
    }

    /// Opens the slot at both ends. From here on its owner answers `ASK` for keys it does not have.
    pub fn begin_move(&self, slot: u16, to: &RedisServer) {
        let (from, to) = (self.node(self.primary_of(slot)), self.node(to));
        let slot = slot.to_string();
        let set = ["CLUSTER", "SETSLOT", &slot];
        to.server
            .command(&[&set[..], &["IMPORTING", &from.id]].concat());
        from.server
            .command(&[&set[..], &["MIGRATING", &to.id]].concat());
    }

    /// After [`RedisCluster::begin_move`]: moves the keys, some at a time. Between, a command on keys
    /// of both ends is answered `TRYAGAIN`.
    pub fn move_keys(&self, slot: u16, to: &RedisServer) {
        let from = self.primary_of(slot);
        let (slot, port) = (slot.to_string(), to.port().to_string());
        loop {
            let keys: Vec<String> = from.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
            if keys.is_empty() {
                return;
            }
            let migrate = [
                "MIGRATE",
                "127.0.0.1",
                &port,
                "",
                "0",
                "5000",
                "REPLACE",
                "KEYS",
            ];
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            from.command(&[&migrate[..], &keys].concat());
        }
    }

    /// After [`RedisCluster::move_keys`]: closes the slot, and waits until every running node knows.
    pub fn finish_move(&self, slot: u16, to: &RedisServer) {
        let from = self.primary_of(slot);
        let number = slot.to_string();
        let set = ["CLUSTER", "SETSLOT", &number, "NODE", &self.node(to).id];
        // First where it goes, or it could be nobody's.
        to.command(&set);
        from.command(&set);
        soon("all nodes know where the slot is", || {
            let primary = self.wait_for_primary_of(slot).port();
            if primary == to.port() {
                Ok(())
            } else {
                Err(primary)
            }
        });
    }

    fn running(&self) -> impl Iterator<Item = &RedisServer> {
        self.nodes().filter(|server| server.is_running())
    }

    fn node(&self, server: &RedisServer) -> &Node {
        let mut nodes = self.nodes.iter();
        nodes
            .find(|node| node.server.port() == server.port())
            .unwrap()
    }
}

const NODES_OF: &[&str] = &["CLUSTER", "NODES"];

impl Node {
    fn start(arguments: &[&str], has_proxy: bool) -> Self {
        let (port, bus) = (Port::free(), Port::free());
        let proxy = has_proxy.then(|| FaultProxy::start(port.address));
        let mut all = vec![
            "--cluster-enabled",
            "yes",
            "--cluster-allow-replica-migration",
        ];
        all.extend(["no", "--cluster-replica-validity-factor", "0"]);
        all.extend(["--cluster-node-timeout", NODE_TIMEOUT_MS]);
        let bus_number = bus.address.port().to_string();
        all.extend(["--cluster-port", &bus_number]);
        let announced = proxy.as_ref().map(|proxy| proxy.addr().port().to_string());
        if let Some(announced) = &announced {
            all.extend(["--cluster-announce-ip", "127.0.0.1"]);
            all.extend(["--cluster-announce-port", announced]);
        }
        all.extend(arguments);
        let setup = Setup {
            arguments: all.into_iter().map(str::to_owned).collect(),
            ..Setup::default()
        };
        let server = RedisServer::launch(port, setup);
        Node {
            id: server.ask(&["CLUSTER", "MYID"]),
            server,
            proxy,
            bus,
        }
    }

    /// Who serves what, as it sees it; nothing while it is dead.
    fn owners(&self) -> Vec<Owner> {
        let lines: String = self.server.attempt(NODES_OF).unwrap_or_default();
        lines.lines().filter_map(Owner::from_line).collect()
    }

    fn is_ok(&self) -> bool {
        let info: String = self
            .server
            .attempt(&["CLUSTER", "INFO"])
            .unwrap_or_default();
        let lines: HashSet<&str> = info.lines().map(str::trim_end).collect();
        lines.contains("cluster_state:ok")
    }

    fn is_whole(&self) -> bool {
        let lines: String = self.server.attempt(NODES_OF).unwrap_or_default();
        let flags = |line: &str| line.split(' ').nth(2).map(str::to_owned);
        let all: Vec<String> = lines.lines().filter_map(flags).collect();
        let count = |flag: &str| all.iter().filter(|flags| flags.ends_with(flag)).count();
        // Its flags would say more if a node were failing or unknown.
        let has_all = count("master") == PRIMARIES && count("slave") == PRIMARIES;
        let is_linked = match self.server.info("role").as_deref() {
            Some("slave") => self.server.info("master_link_status").as_deref() == Some("up"),
            _ => self.server.info("connected_slaves").as_deref() == Some("1"),
        };
        self.is_ok() && has_all && all.len() == NODES && is_linked
    }
}

impl Owner {
    /// From a line of `CLUSTER NODES`: id, address, flags, primary, two times, epoch, link, slots.
    fn from_line(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(' ').collect();
        let flags: HashSet<&str> = fields.get(2)?.split(',').collect();
        // In brackets stand slots that are being moved.
        let ranges = fields
            .get(8..)?
            .iter()
            .filter(|text| !text.starts_with('['));
        let slots = ranges.map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            (first.parse().unwrap(), last.parse().unwrap())
        });
        flags.contains("master").then(|| Owner {
            id: fields[0].to_owned(),
            is_itself: flags.contains("myself"),
            epoch: fields[6].parse().unwrap(),
            slots: slots.collect(),
        })
    }

    fn has(&self, slot: u16) -> bool {
        let mut slots = self.slots.iter();
        slots.any(|(first, last)| (*first..=*last).contains(&slot))
    }
}
