//! `quota.local_slices`: edges admit from memory, and the books stay those of one store.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quota_proxy::keys::{KeyId, KeyRecord};
use quota_proxy::quota::{
    Amounts, Ask, Charge, Grant, GroupId, Limit, LostReservation, Period, Quotas, Rates,
    ReservationId, Reserved, Scope, ScopeClaim, Settled, Standing,
};
use quota_proxy::store::redis::{LinkOptions, RedisOptions, RedisStore, SliceOptions};
use quota_proxy::store::{GroupRecord, Settlement, Store, StoreError, UsageQuery};
use quota_proxy::time::{Clock, Moment, UnixMs};
use uuid::Uuid;

use crate::fault_proxy::FaultProxy;
use crate::records::{ask, audit, event, key_record};
use crate::redis_server::RedisServer;
use crate::wait::{PATIENCE, eventually, that};

/// Saturday, 2026-11-21T02:44:59.123Z.
const BEGIN: i64 = 1_795_229_099_123;
const LEASE_MS: i64 = 60_000;
/// Enough within a second to make a key hot.
const MANY: usize = 40;

/// One edge of a fleet.
async fn edge(url: String, clock: Option<Clock>) -> Arc<RedisStore> {
    let link = LinkOptions {
        timeout: Duration::from_secs(2),
        ..LinkOptions::standalone(url)
    };
    let store = RedisStore::start(RedisOptions {
        link,
        lost_reservation: LostReservation::Charge,
        journal: None,
        slices: Some(SliceOptions {
            size_percent: 5,
            max: 100_000,
        }),
        clock,
    })
    .unwrap();
    eventually(PATIENCE, || store.ping()).await;
    store
}

/// A clock that stands until it is moved.
fn clock() -> (Arc<Mutex<Moment>>, Option<Clock>) {
    let now = Arc::new(Mutex::new(Moment::at(BEGIN)));
    let read = Arc::clone(&now);
    (now, Some(Arc::new(move || *read.lock().unwrap())))
}

fn advance(clock: &Mutex<Moment>, ms: i64) {
    let mut now = clock.lock().unwrap();
    now.wall = now.wall.plus_ms(ms);
    now.steady_ms += ms;
}

fn total(limit: i64) -> Limit {
    Limit {
        limit,
        period: Period::Total,
    }
}

fn tokens(limit: i64) -> Quotas {
    Quotas {
        tokens: total(limit),
        ..Quotas::default()
    }
}

fn claim(scope: Scope, quotas: Quotas) -> ScopeClaim {
    ScopeClaim {
        scope,
        quotas,
        rates: Rates::default(),
    }
}

/// A key and the limits its requests are held to.
#[derive(Clone)]
struct Caller {
    record: Arc<KeyRecord>,
    claims: Vec<ScopeClaim>,
    group_version: Option<i64>,
}

impl Caller {
    async fn new(store: &RedisStore, quotas: Quotas) -> Caller {
        let record = key_record(Uuid::new_v4());
        let record = store.create_key(record, audit("test")).await.unwrap();
        Caller {
            claims: vec![claim(Scope::Key(record.id), quotas)],
            record,
            group_version: None,
        }
    }

    /// In a group with quotas of its own.
    async fn grouped(store: &RedisStore, quotas: Quotas, of_group: Quotas) -> Caller {
        let id = GroupId(Uuid::new_v4());
        let group = GroupRecord {
            id,
            name: String::from("a group"),
            quotas: of_group,
            allowed_pools: Vec::new(),
            allowed_models: Vec::new(),
            version: 0,
            created_at: UnixMs(0),
            updated_at: UnixMs(0),
        };
        let group = store.put_group(group, audit("test")).await.unwrap();
        let record = KeyRecord {
            group: Some(id),
            ..key_record(Uuid::new_v4())
        };
        let record = store.create_key(record, audit("test")).await.unwrap();
        let claims = vec![
            claim(Scope::Key(record.id), quotas),
            claim(Scope::Group(id), of_group),
        ];
        Caller {
            record,
            claims,
            group_version: Some(group.version),
        }
    }

    fn key(&self) -> KeyId {
        self.record.id
    }

    fn ask(&self, input: i64, output: i64) -> Ask {
        let claims = self.claims.clone();
        Ask {
            key_version: self.record.version,
            group_version: self.group_version,
            lease_ms: LEASE_MS,
            ..ask(Uuid::new_v4(), self.key(), claims, input, output)
        }
    }

