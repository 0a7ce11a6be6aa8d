//! Random steps go to a store, on each engine, and to a pure ledger; both must answer the same and
//! stand the same after each.

mod ledger;
mod steps;

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use quota_proxy::keys::{KeyId, KeyRecord};
use quota_proxy::quota::ledger::Ledger;
use quota_proxy::quota::{
    Amounts, Ask, Charge, GroupId, LostReservation, Period, Quotas, Rates, Scope, ScopeClaim,
    Settled,
};
use quota_proxy::store::{GroupRecord, Settlement, Store};
use quota_proxy::time::{Clock, DAY_MS, Moment, UnixMs};
use uuid::Uuid;

use self::steps::{BEGIN, Step, amounts, cases, quotas, step};
use crate::engines::Engine;
use crate::records::{ask, audit, event, key_record};
use crate::redis_server::RedisServer;

/// The engine and its oracle, side by side.
struct Pair {
    store: Arc<dyn Store>,
    oracle: Ledger,
    clock: Arc<Mutex<Moment>>,
    engine: Engine,
    policy: LostReservation,
    keys: [KeyId; 2],
    /// Of the two keys, and of the group.
    claims: [ScopeClaim; 3],
    asked: Vec<(i64, Ask)>,
    /// Per-minute buckets start full in a new process, more or less: not compared then.
    with_rates: bool,
    /// What a new process resolved, which its first sweep tells.
    lost_at_open: usize,
}

impl Pair {
    async fn new(engine: Engine, policy: LostReservation, with_rates: bool) -> Pair {
        let clock = Arc::new(Mutex::new(Moment::at(BEGIN)));
        let store = engine.open(reading(&clock), policy).await;
        let group = GroupRecord {
            id: GroupId(Uuid::new_v4()),
            name: String::from("group"),
            quotas: Quotas::default(),
            allowed_pools: Vec::new(),
            allowed_models: Vec::new(),
            version: 0,
            created_at: UnixMs(0),
            updated_at: UnixMs(0),
        };
        store.put_group(group.clone(), audit("test")).await.unwrap();
        let keys = [KeyId(Uuid::new_v4()), KeyId(Uuid::new_v4())];
        for key in keys {
            let record = KeyRecord {
                group: Some(group.id),
                ..key_record(key.0)
            };
            store.create_key(record, audit("test")).await.unwrap();
        }
        let scopes = [
            Scope::Key(keys[0]),
            Scope::Key(keys[1]),
            Scope::Group(group.id),
        ];
        let claims = scopes.map(|scope| ScopeClaim {
            scope,
            quotas: quotas(3_000, 0, Period::Daily),
            rates: Rates::default(),
        });
        Pair {
            store,
            oracle: Ledger::default(),
            clock,
            engine,
            policy,
            keys,
            claims,
            asked: Vec::new(),
            with_rates,
            lost_at_open: 0,
        }
    }

    fn now(&self) -> Moment {
        *self.clock.lock().unwrap()
    }

    fn ago(&self, ago: usize) -> Option<Ask> {
        let at = self.asked.len().checked_sub(ago + 1)?;
        let (since, ask) = &self.asked[at];
        // What is older may be forgotten, by each engine in its own time.
        (self.now().steady_ms - since < DAY_MS).then(|| ask.clone())
    }

    async fn take(&mut self, step: &Step) {
        match step.clone() {
            Step::Reserve {
                key,
                grouped,
                input,
                output,
                admission,
            } => {
                let mut scopes = vec![self.claims[key]];
                if grouped {
                    scopes.push(self.claims[2]);
                }
                let mut ask = ask(Uuid::new_v4(), self.keys[key], scopes, input, output);
                ask.admission = admission;
                self.asked.push((self.now().steady_ms, ask.clone()));
                self.reserve(ask).await;
            }
            Step::Repeat { ago } => {
                if let Some(ask) = self.ago(ago) {
                    self.reserve(ask).await;
                }
            }
            Step::Settle { ago, tokens } => self.settle(ago, Charge::Exact(amounts(tokens))).await,
            Step::AtLeast { ago, tokens } => {
                self.settle(ago, Charge::AtLeast(amounts(tokens))).await;
            }
            Step::Void { ago } => self.settle(ago, Charge::Void).await,
            Step::TopUp { ago, tokens } => self.top_up(ago, tokens).await,
            Step::Renew { ago } => {
                if let Some(ask) = self.ago(ago) {
                    self.store.renew(&[ask.id], 60_000).await.unwrap();
                    self.oracle.renew(&[ask.id], 60_000, self.now());
                }
            }
            Step::Sweep => {
                let lost = self.oracle.sweep(self.now(), self.policy).len();
                let before = std::mem::take(&mut self.lost_at_open);
                assert_eq!(self.store.sweep().await.unwrap(), before + lost);
            }
            Step::Advance { ms } => {
                let mut now = self.clock.lock().unwrap();
                now.wall.0 += ms;
                now.steady_ms += ms;
            }
            Step::Jump { ms } => self.clock.lock().unwrap().wall.0 += ms,
            Step::Limit {
                scope,
                tokens,
                usd,
                period,
            } => {
                self.claims[scope].quotas = quotas(tokens, usd, period);
            }
            Step::Rates { key, rates } => self.set_rates(key, rates),
            Step::Reset { scope } => self.reset(scope).await,
            // An embedded store begins with full buckets, more or less.
            Step::Restart | Step::Crash if self.with_rates && self.engine.is_embedded() => {}
            Step::Restart => self.restart().await,
            Step::Crash => self.crash().await,
        }
    }

