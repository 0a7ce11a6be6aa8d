//! Two edges on one Redis, many tasks at once, replies lost on the way: a checker over the history.
//!
//! Each grant carries a snapshot of the counters as its own atomic step left them, so that invariant I1
//! is checked at every admission; the sums are checked at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use quota_proxy::keys::{KeyId, KeyRecord};
use quota_proxy::quota::{
    Amounts, Charge, GroupId, Limit, Quotas, Rates, Reserved, Scope, ScopeClaim, Settled, Standing,
};
use quota_proxy::store::redis::{LinkOptions, RedisOptions, RedisStore};
use quota_proxy::store::{
    GroupRecord, Settlement, Store, StoreError, StoreResult, UsageEvent, UsageQuery,
};
use quota_proxy::time::UnixMs;
use uuid::Uuid;

use crate::chance::Chance;
use crate::fault_proxy::FaultProxy;
use crate::records::{ask, audit, event, key_record};
use crate::redis_server::RedisServer;
use crate::soak::soak;

const TASKS: usize = 24;
/// Of each task.
const EXCHANGES: u32 = 500;
const KEYS: usize = 4;
/// Of the group; small, so that most of the time somebody is refused.
fn limit() -> i64 {
    2_000_000 * i64::from(soak())
}

fn edge(url: String) -> Arc<RedisStore> {
    let link = LinkOptions {
        timeout: Duration::from_secs(2),
        ..LinkOptions::standalone(url)
    };
    let options = RedisOptions::new(link);
    RedisStore::start(options).unwrap()
}

fn tokens(limit: i64) -> Quotas {
    Quotas {
        tokens: Limit {
            limit,
            ..Limit::default()
        },
        ..Quotas::default()
    }
}

/// What all tasks of a history share.
struct World {
    edges: [Arc<RedisStore>; 2],
    keys: Vec<(KeyId, Vec<ScopeClaim>)>,
    charged: AtomicI64,
    /// Steps asked of an edge, each counted once however often it was sent.
    operations: AtomicU64,
    granted: AtomicU64,
    refused: AtomicU64,
    unanswered: AtomicU64,
}

impl World {
    fn check(&self, standings: &[Standing]) {
        for standing in standings {
            let limit = standing.quotas.tokens.limit;
            let taken = standing.used.tokens + standing.held.tokens;
            assert!(taken <= limit, "I1: {standing:?}");
            assert!(standing.held.tokens >= 0 && standing.used.tokens >= 0);
        }
    }

    fn count_one(&self) {
        self.operations.fetch_add(1, Ordering::Relaxed);
    }

