//! The exchange without sockets: admission, one whole life, and what of it is the store.
//!
//! Claim: deciding and metering around the store's two steps costs less than the steps themselves.
//! The ratio is printed against the bare steps of the same run.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench that cannot set up has nothing to measure; its ratio goes to the terminal"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use uuid::Uuid;

use quota_proxy::admin::key_change::new_key;
use quota_proxy::config;
use quota_proxy::exchange::plan::Demand;
use quota_proxy::exchange::{CallerFacts, Desk, End, Live, OpenRequest, Settler};
use quota_proxy::keys::admit::{Caller, admit};
use quota_proxy::keys::{KeyId, KeyRecord, Secret};
use quota_proxy::metering::{Dialect, Endpoint, read_request};
use quota_proxy::quota::{
    Admission, Amounts, Ask, Charge, ReservationId, Reserved, Scope, ScopeClaim, Subject,
};
use quota_proxy::store::embedded::{EmbeddedOptions, EmbeddedStore};
use quota_proxy::store::{AuditEntry, Settlement, Store, UsageEvent};
use quota_proxy::time::UnixMs;

const REQUEST: &[u8] = br#"{"model":"gpt-4o-mini","max_tokens":200,"messages":[{"role":"system","content":"You are helpful."},{"role":"user","content":"Name three rivers of Europe and say where they rise."}]}"#;
const ANSWER: &[u8] = br#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":"The Danube rises in the Black Forest, the Rhine in the Alps, the Volga in the Valdai Hills."},"finish_reason":"stop"}],"usage":{"prompt_tokens":26,"completion_tokens":22,"total_tokens":48}}"#;

struct Setup {
    runtime: Runtime,
    desk: Arc<Desk>,
    key: Arc<KeyRecord>,
    caller: CallerFacts,
    _folder: tempfile::TempDir,
}

fn setup() -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let yaml = "pools: [{name: p, dialect: openai, models: [\"*\"], peers: [{url: \"http://127.0.0.1:9\"}]}]\n";
    let loaded = config::parse(yaml, "bench.yaml", folder.path(), &|_| None).unwrap();
    let store =
        EmbeddedStore::open(&folder.path().join("q.db"), EmbeddedOptions::default()).unwrap();
    let secret = Secret::generate("sk-bench", [1; 32]);
    let mut record = new_key(
        KeyId(Uuid::new_v4()),
        &secret,
        "sk-bench".to_owned(),
        UnixMs::now(),
    );
    record.tier = "unlimited".to_owned();
    record.quotas.tokens.limit = 1 << 50;
    let audit = AuditEntry {
        at: UnixMs::now(),
        who: "bench".to_owned(),
        what: "key.create".to_owned(),
        subject: String::new(),
        before: None,
        after: None,
    };
    let key = runtime.block_on(store.create_key(record, audit)).unwrap();
    let (settler, _queue) = Settler::new(Duration::from_secs(900));
    let live = ArcSwap::from_pointee(Live::new(Arc::new(loaded.config)));
    let desk = Arc::new(Desk {
        store,
        settler,
        live,
    });
    let caller = CallerFacts {
        hash: Some(secret.hash()),
        ip: None,
        origin: None,
    };
    Setup {
        runtime,
        desk,
        key,
        caller,
        _folder: folder,
    }
}

/// One whole life: key, body, reserve, answer, usage, price, settle.
async fn live_once(setup: &Setup) {
    let identity = setup
        .desk
        .identify(&setup.caller, UnixMs::now())
        .await
        .unwrap();
    let facts = read_request(Endpoint::ChatCompletions, "/v1/chat/completions", REQUEST).unwrap();
    let request = OpenRequest {
        id: Uuid::now_v7(),
        identity,
        caller: &setup.caller,
        endpoint: Endpoint::ChatCompletions,
        dialect: Dialect::OpenAi,
        method: "POST",
        path: "/v1/chat/completions",
        model: facts.model.as_deref(),
        end_user: None,
        demand: Demand {
            stream: facts.stream,
            input_tokens: facts.input_tokens,
            declared_output: facts.output_bound,
            choices: facts.choices,
            may_write_1h_cache: false,
        },
        request_size: 0,
        started: Instant::now(),
    };
    let mut exchange = setup.desk.open(request).await.unwrap();
    exchange.answered(200, "application/json", "", false);
    exchange.passes(&Bytes::from_static(ANSWER), true);
    let mut ended = exchange.ended(End::Answered, None);
    let closed = ended.settle().await.unwrap();
    assert_eq!(closed.event.total_tokens, 48);
}