    fn set_rates(&mut self, key: usize, rates: Rates) {
        let concurrency = rates.concurrency;
        self.claims[key].rates = if self.with_rates {
            rates
        } else {
            Rates {
                concurrency,
                ..Rates::default()
            }
        };
    }

    async fn reserve(&mut self, ask: Ask) {
        let expected = self.oracle.reserve(&ask, self.now());
        let answer = self.store.reserve(ask).await;
        match (answer, expected) {
            (Ok(answer), Ok(expected)) => {
                assert_eq!(format!("{answer:?}"), format!("{expected:?}"));
            }
            (answer, expected) => {
                let agree = answer.is_err() && expected.is_err();
                assert!(agree, "{answer:?} where {expected:?} was expected");
            }
        }
    }

    async fn settle(&mut self, ago: usize, charge: Charge) {
        let Some(ask) = self.ago(ago) else { return };
        let now = self.now();
        let expected: Settled = self.oracle.settle(ask.id, charge, now).settled;
        let event = event(ask.id.0, ask.subject.key, now.wall);
        let settlement = Settlement {
            id: ask.id,
            charge,
            event,
            further: Vec::new(),
        };
        assert_eq!(self.store.settle(settlement).await.unwrap(), expected);
    }

    async fn top_up(&mut self, ago: usize, tokens: i64) {
        let Some(ask) = self.ago(ago) else { return };
        let more = Amounts {
            requests: 0,
            ..amounts(tokens)
        };
        let expected = self.oracle.top_up(ask.id, &ask.scopes, more, self.now());
        let answer = self.store.top_up(ask.id, &ask.scopes, more).await;
        assert_eq!(answer.unwrap(), expected);
    }

    async fn reset(&mut self, scope: usize) {
        let scope = self.claims[scope].scope;
        if let Some(was) = self.oracle.counters(scope).copied() {
            self.oracle.reset_used(scope, &was);
        }
        self.store.reset_used(scope, audit("test")).await.unwrap();
    }

    /// A new embedded store: what was open is resolved by the policy, the rest is as it was.
    fn die(&mut self) {
        let now = self.now();
        let mut next = Ledger::default();
        for claim in &self.claims {
            if let Some(mut counters) = self.oracle.counters(claim.scope).copied() {
                counters.running = 0;
                for count in &mut counters.counts {
                    count.held = 0;
                }
                next.restore_counters(claim.scope, counters);
            }
        }
        let asked = self.asked.iter();
        let mut open: Vec<_> = asked
            .filter_map(|(_, ask)| self.oracle.open(ask.id))
            .collect();
        open.sort_by_key(|open| open.serial);
        for open in open {
            next.restore_reservation(open.reservation.clone(), open.serial);
        }
        self.lost_at_open = next.abandon_all(now, self.policy).len();
        self.oracle = next;
    }

    /// An orderly stop and a new start. On Redis nothing ends with an edge, and what the server
    /// knew of scripts is lost.
    async fn restart(&mut self) {
        match &self.engine {
            Engine::Embedded(_) => {
                self.store.close().await;
                self.store = self.engine.open(reading(&self.clock), self.policy).await;
                self.die();
            }
            Engine::Redis(server) => {
                server.command(&["SCRIPT", "FLUSH"]);
            }
        }
    }

    /// The next store opens a copy of the files as they are now, the old one never hears of it.
    async fn crash(&mut self) {
        if !self.engine.is_embedded() {
            return self.restart().await;
        }
        self.store.ping().await.unwrap();
        self.engine.die();
        self.store = self.engine.open(reading(&self.clock), self.policy).await;
        self.die();
    }

    async fn compare(&self) {
        for claim in &self.claims {
            let standing = self.store.standing(*claim).await.unwrap();
            assert_eq!(standing, self.oracle.standing(claim, self.now()));
        }
    }

    async fn compare_totals(&self) {
        let totals = self.store.totals().await.unwrap();
        let (open, held) = self.oracle.totals();
        assert_eq!((totals.open_reservations, totals.held), (open as i64, held));
    }
}

fn run(engine: Engine, steps: &[Step], policy: LostReservation, with_rates: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut pair = Pair::new(engine, policy, with_rates).await;
        for step in steps {
            pair.take(step).await;
            pair.compare().await;
            if pair.engine.is_embedded() {
                pair.compare_totals().await;
            }
        }
        pair.compare_totals().await;
    });
}

fn reading(clock: &Arc<Mutex<Moment>>) -> Clock {
    let clock = Arc::clone(clock);
    Arc::new(move || *clock.lock().unwrap())
}

fn policy(release: bool) -> LostReservation {
    if release {
        LostReservation::Release
    } else {
        LostReservation::Charge
    }
}

proptest! {
    #![proptest_config(cases(30))]
    #[test]
    fn the_store_agrees_with_the_ledger_through_restarts(
        steps in prop::collection::vec(step(), 1..1_200), release in any::<bool>()
    ) {
        run(Engine::embedded(), &steps, policy(release), false);
    }
}

proptest! {
    #![proptest_config(cases(140))]
    #[test]
    fn the_store_agrees_with_the_ledger_under_rates(
        steps in prop::collection::vec(step(), 1..1_200)
    ) {
        run(Engine::embedded(), &steps, LostReservation::Charge, true);
    }
}

proptest! {
    #![proptest_config(cases(6))]
    #[test]
    fn redis_agrees_with_the_ledger(
        steps in prop::collection::vec(step(), 1..1_200), release in any::<bool>()
    ) {
        run(Engine::Redis(Box::new(RedisServer::start())), &steps, policy(release), true);
    }
}
