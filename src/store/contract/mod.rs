//! The suite that every engine passes: one behaviour, all engines, on a clock the tests move.
//!
//! A new engine adds its `Harness` constructor and one line to `on_every_engine!`.

use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

use self::engines::Engine;
use super::movable::MovableStore;
use super::{
    GroupRecord, LostReservation, Settlement, Store, SumBy, SumQuery, UsageEvent, UsageQuery,
};
use crate::keys::{KeyHash, KeyId, KeyRecord};
use crate::quota::{
    Admission, Amounts, Ask, Charge, Grant, GroupId, Limit, LimitKind, Period, Quotas, Rates,
    Reserved, Scope, ScopeClaim, Settled, Standing,
};
use crate::time::{Clock, DAY_MS, Moment, UnixMs};

mod alike;
mod backup;
mod batch;
#[path = "../../../tests/support/chance.rs"]
mod chance;
mod crash;
#[path = "../../../tests/support/engines.rs"]
mod engines;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "../../../tests/support/fault_proxy.rs"]
mod fault_proxy;
mod file;
mod handed;
mod invariants;
mod keys;
mod leases;
mod moves;
mod owned;
mod quota;
mod rates;
#[path = "../../../tests/support/records.rs"]
pub(super) mod records;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "../../../tests/support/redis_cluster.rs"]
pub(super) mod redis_cluster;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "../../../tests/support/redis_sentinel.rs"]
pub(super) mod redis_sentinel;
#[path = "../../../tests/support/redis_server.rs"]
pub(super) mod redis_server;
mod sums;
mod usage;
mod users;

use records::{audit, event, key_record};

/// Saturday, 2026-11-21T02:44:59.123Z.
const BEGIN: i64 = 1_795_229_099_123;

/// Runs each behaviour on each engine. Those that are `handed too` run once more over books that another
/// process has; the others sweep or prune, which is that process's work.
macro_rules! on_every_engine {
    (handed too: $($handed:ident),* $(,)?; $($here:ident),* $(,)?) => {
        crate::store::contract::on_every_engine!($($handed,)* $($here),*);
        crate::store::contract::on_engine!(handed: $($handed),*);
    };
    ($($behaviour:ident),* $(,)?) => {
        crate::store::contract::on_engine!(embedded: $($behaviour),*);
        crate::store::contract::on_engine!(redis: $($behaviour),*);
    };
}
use on_every_engine;

/// Runs each behaviour on one engine.
macro_rules! on_engine {
    ($engine:ident: $($behaviour:ident),* $(,)?) => {
        mod $engine {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                super::$behaviour(crate::store::contract::Harness::$engine().await).await;
            })*
        }
    };
}
use on_engine;

#[derive(Clone)]
struct TestClock(Arc<Mutex<Moment>>);

impl TestClock {
    fn advance(&self, ms: i64) {
        let mut now = self.0.lock();
        now.wall = now.wall.plus_ms(ms);
        now.steady_ms += ms;
    }

    /// The wall clock is set; no time passes.
    fn jump(&self, ms: i64) {
        let mut now = self.0.lock();
        now.wall = now.wall.plus_ms(ms);
    }

    fn now(&self) -> UnixMs {
        self.0.lock().wall
    }

    /// As a store takes it.
    fn reading(&self) -> Clock {
        let clock = self.clone();
        Arc::new(move || *clock.0.lock())
    }
}

/// One store under test.
struct Harness {
    store: Arc<dyn Store>,
    clock: TestClock,
    engine: Engine,
    policy: LostReservation,
    /// The store that has the books, where they were handed over.
    after: Option<Arc<MovableStore>>,
}

impl Harness {
    async fn embedded() -> Harness {
        Harness::on(Engine::embedded()).await
    }

    async fn redis() -> Harness {
        Harness::on(Engine::redis().await).await
    }

    async fn on(engine: Engine) -> Harness {
        let clock = TestClock(Arc::new(Mutex::new(Moment::at(BEGIN))));
        let policy = LostReservation::Charge;
        let store = engine.open(clock.reading(), policy).await;
        Harness {
            store,
            clock,
            engine,
            policy,
            after: None,
        }
    }

    /// Refusals and failed answers by their codes, of all days and of today whole.
    async fn error_counts(&self, key: Option<KeyId>) -> Vec<(String, i64)> {
        let today = self.clock.now().0.div_euclid(DAY_MS);
        let query = SumQuery {
            key,
            since: UnixMs(0),
            until: UnixMs((today + 1) * DAY_MS),
            by: SumBy::ErrorCode,
        };
        let sums = self.store.usage_sums(query).await.unwrap();
        sums.into_iter().map(|sum| (sum.name, sum.errors)).collect()
    }

    /// Another store, empty, with the same clock.
    async fn beside(&self, engine: Engine) -> Harness {
        Harness {
            store: engine.open(self.clock.reading(), self.policy).await,
            clock: self.clock.clone(),
            engine,
            policy: self.policy,
            after: None,
        }
    }

