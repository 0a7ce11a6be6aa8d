//! Through Redis: the same load as on the embedded store, what it takes of Redis, and plain INCRBYs on
//! one pipelined connection beside it.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quota_proxy::keys::KeyId;
use quota_proxy::quota::LostReservation;
use quota_proxy::store::Store;
use quota_proxy::store::redis::{LinkOptions, RedisOptions, RedisStore, SliceOptions, Topology};
use redis::aio::MultiplexedConnection;

use crate::load::{self, Figures, ask, cpu_time};
use crate::redis_server::RedisServer;

/// Reservations that are opened, then settled, to tell the two apart.
const APART: usize = 40_000;
const AT_ONCE: usize = 64;

/// Whether Redis keeps its log on disk, as advised, or only computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    Without,
    EverySecond,
}

impl Log {
    /// A rewrite of the log is never due: no fork in the middle of a load.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Log::Without => &["--appendonly", "no"],
            Log::EverySecond => &["--appendonly", "yes", "--auto-aof-rewrite-percentage", "0"],
        }
    }

    fn told(self) -> &'static str {
        match self {
            Log::Without => "redis without AOF",
            Log::EverySecond => "redis with AOF",
        }
    }
}

pub fn is_installed() -> bool {
    let asked = Command::new("redis-server").arg("--version").output();
    if asked.is_err() {
        println!("redis-server is not installed: Redis is left out");
    }
    asked.is_ok()
}

/// The loads of the embedded store on so many keys, through Redis.
pub async fn beside(log: Log, count: usize, embedded: &[(usize, Figures)]) {
    let server = start(log).await;
    let name = format!("{}, {count} keys", log.told());
    let store = edge(&server, None).await;
    let keys = load::keys(&*store, count).await;
    let stores = [store];
    for (tasks, embedded) in embedded {
        load::run(&stores, &keys, *tasks).await;
        let begin = Spent::now(&server);
        let figures = load::run(&stores, &keys, *tasks).await;
        let spent = begin.until_now(&server);
        println!(
            "{name}, {tasks} at once: {}, Redis CPU {:.1} µs and {:.2} scripts/request; {:.2} of the embedded store's rate",
            figures.told(),
            spent.cpu_us(figures.requests),
            spent.scripts as f64 / figures.requests as f64,
            figures.per_second() / embedded.per_second(),
        );
    }
    let plain = increments(&server).await;
    let [reserve, settle] = apart(&server, &stores[0], &keys).await;
    println!(
        "{name}: Redis CPU {reserve:.1} µs/reserve, {settle:.1} µs/settle, {plain:.1} µs/INCRBY; a request is {:.1} INCRBYs",
        (reserve + settle) / plain
    );
    for store in stores {
        store.close().await;
    }
}

/// Two edges, each with connections and threads of its own, on one Redis.
pub async fn two_edges() {
    let server = start(Log::EverySecond).await;
    let stores = [edge(&server, None).await, edge(&server, None).await];
    let keys = load::keys(&*stores[0], 10_000).await;
    let mut rates = Vec::new();
    for edges in [&stores[..1], &stores[..]] {
        load::run(edges, &keys, AT_ONCE * edges.len()).await;
        let begin = Spent::now(&server);
        let figures = load::run(edges, &keys, AT_ONCE * edges.len()).await;
        let spent = begin.until_now(&server);
        println!(
            "redis with AOF, 10000 keys, {} edges, {AT_ONCE} at once each: {}, Redis CPU {:.1} µs/request, {:.0} % of a core",
            edges.len(),
            figures.told(),
            spent.cpu_us(figures.requests),
            100.0 * spent.cpu.as_secs_f64() / figures.elapsed.as_secs_f64(),
        );
        rates.push(figures.per_second());
    }
    println!(
        "redis with AOF, two edges to one: {:.2}",
        rates[1] / rates[0]
    );
}

/// One key that makes all of the traffic, with slices of its quota drawn ahead and without.
pub async fn hot_key() {
    let server = start(Log::EverySecond).await;
    let drawn = SliceOptions {
        size_percent: 5,
        max: 100_000,
    };
    for (name, slices) in [("without", None), ("with", Some(drawn))] {
        let stores = [edge(&server, slices).await];
        let keys = load::keys(&*stores[0], 1).await;
        load::run(&stores, &keys, AT_ONCE).await;
        let begin = Spent::now(&server);
        let figures = load::run(&stores, &keys, AT_ONCE).await;
        let spent = begin.until_now(&server);
        println!(
            "redis with AOF, one hot key {name} slices, {AT_ONCE} at once: {}, Redis CPU {:.1} µs and {:.3} scripts/request",
            figures.told(),
            spent.cpu_us(figures.requests),
            spent.scripts as f64 / figures.requests as f64,
        );
        let [store] = stores;
        store.close().await;
    }
}