    async fn open(&self, store: &RedisStore, output: i64) -> Option<Grant> {
        match store.reserve(self.ask(10, output)).await.unwrap() {
            Reserved::Granted(grant) => Some(grant),
            Reserved::Short(_) => None,
            Reserved::KeyChanged => panic!("nobody changed the key"),
        }
    }

    async fn close(&self, store: &RedisStore, grant: &Grant, tokens: i64) {
        let settled = store.settle(self.settlement(grant.id, tokens)).await;
        let settled = settled.unwrap();
        assert!(!matches!(settled, Settled::Already), "{settled:?}");
    }

    fn settlement(&self, id: ReservationId, tokens: i64) -> Settlement {
        Settlement {
            id,
            charge: Charge::Exact(Amounts {
                requests: 1,
                tokens,
                nano_usd: tokens,
            }),
            event: event(id.0, self.key(), UnixMs::now()),
            further: Vec::new(),
        }
    }

    /// Many exchanges one after the other, each of 20 tokens: then there is a slice.
    async fn heat(&self, store: &RedisStore) -> i64 {
        for _ in 0..MANY {
            let grant = self.open(store, 40).await.unwrap();
            self.close(store, &grant, 20).await;
        }
        MANY as i64
    }

    async fn standing(&self, store: &RedisStore, at: usize) -> Standing {
        store.standing(self.claims[at]).await.unwrap()
    }

    async fn events(&self, store: &RedisStore) -> i64 {
        let query = UsageQuery {
            key: Some(self.key()),
            limit: 1,
            ..UsageQuery::default()
        };
        store.usage_events(query).await.unwrap().total
    }
}

/// Steps that Redis was asked for, of every kind.
fn steps(redis: &RedisServer) -> u64 {
    let stats: String = redis.ask(&["INFO", "commandstats"]);
    let calls = stats.lines().filter_map(|line| {
        let (name, figures) = line.split_once(":calls=")?;
        let counts = ["cmdstat_eval", "cmdstat_evalsha"].contains(&name);
        counts.then(|| figures.split(',').next()?.parse::<u64>().ok())?
    });
    calls.sum()
}

/// Whether exchanges are admitted from memory: they cost no step.
async fn draws_ahead(redis: &RedisServer, store: &RedisStore, caller: &Caller) -> bool {
    let before = steps(redis);
    for _ in 0..10 {
        let grant = caller.open(store, 40).await.unwrap();
        caller.close(store, &grant, 20).await;
    }
    steps(redis) - before < 10
}