    /// An orderly stop and a new start.
    async fn restart(&mut self) {
        self.store.close().await;
        match self.after.take() {
            Some(after) => {
                after.close().await;
                self.hand_over_anew().await;
            }
            None => self.store = self.engine.open(self.clock.reading(), self.policy).await,
        }
    }

    /// The process dies, and its reservations with it: the next store of a file finds them there, on
    /// Redis another edge ends them once their leases have run out.
    async fn crash(&mut self) {
        self.engine.die();
        if !self.engine.is_embedded() {
            self.clock.advance(60_000);
        }
        self.store = self.engine.open(self.clock.reading(), self.policy).await;
        if !self.engine.is_embedded() {
            self.store.sweep().await.unwrap();
        }
    }

    async fn key(&self, quotas: Quotas) -> Caller {
        let record = KeyRecord {
            quotas,
            created_at: self.clock.now(),
            ..key_record(Uuid::new_v4())
        };
        let record = self.store.create_key(record, audit("create")).await;
        let record = record.unwrap();
        Caller {
            claims: vec![ScopeClaim {
                scope: Scope::Key(record.id),
                quotas,
                rates: Rates::default(),
            }],
            record,
        }
    }

    async fn group(&self, quotas: Quotas) -> Arc<GroupRecord> {
        let record = GroupRecord {
            id: GroupId(Uuid::new_v4()),
            name: String::from("team"),
            quotas,
            allowed_pools: Vec::new(),
            allowed_models: Vec::new(),
            version: 0,
            created_at: self.clock.now(),
            updated_at: self.clock.now(),
        };
        self.store.put_group(record, audit("group")).await.unwrap()
    }

    /// The caller as a member of this group, or of none.
    async fn moved(&self, caller: &Caller, group: Option<&Arc<GroupRecord>>) -> Caller {
        let mut record = (*caller.record).clone();
        record.group = group.map(|group| group.id);
        let record = self.store.update_key(record, audit("move")).await.unwrap();
        let mut claims = caller.claims[..1].to_vec();
        claims.extend(group.map(|group| ScopeClaim {
            scope: Scope::Group(group.id),
            quotas: group.quotas,
            rates: Rates::default(),
        }));
        Caller { record, claims }
    }

    async fn reserve(&self, ask: &Ask) -> Reserved {
        self.store.reserve(ask.clone()).await.unwrap()
    }

    async fn granted(&self, ask: &Ask) -> Grant {
        match self.reserve(ask).await {
            Reserved::Granted(grant) => grant,
            other => panic!("not granted: {other:?}"),
        }
    }

    async fn short(&self, ask: &Ask) -> crate::quota::Shortage {
        match self.reserve(ask).await {
            Reserved::Short(shortage) => *shortage,
            other => panic!("not refused: {other:?}"),
        }
    }

    async fn settle(&self, ask: &Ask, charge: Charge) -> Settled {
        let event = event(ask.id.0, ask.subject.key, self.clock.now());
        let settlement = Settlement::new(ask.id, charge, event);
        self.store.settle(settlement).await.unwrap()
    }

    async fn assert_sound(&self) {
        let found = self.store.invariants().await.unwrap();
        let ids: Vec<&str> = found.checks.iter().map(|check| &*check.id).collect();
        assert_eq!(ids, ["I1", "I2", "I3", "I4", "I5"]);
        for check in found.checks {
            assert!(check.holds && check.violations == 0, "{check:?}");
        }
    }

    async fn standing(&self, caller: &Caller) -> Standing {
        self.store.standing(caller.claims[0]).await.unwrap()
    }

    async fn used_and_held(&self, caller: &Caller) -> (i64, i64) {
        let standing = self.standing(caller).await;
        (standing.used.tokens, standing.held.tokens)
    }
}

/// A key and the limits its requests are held to.
#[derive(Clone)]
struct Caller {
    record: Arc<KeyRecord>,
    claims: Vec<ScopeClaim>,
}

impl Caller {
    /// Asks for 1 request, `input` + `output` tokens, at 1 nano-USD an output token.
    fn ask(&self, input: i64, output: i64) -> Ask {
        let (key, scopes) = (self.record.id, self.claims.clone());
        Ask {
            key_version: self.record.version,
            ..records::ask(Uuid::new_v4(), key, scopes, input, output)
        }
    }

    fn with_rates(mut self, rates: Rates) -> Caller {
        self.claims[0].rates = rates;
        self
    }
}

fn used(tokens: i64) -> Charge {
    Charge::Exact(Amounts {
        requests: 1,
        tokens,
        nano_usd: tokens,
    })
}

fn tokens(limit: i64, period: Period) -> Quotas {
    Quotas {
        tokens: Limit { limit, period },
        ..Quotas::default()
    }
}

fn refusal(key: KeyId, now: UnixMs) -> UsageEvent {
    UsageEvent {
        response_status: 429,
        is_error: true,
        error_code: Some(String::from("QUOTA_EXCEEDED")),
        model: None,
        ..event(Uuid::new_v4(), key, now)
    }
}

fn all_of(caller: &Caller) -> UsageQuery {
    UsageQuery {
        key: Some(caller.record.id),
        limit: 1_000,
        ..Default::default()
    }
}