/// The store's two steps alone, with the same claims.
async fn steps_once(setup: &Setup) {
    let id = Uuid::now_v7();
    let subject = Subject {
        key: setup.key.id,
        request_id: String::new(),
        method: "POST".to_owned(),
        path: "/v1/chat/completions".to_owned(),
        model: Some("gpt-4o-mini".to_owned()),
        pool: None,
        end_user: None,
        input_tokens: 26,
    };
    let scopes = vec![ScopeClaim {
        scope: Scope::Key(setup.key.id),
        quotas: setup.key.quotas,
        rates: Default::default(),
    }];
    let ask = Ask {
        id: ReservationId(id),
        key_version: setup.key.version,
        group_version: None,
        scopes,
        admission: Admission::Clamp,
        requests: 1,
        input_tokens: 26,
        output_tokens: 200,
        least_output_tokens: 1,
        fixed_nano_usd: 0,
        output_nano_per_million: 0,
        rate_limited: true,
        lease_ms: 900_000,
        subject: Arc::new(subject),
    };
    assert!(matches!(
        setup.desk.store.reserve(ask).await.unwrap(),
        Reserved::Granted(_)
    ));
    let mut event = UsageEvent::blank(id, setup.key.id, UnixMs::now());
    (event.requests, event.total_tokens) = (1, 48);
    let charge = Charge::Exact(Amounts {
        requests: 1,
        tokens: 48,
        nano_usd: 0,
    });
    setup
        .desk
        .store
        .settle(Settlement {
            id: ReservationId(id),
            charge,
            event,
            further: Vec::new(),
        })
        .await
        .unwrap();
}

/// Time per exchange with `count` of them at once, so that commits are shared as under load.
fn per_exchange(setup: &Setup, count: u32, steps_only: bool) -> Duration {
    let started = Instant::now();
    setup.runtime.block_on(async {
        let all = (0..count).map(|_| async {
            if steps_only {
                steps_once(setup).await
            } else {
                live_once(setup).await
            }
        });
        futures_util::future::join_all(all).await;
    });
    started.elapsed() / count
}

fn benches(criterion: &mut Criterion) {
    let setup = setup();
    criterion.bench_function("admission/admit", |bench| {
        let now = UnixMs::now();
        bench.iter(|| {
            admit(
                &setup.key,
                &[],
                &Caller {
                    ip: None,
                    origin: None,
                    model: Some("gpt-4o-mini"),
                },
                now,
            )
        });
    });
    criterion.bench_function("admission/identify", |bench| {
        bench.iter(|| {
            setup
                .runtime
                .block_on(setup.desk.identify(&setup.caller, UnixMs::now()))
                .unwrap()
        });
    });
    criterion.bench_function("exchange/one at a time", |bench| {
        bench.iter(|| setup.runtime.block_on(live_once(&setup)));
    });
    let mut ratios: Vec<f64> = Vec::new();
    for _ in 0..5 {
        let steps = per_exchange(&setup, 20_000, true);
        let whole = per_exchange(&setup, 20_000, false);
        println!("exchange: {whole:?} whole, {steps:?} of it in the store's two steps");
        ratios.push(whole.as_secs_f64() / steps.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "ratio exchange / store steps: {:.2} (median of {})",
        ratios[2],
        ratios.len()
    );
}

criterion_group!(all, benches);
criterion_main!(all);
