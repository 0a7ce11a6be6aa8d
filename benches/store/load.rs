//! The load: keys, requests on them from many tasks at once, and what that took.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quota_proxy::keys::KeyId;
use quota_proxy::quota::{
    Amounts, Ask, Charge, Limit, Period, Quotas, Rates, ReservationId, Reserved, Scope, ScopeClaim,
};
use quota_proxy::store::{Settlement, Store, UsageEvent};
use quota_proxy::time::UnixMs;
use uuid::Uuid;

use crate::records::{self, audit, key_record};

/// How long each load lasts: `BENCH_SECONDS`, 3 by default.
pub fn length() -> Duration {
    let given = std::env::var("BENCH_SECONDS").ok();
    Duration::from_secs(given.and_then(|text| text.parse().ok()).unwrap_or(3))
}

/// What one load was served with.
pub struct Figures {
    pub requests: u64,
    pub elapsed: Duration,
    /// Of this process, user and system.
    pub cpu: Duration,
    /// Of the reserves, in order.
    latencies: Vec<Duration>,
}

impl Figures {
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    pub fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.requests as f64
    }

    fn quantile(&self, per_mille: usize) -> Duration {
        self.latencies[self.latencies.len() * per_mille / 1000]
    }

    /// One line.
    pub fn told(&self) -> String {
        format!(
            "{:.0} requests/s, reserve p50 {:.0?} p99 {:.0?} p99.9 {:.0?}, our CPU {:.1} µs/request",
            self.per_second(),
            self.quantile(500),
            self.quantile(990),
            self.quantile(999),
            self.cpu_us(),
        )
    }
}

/// New keys.
pub async fn keys(store: &dyn Store, count: usize) -> Arc<Vec<KeyId>> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let record = key_record(Uuid::new_v4());
        ids.push(record.id);
        store
            .create_key(record, audit("create"))
            .await
            .expect("a key");
    }
    Arc::new(ids)
}

/// Requests from `tasks` tasks at once, spread evenly over the keys and over the stores.
pub async fn run(stores: &[Arc<dyn Store>], keys: &Arc<Vec<KeyId>>, tasks: usize) -> Figures {
    let (begin, cpu, length) = (Instant::now(), cpu_time(), length());
    let running = (0..tasks).map(|task| {
        let (store, keys) = (Arc::clone(&stores[task % stores.len()]), Arc::clone(keys));
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            let mut at = task;
            while begin.elapsed() < length {
                at = (at + 7_919) % keys.len();
                latencies.push(request(&*store, keys[at]).await);
            }
            latencies
        })
    });
    let mut latencies: Vec<Duration> = Vec::new();
    for task in running.collect::<Vec<_>>() {
        latencies.extend(task.await.expect("a task"));
    }
    for store in stores {
        store.ping().await.expect("written");
    }
    let (elapsed, cpu) = (begin.elapsed(), cpu_time() - cpu);
    latencies.sort_unstable();
    Figures {
        requests: latencies.len() as u64,
        elapsed,
        cpu,
        latencies,
    }
}

/// One reserve and its settle; answers how long the reserve took.
async fn request(store: &dyn Store, key: KeyId) -> Duration {
    let ask = ask(key);
    let id = ask.id;
    let begin = Instant::now();
    reserve(store, ask).await;
    let took = begin.elapsed();
    settle(store, key, id).await;
    took
}

pub async fn reserve(store: &dyn Store, ask: Ask) {
    let reserved = store.reserve(ask).await.expect("an answer");
    assert!(matches!(reserved, Reserved::Granted(_)));
}

pub async fn settle(store: &dyn Store, key: KeyId, id: ReservationId) {
    let settlement = Settlement {
        id,
        charge: Charge::Exact(charged()),
        event: event(key, id),
        further: Vec::new(),
    };
    store.settle(settlement).await.expect("settled");
}

/// User and system time of this process.
pub fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .expect("fields")
        .split(' ')
        .collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("ticks");
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

pub fn charged() -> Amounts {
    Amounts {
        requests: 1,
        tokens: 900,
        nano_usd: 9_000,
    }
}

/// On a key with every limit there is, none of them near.
pub fn ask(key: KeyId) -> Ask {
    let limit = Limit {
        limit: 1 << 50,
        period: Period::Monthly,
    };
    let claim = ScopeClaim {
        scope: Scope::Key(key),
        quotas: Quotas {
            requests: limit,
            tokens: limit,
            usd: limit,
        },
        rates: Rates {
            requests_per_minute: 1 << 36,
            tokens_per_minute: 1 << 36,
            concurrency: 1 << 36,
        },
    };
    records::ask(Uuid::new_v4(), key, vec![claim], 100, 1_000)
}

fn event(key: KeyId, id: ReservationId) -> UsageEvent {
    UsageEvent {
        end_user: None,
        metadata: None,
        ..records::event(id.0, key, UnixMs::now())
    }
}