async fn start(log: Log) -> RedisServer {
    let started = tokio::task::spawn_blocking(move || RedisServer::start_with(log.arguments()));
    started.await.expect("a server")
}

async fn edge(server: &RedisServer, slices: Option<SliceOptions>) -> Arc<dyn Store> {
    let link = LinkOptions {
        topology: Topology::Standalone,
        urls: vec![server.url()],
        primary: String::new(),
        pool_size: 4,
        // A noisy machine must not fail the bench.
        timeout: Duration::from_secs(2),
    };
    let options = RedisOptions {
        link,
        lost_reservation: LostReservation::Charge,
        journal: None,
        slices,
        clock: None,
    };
    let store = RedisStore::start(options).expect("a store");
    store.ping().await.expect("Redis");
    store
}

/// What Redis has spent: CPU, user and system, all threads; and scripts run.
struct Spent {
    cpu: Duration,
    scripts: u64,
}

impl Spent {
    fn now(server: &RedisServer) -> Spent {
        let seconds = |field: &str| -> f64 {
            let text = server.info(field).expect("a figure");
            text.parse().expect("seconds")
        };
        let calls = |field: &str| -> u64 {
            let text = server.info(field).unwrap_or_default();
            let calls = text.split(',').find_map(|pair| pair.strip_prefix("calls="));
            calls.map_or(0, |calls| calls.parse().expect("a count"))
        };
        Spent {
            cpu: Duration::from_secs_f64(seconds("used_cpu_user") + seconds("used_cpu_sys")),
            scripts: calls("cmdstat_evalsha") + calls("cmdstat_eval"),
        }
    }

    fn until_now(&self, server: &RedisServer) -> Spent {
        let now = Spent::now(server);
        Spent {
            cpu: now.cpu - self.cpu,
            scripts: now.scripts - self.scripts,
        }
    }

    fn cpu_us(&self, count: u64) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / count as f64
    }
}

/// Redis's CPU in microseconds for each reserve, then for each settle.
async fn apart(server: &RedisServer, store: &Arc<dyn Store>, keys: &Arc<Vec<KeyId>>) -> [f64; 2] {
    let asks: Arc<Vec<_>> = Arc::new(
        (0..APART)
            .map(|at| ask(keys[at * 7_919 % keys.len()]))
            .collect(),
    );
    let mut cpu = [0.0; 2];
    for (phase, cpu) in cpu.iter_mut().enumerate() {
        let begin = Spent::now(server);
        let tasks = (0..AT_ONCE).map(|task| {
            let (store, asks) = (Arc::clone(store), Arc::clone(&asks));
            tokio::spawn(async move {
                for ask in asks.iter().skip(task).step_by(AT_ONCE) {
                    if phase == 0 {
                        load::reserve(&*store, ask.clone()).await;
                    } else {
                        load::settle(&*store, ask.subject.key, ask.id).await;
                    }
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.expect("a task");
        }
        *cpu = begin.until_now(server).cpu_us(APART as u64);
    }
    cpu
}

/// Redis's CPU in microseconds for each INCRBY, from as many tasks at once on one connection.
async fn increments(server: &RedisServer) -> f64 {
    let client = redis::Client::open(server.url()).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await;
    let connection = connection.expect("a connection");
    let (spent, begin, cpu) = (Spent::now(server), Instant::now(), cpu_time());
    let tasks = (0..AT_ONCE).map(|task| tokio::spawn(increment(connection.clone(), task, begin)));
    let mut count = 0;
    for task in tasks.collect::<Vec<_>>() {
        count += task.await.expect("a task");
    }
    let (elapsed, cpu) = (begin.elapsed(), cpu_time() - cpu);
    let plain = spent.until_now(server).cpu_us(count);
    println!(
        "plain INCRBY, {AT_ONCE} at once: {:.0}/s, our CPU {:.1} µs, Redis CPU {plain:.1} µs each",
        count as f64 / elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / count as f64,
    );
    plain
}

async fn increment(mut connection: MultiplexedConnection, task: usize, begin: Instant) -> u64 {
    let mut command = redis::cmd("INCRBY");
    command.arg(format!("bench:{task}")).arg(1);
    let mut count = 0;
    while begin.elapsed() < load::length() {
        let sum: i64 = command.query_async(&mut connection).await.expect("a sum");
        assert!(sum > 0);
        count += 1;
    }
    count
}