/// Hammers until it is told to stop: what was charged.
async fn hammer(store: Arc<RedisStore>, caller: Caller, stop: Arc<AtomicBool>) -> Amounts {
    let mut charged = Amounts::ZERO;
    let mut turn = 0_i64;
    while !stop.load(SeqCst) {
        turn += 1;
        let Some(grant) = caller.open(&store, 20 + turn % 60).await else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        if turn % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let used = (grant.held.tokens - turn % 17).max(1);
        caller.close(&store, &grant, used).await;
        charged = charged.plus(Amounts {
            requests: 1,
            tokens: used,
            nano_usd: used,
        });
    }
    charged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_edges_never_oversell_a_small_and_a_large_limit() {
    let redis = RedisServer::start();
    let edges = [edge(redis.url(), None).await, edge(redis.url(), None).await];
    let small = Caller::new(&edges[0], tokens(30_000)).await;
    let large = Caller::grouped(&edges[0], Quotas::default(), tokens(50_000_000)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for store in &edges {
        for caller in [&small, &large] {
            for _ in 0..4 {
                let task = hammer(Arc::clone(store), caller.clone(), Arc::clone(&stop));
                tasks.push((caller.key(), tokio::spawn(task)));
            }
        }
    }
    // Until the small limit is used up, and the large one has been drawn on for a while.
    let began = Instant::now();
    let mut samples = 0;
    loop {
        let at = [
            small.standing(&edges[0], 0).await,
            large.standing(&edges[1], 1).await,
        ];
        for standing in at {
            let limit = standing.quotas.tokens.limit;
            assert!(
                standing.used.tokens + standing.held.tokens <= limit,
                "{standing:?}"
            );
            assert!(
                standing.used.tokens >= 0 && standing.held.tokens >= 0,
                "{standing:?}"
            );
        }
        samples += 1;
        // Nothing fits any more that is asked for: 10 and 1 tokens at the least.
        let done = at[0].used.tokens > 30_000 - 11 && at[1].used.requests > 5_000;
        if done || began.elapsed() > PATIENCE {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    stop.store(true, SeqCst);
    let mut charged = [Amounts::ZERO; 2];
    for (key, task) in tasks {
        let at = usize::from(key != small.key());
        charged[at] = charged[at].plus(task.await.unwrap());
    }
    for store in &edges {
        store.close().await;
    }
    let after = edge(redis.url(), None).await;
    let (of_small, of_large) = (
        small.standing(&after, 0).await,
        large.standing(&after, 1).await,
    );
    println!("{samples} samples, charged {charged:?}");
    assert_eq!(of_small.used, charged[0]);
    assert!(
        of_small.used.tokens > 30_000 - 11,
        "all that fits was granted"
    );
    assert_eq!(of_large.used, charged[1]);
    assert_eq!(large.standing(&after, 0).await.used, charged[1]);
    let totals = after.totals().await.unwrap();
    assert_eq!((totals.open_reservations, totals.held), (0, Amounts::ZERO));
    assert_eq!(small.events(&after).await, charged[0].requests);
    assert_eq!(large.events(&after).await, charged[1].requests);
    let activity = after.activity(large.key()).await.unwrap();
    assert_eq!(activity.request_count, charged[1].requests);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_key_costs_less_than_a_tenth_of_a_step_a_request() {
    const TASKS: i64 = 32;
    const EACH: i64 = 400;
    let redis = RedisServer::start();
    let store = edge(redis.url(), None).await;
    let quotas = Quotas {
        requests: total(1_000_000),
        tokens: total(1_000_000_000),
        usd: total(1_000_000_000),
    };
    let caller = Caller::new(&store, quotas).await;
    caller.heat(&store).await;
    eventually(PATIENCE, || async {
        that(draws_ahead(&redis, &store, &caller).await, |ahead| *ahead)
    })
    .await;
    let before = steps(&redis);
    let tasks = (0..TASKS).map(|_| {
        let (store, caller) = (Arc::clone(&store), caller.clone());
        tokio::spawn(async move {
            for _ in 0..EACH {
                let grant = caller.open(&store, 40).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
                caller.close(&store, &grant, 30).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    store.close().await;
    let steps = steps(&redis) - before;
    let requests = TASKS * EACH;
    println!(
        "{steps} steps for {requests} requests: {:.4} each",
        steps as f64 / requests as f64
    );
    assert!(steps * 10 < requests as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slice_of_a_killed_edge_returns_with_its_lease() {
    let redis = RedisServer::start();
    let (time, shared) = clock();
    let [dying, other] = [
        edge(redis.url(), shared.clone()).await,
        edge(redis.url(), shared).await,
    ];
    let caller = Caller::new(&dying, tokens(1_000_000)).await;
    let mut settled = caller.heat(&dying).await;
    let mut ahead = false;
    while !ahead {
        ahead = draws_ahead(&redis, &dying, &caller).await;
        settled += 10;
    }
    let running = [
        caller.open(&dying, 40).await.unwrap(),
        caller.open(&dying, 40).await.unwrap(),
    ];
    let last = caller.open(&dying, 40).await.unwrap();
    caller.close(&dying, &last, 20).await;
    settled += 1;
    // The step that books the last one tells of those that run.
    eventually(PATIENCE, || async {
        that(caller.events(&other).await, |n| *n == settled)
    })
    .await;
    let held = caller.standing(&other, 0).await.held.tokens;
    assert!(held > 2 * 50, "a slice is held: {held}");
    drop(dying);
    assert_eq!(other.sweep().await.unwrap(), 0);
    advance(&time, LEASE_MS + 1);
    let swept = async || that(other.sweep().await.unwrap(), |swept| *swept == 1);
    eventually(PATIENCE, swept).await;
    let standing = caller.standing(&other, 0).await;
    let of_running: i64 = running.iter().map(|grant| grant.held.tokens).sum();
    assert_eq!(standing.used.tokens, settled * 20 + of_running);
    assert_eq!(standing.used.requests, settled + 2);
    assert_eq!(standing.held, Amounts::ZERO);
    assert_eq!(other.totals().await.unwrap().open_reservations, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_after_its_slice_was_lost_is_charged_once() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.address());
    let (time, shared) = clock();
    let cut = edge(redis.url_at(proxy.addr()), shared.clone()).await;
    let other = edge(redis.url(), shared).await;
    let caller = Caller::new(&other, tokens(1_000_000)).await;
    let mut settled = caller.heat(&cut).await;
    while !draws_ahead(&redis, &cut, &caller).await {
        settled += 10;
    }
    settled += 10;
    let running = [
        caller.open(&cut, 40).await.unwrap(),
        caller.open(&cut, 40).await.unwrap(),
    ];
    let last = caller.open(&cut, 40).await.unwrap();
    caller.close(&cut, &last, 20).await;
    settled += 1;
    eventually(PATIENCE, || async {
        that(caller.events(&other).await, |n| *n == settled)
    })
    .await;
    proxy.black_hole();
    advance(&time, LEASE_MS + 1);
    eventually(PATIENCE, || async {
        that(other.sweep().await.unwrap(), |swept| *swept == 1)
    })
    .await;
    let held: i64 = running.iter().map(|grant| grant.held.tokens).sum();
    assert_eq!(
        caller.standing(&other, 0).await.used.tokens,
        settled * 20 + held
    );
    // One ends while Redis is out of reach, one after its return; together more than was charged.
    caller.close(&cut, &running[0], held).await;
    proxy.pass();
    caller.close(&cut, &running[1], 7).await;
    let used = settled * 20 + held + 7;
    eventually(PATIENCE, || async {
        that(caller.standing(&other, 0).await.used.tokens, |now| {
            *now == used
        })
    })
    .await;
    let again = cut
        .settle(caller.settlement(running[0].id, 5))
        .await
        .unwrap();
    assert_eq!(again, Settled::Already);
    cut.close().await;
    let standing = caller.standing(&other, 0).await;
    assert_eq!(
        (standing.used.tokens, standing.used.requests),
        (used, settled + 2)
    );
    assert_eq!(standing.held, Amounts::ZERO);
    // Those settled, the lost slice, and the late two.
    assert_eq!(caller.events(&other).await, settled + 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_on_one_edge_is_obeyed_by_the_other_within_a_second() {
    let redis = RedisServer::start();
    let [admitting, changing] = [edge(redis.url(), None).await, edge(redis.url(), None).await];
    let caller = Caller::new(&changing, tokens(100_000_000)).await;
    caller.heat(&admitting).await;
    while !draws_ahead(&redis, &admitting, &caller).await {}
    let disabled = KeyRecord {
        active: false,
        ..(*caller.record).clone()
    };
    changing.update_key(disabled, audit("test")).await.unwrap();
    let changed = Instant::now();
    let mut granted = 0;
    loop {
        match admitting.reserve(caller.ask(10, 40)).await.unwrap() {
            Reserved::Granted(grant) => {
                granted += 1;
                caller.close(&admitting, &grant, 20).await;
            }
            Reserved::KeyChanged => break,
            Reserved::Short(short) => panic!("{short:?}"),
        }
        assert!(changed.elapsed() < PATIENCE, "the change is not obeyed");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = changed.elapsed();
    println!("obeyed after {took:?} and {granted} more exchanges");
    assert!(
        took < Duration::from_secs(5),
        "within a second, with slack: {took:?}"
    );
    admitting.close().await;
    assert_eq!(changing.totals().await.unwrap().held, Amounts::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_nothing_is_admitted_for_long_and_nothing_is_lost() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.address());
    let store = edge(redis.url_at(proxy.addr()), None).await;
    let caller = Caller::new(&store, tokens(100_000_000)).await;
    let mut settled = caller.heat(&store).await;
    while !draws_ahead(&redis, &store, &caller).await {
        settled += 10;
    }
    settled += 10;
    proxy.refuse();
    let cut = Instant::now();
    loop {
        match store.reserve(caller.ask(10, 40)).await {
            Ok(Reserved::Granted(grant)) => {
                caller.close(&store, &grant, 20).await;
                settled += 1;
            }
            Err(StoreError::Unavailable(_)) => break,
            other => panic!("{other:?}"),
        }
        assert!(cut.elapsed() < PATIENCE, "it goes on without Redis");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    proxy.pass();
    eventually(PATIENCE, || async {
        let standing = store.standing(caller.claims[0]).await.ok();
        that(standing.map(|standing| standing.used.requests), |n| {
            *n == Some(settled)
        })
    })
    .await;
    assert_eq!(caller.standing(&store, 0).await.used.tokens, settled * 20);
    store.close().await;
    let after = edge(redis.url(), None).await;
    assert_eq!(caller.standing(&after, 0).await.used.requests, settled);
    assert_eq!(after.totals().await.unwrap().held, Amounts::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_whose_reply_was_lost_books_once() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.address());
    let store = edge(redis.url_at(proxy.addr()), None).await;
    let caller = Caller::new(&store, tokens(100_000_000)).await;
    let lost = AtomicI64::new(0);
    let mut settled = 0;
    // The first one lost is the step that opens the slice.
    for _ in 0..6 {
        proxy.swallow_reply_to("slice-");
        let before = proxy.replies_lost();
        while proxy.replies_lost() == before {
            let grant = caller.open(&store, 40).await.unwrap();
            // A settle of its own may be repeated where the connection broke: it says Already.
            let settlement = caller.settlement(grant.id, 25);
            store.settle(settlement).await.unwrap();
            settled += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        lost.fetch_add(1, SeqCst);
    }
    proxy.pass();
    store.close().await;
    println!("{} replies lost", lost.load(SeqCst));
    let after = edge(redis.url(), None).await;
    let standing = caller.standing(&after, 0).await;
    assert_eq!(
        (standing.used.requests, standing.used.tokens),
        (settled, settled * 25)
    );
    assert_eq!(caller.events(&after).await, settled);
    let totals = after.totals().await.unwrap();
    assert_eq!((totals.open_reservations, totals.held), (0, Amounts::ZERO));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_idle_edge_has_drawn_comes_back_to_the_other() {
    const LIMIT: i64 = 2_000;
    let redis = RedisServer::start();
    let [idle, busy] = [edge(redis.url(), None).await, edge(redis.url(), None).await];
    let quotas = Quotas {
        requests: total(LIMIT),
        ..Quotas::default()
    };
    let caller = Caller::new(&idle, quotas).await;
    let mut granted = caller.heat(&idle).await;
    let began = Instant::now();
    while granted < LIMIT {
        match caller.open(&busy, 40).await {
            Some(grant) => {
                caller.close(&busy, &grant, 20).await;
                granted += 1;
            }
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
        assert!(
            began.elapsed() < PATIENCE,
            "only {granted} of {LIMIT} were granted"
        );
    }
    assert!(caller.open(&busy, 40).await.is_none());
    assert!(caller.open(&idle, 40).await.is_none());
    busy.close().await;
    idle.close().await;
    let after = edge(redis.url(), None).await;
    let standing = caller.standing(&after, 0).await;
    assert_eq!((standing.used.requests, standing.held.requests), (LIMIT, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_on_a_slice_takes_more_as_long_as_the_quota_bears_it() {
    let redis = RedisServer::start();
    let store = edge(redis.url(), None).await;
    let caller = Caller::new(&store, tokens(100_000)).await;
    let mut used = caller.heat(&store).await * 20;
    while !draws_ahead(&redis, &store, &caller).await {
        used += 200;
    }
    used += 200;
    let grant = caller.open(&store, 40).await.unwrap();
    let more = |tokens| Amounts {
        requests: 0,
        tokens,
        nano_usd: 0,
    };
    let top_up = |tokens| store.top_up(grant.id, &caller.claims, more(tokens));
    assert!(top_up(100).await.unwrap());
    assert!(top_up(50_000).await.unwrap(), "more than any slice");
    assert!(!top_up(60_000).await.unwrap(), "more than the quota");
    let free = 100_000 - used - 50 - 100 - 50_000;
    // What is unspent beside it on this edge is this edge's to give.
    assert!(!top_up(free + 1).await.unwrap());
    caller.close(&store, &grant, 50_150).await;
    store.close().await;
    let after = edge(redis.url(), None).await;
    let standing = caller.standing(&after, 0).await;
    assert_eq!(
        (standing.used.tokens, standing.held.tokens),
        (used + 50_150, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_turns_takes_its_slice_along() {
    let redis = RedisServer::start();
    let (time, shared) = clock();
    let store = edge(redis.url(), shared.clone()).await;
    let quotas = Quotas {
        tokens: Limit {
            limit: 1_000_000,
            period: Period::Daily,
        },
        ..Quotas::default()
    };
    let caller = Caller::new(&store, quotas).await;
    caller.heat(&store).await;
    while !draws_ahead(&redis, &store, &caller).await {}
    let spanning = caller.open(&store, 40).await.unwrap();
    advance(&time, 86_400_000);
    eventually(PATIENCE, || async {
        let standing = caller.standing(&store, 0).await;
        that((standing.used.tokens, standing.held.tokens), |now| {
            *now == (0, 0)
        })
    })
    .await;
    // The edge hears of it with its next step, then draws in the new window.
    let mut of_today = 0;
    eventually(PATIENCE, || async {
        let grant = caller.open(&store, 40).await.unwrap();
        caller.close(&store, &grant, 20).await;
        that(caller.standing(&store, 0).await.used.tokens, |used| {
            *used > 0
        })
    })
    .await;
    while of_today < 50 {
        let grant = caller.open(&store, 40).await.unwrap();
        caller.close(&store, &grant, 20).await;
        of_today += 1;
    }
    caller.close(&store, &spanning, 33).await;
    store.close().await;
    let after = edge(redis.url(), shared).await;
    let standing = caller.standing(&after, 0).await;
    assert!(
        standing.used.tokens % 20 == 0 && standing.used.tokens >= 1_000,
        "{standing:?}"
    );
    assert_eq!(standing.held, Amounts::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn per_minute_limits_are_drawn_on_ahead_and_not_exceeded() {
    const LIMIT: i64 = 1_500;
    let redis = RedisServer::start();
    // The clock stands: nothing refills.
    let (_time, shared) = clock();
    let edges = [
        edge(redis.url(), shared.clone()).await,
        edge(redis.url(), shared.clone()).await,
    ];
    let mut caller = Caller::new(&edges[0], Quotas::default()).await;
    caller.claims[0].rates.requests_per_minute = LIMIT;
    let mut granted = 0;
    let began = Instant::now();
    while granted < LIMIT {
        for store in &edges {
            match caller.open(store, 40).await {
                Some(grant) => {
                    caller.close(store, &grant, 20).await;
                    granted += 1;
                }
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        assert!(
            began.elapsed() < PATIENCE,
            "only {granted} of {LIMIT} were granted"
        );
    }
    for store in &edges {
        assert!(caller.open(store, 40).await.is_none());
        store.close().await;
    }
    let steps = steps(&redis);
    println!("{steps} steps for {LIMIT} requests");
    assert!(steps < LIMIT as u64, "slices were used");
    let after = edge(redis.url(), shared).await;
    let standing = caller.standing(&after, 0).await;
    assert_eq!(
        (standing.used.requests, standing.requests_in_bucket),
        (LIMIT, 0)
    );
    assert_eq!((standing.held, standing.running), (Amounts::ZERO, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_moves_to_another_group_takes_along_what_its_slice_owes() {
    let redis = RedisServer::start();
    let [admitting, changing] = [edge(redis.url(), None).await, edge(redis.url(), None).await];
    let of_group = tokens(50_000_000);
    let caller = Caller::grouped(&changing, tokens(10_000_000), of_group).await;
    let mut settled = caller.heat(&admitting).await;
    while !draws_ahead(&redis, &admitting, &caller).await {
        settled += 10;
    }
    settled += 10;
    let running = caller.open(&admitting, 40).await.unwrap();
    let moved = KeyRecord {
        group: None,
        ..(*caller.record).clone()
    };
    changing.update_key(moved, audit("test")).await.unwrap();
    caller.close(&admitting, &running, 20).await;
    settled += 1;
    admitting.close().await;
    changing.sweep().await.unwrap();
    for at in 0..2 {
        let standing = caller.standing(&changing, at).await;
        assert_eq!(
            (standing.used.requests, standing.used.tokens),
            (settled, settled * 20)
        );
        assert_eq!(standing.held, Amounts::ZERO);
    }
    assert_eq!(caller.events(&changing).await, settled);
    assert_eq!(
        changing.activity(caller.key()).await.unwrap().request_count,
        settled
    );
}
