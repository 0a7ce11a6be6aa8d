//! What the whole path costs: quota-proxy against a bare Pingora forwarder, side by side.
//!
//! It answers what admission, a reservation on disk, metering and settlement add to forwarding. Core 0
//! runs the proxy under test and nothing else, core 1 the fake provider and the load. The two proxies
//! take turns within one run, several rounds each, so that a slow minute of the machine hits both.
//! `make bench` runs it; `BENCH_SECONDS` (3) sets the length of a round and `BENCH_ROUNDS` (5) their
//! number.
//!
//! Requests per second are at saturation, 64 connections. CPU is the proxy's own, user and system,
//! over the requests it served. Latency is at a moderate fixed rate; "added" is against the provider
//! asked directly. Everything stays on loopback.

use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

mod bare;
mod children;
mod load;
mod report;

use children::Child;
use load::{Plan, Request};
use report::{Series, Table};

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// Connections at saturation.
const CONNECTIONS: usize = 64;
/// Requests per second of the latency measurement: well below saturation for both proxies.
const JSON_RATE: u32 = 1_500;
const STREAM_RATE: u32 = 150;
/// Streams that are open at the same time for the memory measurement.
const OPEN_STREAMS: usize = 1_000;
/// Output tokens of the plain answer; they make it about 1 KB long.
const JSON_TOKENS: u32 = 75;
const STREAM_TOKENS: u32 = 100;

/// What is measured: the proxies and, for reference, no proxy at all.
const DIRECT: usize = 0;
const BARE: usize = 1;
const QUOTA: usize = 2;
const NAMES: [&str; 3] = ["no proxy", "bare Pingora", "quota-proxy"];

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|word| word == bare::COMMAND) {
        let upstream: SocketAddr = arguments[at + 1].parse()?;
        return bare::run(upstream);
    }
    children::raise_file_limit()?;
    children::pin_self(1)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let text = runtime.block_on(measure())?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// The three places a request can be sent to, and what sends it.
struct Bench {
    provider: Child,
    bare: Child,
    quota: Child,
    key: String,
    seconds: Duration,
    rounds: usize,
}

impl Bench {
    async fn start() -> Outcome<Self> {
        let knob = |name: &str, default: u64| {
            let given = std::env::var(name).ok();
            given.map_or(Ok(default), |text| text.parse::<u64>())
        };
        let provider = Child::provider()?;
        let bare = Child::bare(provider.address)?;
        let quota = Child::quota(provider.address)?;
        let key = quota.make_key().await?;
        Ok(Bench {
            provider,
            bare,
            quota,
            key,
            seconds: Duration::from_secs(knob("BENCH_SECONDS", 3)?),
            rounds: usize::try_from(knob("BENCH_ROUNDS", 5)?)?,
        })
    }

    fn targets(&self) -> [&Child; 3] {
        [&self.provider, &self.bare, &self.quota]
    }

    fn request(&self, stream: bool) -> Request {
        let tokens = if stream { STREAM_TOKENS } else { JSON_TOKENS };
        Request::chat(&self.key, stream, &format!("tokens={tokens}"))
    }

    /// Requests per second and CPU at saturation, and latency at a fixed rate.
    async fn rounds(&self, stream: bool) -> Outcome<[Series; 3]> {
        let rate = if stream { STREAM_RATE } else { JSON_RATE };
        let request = self.request(stream);
        let mut series: [Series; 3] = Default::default();
        for round in 0..=self.rounds {
            for (target, series) in self.targets().into_iter().zip(&mut series) {
                let plan = Plan::saturating(target.address, CONNECTIONS, self.seconds);
                let before = target.sample()?;
                let full = load::run(&request, plan).await?;
                let used = target.sample()?.since(&before);
                let plan = Plan::paced(target.address, CONNECTIONS, rate, self.seconds);
                let paced = load::run(&request, plan).await?;
                // The first round warms up connections, caches and the allocator.
                if round > 0 {
                    series.add(&full, &used, &paced);
                }
            }
        }
        Ok(series)
    }

    /// Resident memory with many streams open, above that with none.
    async fn open_streams(&self) -> Outcome<[Memory; 3]> {
        let wish = format!("tokens={STREAM_TOKENS},interval=100ms");
        let request = Request::chat(&self.key, true, &wish);
        let mut memory = [Memory::default(); 3];
        for (at, target) in self.targets().into_iter().enumerate() {
            let before = target.sample()?;
            let streams = load::open(&request, target.address, OPEN_STREAMS).await?;
            let during = target.sample()?;
            memory[at] = Memory {
                peak_before: before.peak_kib,
                open: during.resident_kib,
            };
            drop(streams);
        }
        Ok(memory)
    }
}

/// KiB.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    peak_before: u64,
    open: u64,
}

async fn measure() -> Outcome<String> {
    let bench = Bench::start().await?;
    let mut text = String::from("\nFull path: quota-proxy against a bare Pingora forwarder\n");
    for (what, stream) in [
        ("plain answer of 1 KB", false),
        ("stream of 100 chunks", true),
    ] {
        let series = bench.rounds(stream).await?;
        let mut table = Table::new(what);
        table.add("requests/s at saturation", &series, |s| &s.rate, 0);
        table.add("its CPU in use, % of a core", &series, |s| &s.busy, 0);
        table.add("CPU per request, µs", &series, |s| &s.cpu, 1);
        table.add("latency p50, µs", &series, |s| &s.p50, 0);
        table.add("latency p99, µs", &series, |s| &s.p99, 0);
        table.difference("added latency p50, µs", &series, |s| &s.p50);
        table.difference("added latency p99, µs", &series, |s| &s.p99);
        text.push_str(&table.to_string());
        if series.iter().any(|s| s.failures > 0) {
            let failures: Vec<u64> = series.iter().map(|s| s.failures).collect();
            return Err(format!("{what}: failed requests {failures:?}").into());
        }
    }
    let memory = bench.open_streams().await?;
    let mut table = Table::new("memory");
    table.row(
        "peak RSS after the load, MiB",
        memory.map(|m| mib(m.peak_before)),
    );
    table.row(
        "RSS with 1,000 open streams, MiB",
        memory.map(|m| mib(m.open)),
    );
    text.push_str(&table.to_string());
    Ok(text)
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