    /// One exchange: reserve, perhaps again, perhaps renew, settle, perhaps again.
    async fn exchange(&self, chance: &mut Chance) {
        let edge = &self.edges[chance.below(2) as usize];
        let (key, claims) = &self.keys[chance.below(KEYS as u64) as usize];
        let (input, output) = (chance.below(50) as i64, chance.below(2_000) as i64);
        let ask = ask(Uuid::new_v4(), *key, claims.clone(), input, output);
        self.count_one();
        let grant = match edge.reserve(ask.clone()).await {
            Ok(Reserved::Granted(grant)) => grant,
            Ok(Reserved::Short(_)) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Ok(Reserved::KeyChanged) => panic!("no key was changed"),
            // It is undone by the sweep, whether it was granted or not.
            Err(StoreError::Unavailable(_)) => {
                self.unanswered.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Err(fault) => panic!("{fault}"),
        };
        self.granted.fetch_add(1, Ordering::Relaxed);
        self.check(&grant.standings);
        if chance.below(10) == 0 {
            self.count_one();
            match edge.reserve(ask.clone()).await {
                Ok(Reserved::Granted(again)) => assert_eq!(again.held, grant.held),
                Ok(other) => panic!("a repeated reserve answered {other:?}"),
                // Its caller goes; where the repeated one was never sent, nobody undoes the first.
                Err(_) => {
                    self.unanswered.fetch_add(1, Ordering::Relaxed);
                    self.count_one();
                    let event = event(ask.id.0, *key, UnixMs::now());
                    let void = Settlement::new(ask.id, Charge::Void, event);
                    settle_surely(edge, void).await;
                    return;
                }
            }
        }
        if chance.below(10) == 0 {
            self.count_one();
            let _ = edge.renew(&[ask.id], 600_000).await;
        }
        let charge = match chance.below(8) {
            0 => Charge::Void,
            _ => Charge::Exact(Amounts {
                requests: 1,
                tokens: chance.below(grant.held.tokens as u64 + 1) as i64,
                nano_usd: 0,
            }),
        };
        for _ in 0..1 + chance.below(3) {
            self.count_one();
            let settlement = Settlement {
                id: ask.id,
                charge,
                event: event(ask.id.0, *key, UnixMs::now()),
                further: Vec::new(),
            };
            settle_surely(edge, settlement).await;
        }
        let charged = charge.of(grant.held).tokens;
        self.charged.fetch_add(charged, Ordering::Relaxed);
    }
}

/// Until it is answered, as the settler does.
async fn settle_surely(edge: &RedisStore, settlement: Settlement) {
    loop {
        match edge.settle(settlement.clone()).await {
            Err(StoreError::Unavailable(_)) => {}
            Err(fault) => panic!("{fault}"),
            Ok(Settled::Late { .. }) => panic!("no lease ran out"),
            Ok(Settled::Applied { .. } | Settled::Already) => return,
        }
    }
}

/// Two edges, a group of keys; the second edge behind the proxy.
async fn world(server: &RedisServer, proxy: &FaultProxy) -> World {
    let edges = [edge(server.url()), edge(server.url_at(proxy.addr()))];
    for edge in &edges {
        while edge.ping().await.is_err() {
            tokio::task::yield_now().await;
        }
    }
    let group = GroupRecord {
        id: GroupId(Uuid::new_v4()),
        name: String::from("team"),
        quotas: tokens(limit()),
        allowed_pools: Vec::new(),
        allowed_models: Vec::new(),
        version: 0,
        created_at: UnixMs(0),
        updated_at: UnixMs(0),
    };
    edges[0]
        .put_group(group.clone(), audit("group"))
        .await
        .unwrap();
    let claim = |scope, limit| ScopeClaim {
        scope,
        quotas: tokens(limit),
        rates: Rates::default(),
    };
    let mut keys = Vec::new();
    for n in 0..KEYS {
        let record = KeyRecord {
            group: Some(group.id),
            ..key_record(Uuid::new_v4())
        };
        let record = edges[n % 2]
            .create_key(record, audit("create"))
            .await
            .unwrap();
        let own = claim(Scope::Key(record.id), limit() / 2);
        keys.push((record.id, vec![own, claim(Scope::Group(group.id), limit())]));
    }
    World {
        edges,
        keys,
        charged: AtomicI64::new(0),
        operations: AtomicU64::new(0),
        granted: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        unanswered: AtomicU64::new(0),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_history_of_two_edges_breaks_an_invariant() {
    let server = tokio::task::spawn_blocking(RedisServer::start)
        .await
        .unwrap();
    let proxy = FaultProxy::start(server.address());
    let world = Arc::new(world(&server, &proxy).await);
    let mut chance = Chance::from_env();
    let exchanges = EXCHANGES * soak();
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (world, mut chance) = (world.clone(), chance.fork());
            tokio::spawn(async move {
                for _ in 0..exchanges {
                    world.exchange(&mut chance).await;
                }
            })
        })
        .collect();
    let running = || tasks.iter().any(|task| !task.is_finished());
    while running() {
        tokio::time::sleep(Duration::from_millis(200)).await;
        match chance.below(3) {
            0 => drop(server.command(&["SCRIPT", "FLUSH"])),
            1 => proxy.swallow_reply_to("EVALSHA"),
            _ => {}
        }
        // As a running edge does: what was given up must not wait until its lease is charged.
        for edge in &world.edges {
            edge.sweep().await.ok();
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    proxy.pass();
    end(&world).await;
}

/// A server that comes back as it was some time before: as a replica that had not received the last
/// writes takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failover_lost_is_booked_again() {
    let server = tokio::task::spawn_blocking(RedisServer::start)
        .await
        .unwrap();
    let proxy = FaultProxy::start(server.address());
    let world = world(&server, &proxy).await;
    let edge = &world.edges[0];
    let (key, claims) = &world.keys[0];
    let asks: Vec<_> = (0..3)
        .map(|_| ask(Uuid::new_v4(), *key, claims.clone(), 10, 90))
        .collect();
    let settle = async |at: usize| {
        let settlement = Settlement {
            id: asks[at].id,
            charge: Charge::Exact(Amounts {
                requests: 1,
                tokens: 70,
                nano_usd: 0,
            }),
            event: event(asks[at].id.0, *key, UnixMs::now()),
            further: Vec::new(),
        };
        settle_surely(edge, settlement).await;
    };
    let reserve = async |at: usize| {
        let reserved = edge.reserve(asks[at].clone()).await.unwrap();
        assert!(matches!(reserved, Reserved::Granted(_)));
    };
    reserve(0).await;
    server.command(&["SAVE"]);
    // Lost: a settlement, a whole exchange, and the hold of one that still runs.
    settle(0).await;
    reserve(1).await;
    settle(1).await;
    reserve(2).await;
    server.kill();
    server.restart();
    eventually("the edge is back", (), async || edge.ping().await).await;
    settle(2).await;
    eventually("all is booked", (210, 0), async || {
        edge.reconcile().await?;
        let standing = edge.standing(claims[0]).await?;
        Ok((standing.used.tokens, standing.held.tokens))
    })
    .await;
    edge.reconcile().await.unwrap();
    let query = UsageQuery {
        key: Some(*key),
        limit: 10,
        ..UsageQuery::default()
    };
    let page = edge.usage_events(query).await.unwrap();
    assert_eq!((page.total, page.items.len()), (3, 3), "each once");
    assert_eq!(edge.totals().await.unwrap().open_reservations, 0);
}

/// It waits for Redis, is sent on its return, and its answer is lost: nobody settles it, and it must
/// not stay held until its lease ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reserve_begun_during_an_outage_is_undone_where_its_answer_is_lost() {
    let server = tokio::task::spawn_blocking(RedisServer::start)
        .await
        .unwrap();
    let proxy = FaultProxy::start(server.address());
    let world = world(&server, &proxy).await;
    let link = LinkOptions {
        timeout: Duration::from_secs(60),
        ..LinkOptions::standalone(server.url_at(proxy.addr()))
    };
    let edge = RedisStore::start(RedisOptions::new(link)).unwrap();
    eventually("it serves", (), async || edge.ping().await).await;
    let there = &world.edges[0];
    let (key, claims) = &world.keys[0];
    let of_group = |id| ask(id, *key, claims.clone(), 10, 90);
    // The server knows the script from then on.
    edge.reserve(of_group(Uuid::new_v4())).await.unwrap();
    let lost = of_group(Uuid::new_v4());
    let mut waits = loop {
        proxy.refuse();
        while edge.ping().await.is_ok() {}
        let mut waits = Box::pin(edge.reserve(lost.clone()));
        match tokio::time::timeout(Duration::ZERO, &mut waits).await {
            Err(_) => break waits,
            // After a second of it calls fail at once; that one was never sent.
            Ok(refused) => assert!(matches!(refused, Err(StoreError::Unavailable(_)))),
        }
        proxy.pass();
        eventually("it serves", (), async || edge.ping().await).await;
    };
    proxy.swallow_every_reply_to(&lost.subject.request_id);
    let refused = tokio::select! {
        refused = &mut waits => refused,
        () = until_lost(&proxy) => {
            proxy.refuse();
            waits.await
        }
    };
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    let held = there.standing(claims[0]).await.unwrap().held.tokens;
    assert_eq!(held, 200, "the first, and the one nobody heard of");

    proxy.pass();
    eventually("it is undone", 100, async || {
        edge.sweep().await?;
        Ok(edge.standing(claims[0]).await?.held.tokens)
    })
    .await;
    assert_eq!(edge.standing(claims[0]).await.unwrap().used, Amounts::ZERO);
    let again = there.reserve(lost).await;
    assert!(
        matches!(again, Err(StoreError::Fault(_))),
        "opens nothing: {again:?}"
    );
}

async fn until_lost(proxy: &FaultProxy) {
    while proxy.replies_lost() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// When all is settled and undone, the books, the counters and the history say the same.
async fn end(world: &World) {
    let edge = &world.edges[0];
    eventually("all that was held is back", (0, 0), async || {
        for edge in &world.edges {
            edge.sweep().await?;
        }
        let totals = edge.totals().await?;
        Ok((totals.open_reservations, totals.held.tokens))
    })
    .await;
    let charged = world.charged.load(Ordering::Relaxed);
    let (mut used, mut lost) = (0, 0);
    for (key, claims) in &world.keys {
        let standings = [
            edge.standing(claims[0]).await.unwrap(),
            edge.standing(claims[1]).await.unwrap(),
        ];
        world.check(&standings);
        used += standings[0].used.tokens;
        let query = UsageQuery {
            key: Some(*key),
            limit: 1_000_000,
            ..UsageQuery::default()
        };
        let page = edge.usage_events(query).await.unwrap();
        let booked: i64 = page.items.iter().map(|event| event.total_tokens).sum();
        let of_leases = |event: &&UsageEvent| event.reason.as_deref() == Some("lease_expired");
        lost += page.items.iter().filter(of_leases).count();
        assert_eq!(booked, standings[0].used.tokens, "I5");
    }
    let group = edge.standing(world.keys[0].1[1]).await.unwrap();
    assert_eq!(group.used.tokens, used, "the group is the sum of its keys");
    assert_eq!(
        lost, 0,
        "leases that ran out, though all was settled or undone"
    );
    assert_eq!(used, charged, "what callers settled is what was charged");
    println!(
        "{} operations: {} granted, {} refused, {} unanswered, {charged} tokens charged: no violation",
        world.operations.load(Ordering::Relaxed),
        world.granted.load(Ordering::Relaxed),
        world.refused.load(Ordering::Relaxed),
        world.unanswered.load(Ordering::Relaxed),
    );
}

async fn eventually<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: T,
    mut read: impl AsyncFnMut() -> StoreResult<T>,
) {
    let mut last = None;
    for _ in 0..300 {
        if let Ok(value) = read().await {
            if value == expected {
                return;
            }
            last = Some(value);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what}: {last:?} where {expected:?} was expected");
}
