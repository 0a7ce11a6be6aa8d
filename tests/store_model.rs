//! Random steps go to the embedded store and to a pure ledger; both must answer the same and stand
//! the same after each. And the ledger itself is held against a book of naive sums.

#[cfg(test)]
#[path = "support/records.rs"]
mod records;
#[cfg(test)]
#[path = "support/soak.rs"]
mod soak;

#[cfg(test)]
mod model {
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use quota_proxy::keys::KeyId;
    use quota_proxy::quota::ledger::Ledger;
    use quota_proxy::quota::{
        Admission, Amounts, Ask, Charge, GroupId, Limit, LostReservation, Period, Quotas, Rates,
        Reserved, Scope, ScopeClaim, Settled,
    };
    use quota_proxy::store::embedded::{EmbeddedOptions, EmbeddedStore};
    use quota_proxy::store::{GroupRecord, Settlement, Store};
    use quota_proxy::time::{DAY_MS, Moment, UnixMs};
    use uuid::Uuid;

    use super::records::{ask, audit, event, key_record};
    use super::soak::soak;

    const BEGIN: i64 = 1_795_229_099_123;

    /// One step. Reservations are named by how long ago they were asked for.
    #[derive(Clone, Debug)]
    enum Step {
        Reserve {
            key: usize,
            grouped: bool,
            input: i64,
            output: i64,
            admission: Admission,
        },
        Repeat {
            ago: usize,
        },
        Settle {
            ago: usize,
            tokens: i64,
        },
        AtLeast {
            ago: usize,
            tokens: i64,
        },
        Void {
            ago: usize,
        },
        TopUp {
            ago: usize,
            tokens: i64,
        },
        Renew {
            ago: usize,
        },
        Sweep,
        Advance {
            ms: i64,
        },
        Jump {
            ms: i64,
        },
        Limit {
            scope: usize,
            tokens: i64,
            usd: i64,
            period: Period,
        },
        Rates {
            key: usize,
            rates: Rates,
        },
        Reset {
            scope: usize,
        },
        Restart,
        Crash,
    }

    fn period() -> impl Strategy<Value = Period> {
        prop_oneof![
            Just(Period::Total),
            Just(Period::Daily),
            Just(Period::Weekly),
            Just(Period::Monthly)
        ]
    }

    fn admission() -> impl Strategy<Value = Admission> {
        prop_oneof![
            4 => Just(Admission::Clamp),
            1 => Just(Admission::Strict),
            1 => Just(Admission::Open)
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        let ago = || 0usize..12;
        prop_oneof![
            30 => (0..2usize, any::<bool>(), 0i64..60, 0i64..400, admission()).prop_map(
                |(key, grouped, input, output, admission)|
                    Step::Reserve { key, grouped, input, output, admission }),
            2 => ago().prop_map(|ago| Step::Repeat { ago }),
            24 => (ago(), 0i64..500).prop_map(|(ago, tokens)| Step::Settle { ago, tokens }),
            3 => (ago(), 0i64..500).prop_map(|(ago, tokens)| Step::AtLeast { ago, tokens }),
            4 => ago().prop_map(|ago| Step::Void { ago }),
            4 => (ago(), 0i64..200).prop_map(|(ago, tokens)| Step::TopUp { ago, tokens }),
            3 => ago().prop_map(|ago| Step::Renew { ago }),
            6 => Just(Step::Sweep),
            8 => (0i64..40_000).prop_map(|ms| Step::Advance { ms }),
            1 => (0i64..2 * DAY_MS).prop_map(|ms| Step::Advance { ms }),
            1 => (-2 * DAY_MS..2 * DAY_MS).prop_map(|ms| Step::Jump { ms }),
            4 => (0..3usize, 0i64..5_000, 0i64..5_000, period()).prop_map(
                |(scope, tokens, usd, period)| Step::Limit { scope, tokens, usd, period }),
            2 => (0..2usize, 0i64..20, 0i64..2_000, 0i64..4).prop_map(
                |(key, requests_per_minute, tokens_per_minute, concurrency)|
                    Step::Rates { key, rates: Rates {
                        requests_per_minute, tokens_per_minute, concurrency } }),
            1 => (0..3usize).prop_map(|scope| Step::Reset { scope }),
            1 => Just(Step::Restart),
            1 => Just(Step::Crash),
        ]
    }

    /// The engine and its oracle, side by side.
    struct Pair {
        store: Arc<EmbeddedStore>,
        oracle: Ledger,
        clock: Arc<Mutex<Moment>>,
        folder: tempfile::TempDir,
        policy: LostReservation,
        keys: [KeyId; 2],
        /// Of the two keys, and of the group.
        claims: [ScopeClaim; 3],
        asked: Vec<Ask>,
        /// Per-minute buckets start full in a new process, more or less: not compared then.
        with_rates: bool,
    }

    impl Pair {
        async fn new(policy: LostReservation, with_rates: bool) -> Pair {
            let folder = tempfile::tempdir().unwrap();
            let clock = Arc::new(Mutex::new(Moment::at(BEGIN)));
            let store = open(folder.path().join("quota.db"), &clock, policy);
            let keys = [KeyId(Uuid::new_v4()), KeyId(Uuid::new_v4())];
            for key in keys {
                store.create_key(key_record(key.0), audit()).await.unwrap();
            }
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
            store.put_group(group.clone(), audit()).await.unwrap();
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
                folder,
                policy,
                keys,
                claims,
                asked: Vec::new(),
                with_rates,
            }
        }

        fn now(&self) -> Moment {
            *self.clock.lock().unwrap()
        }

        fn ago(&self, ago: usize) -> Option<Ask> {
            let at = self.asked.len().checked_sub(ago + 1)?;
            Some(self.asked[at].clone())
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
                    self.asked.push(ask.clone());
                    self.reserve(ask).await;
                }
                Step::Repeat { ago } => {
                    if let Some(ask) = self.ago(ago) {
                        self.reserve(ask).await;
                    }
                }
                Step::Settle { ago, tokens } => {
                    self.settle(ago, Charge::Exact(amounts(tokens))).await
                }
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
                    assert_eq!(self.store.sweep().await.unwrap(), lost);
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
                Step::Rates { key, rates } => {
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
                Step::Reset { scope } => self.reset(scope).await,
                Step::Restart if !self.with_rates => self.restart().await,
                Step::Crash if !self.with_rates => self.crash().await,
                Step::Restart | Step::Crash => {}
            }
        }

        async fn reserve(&mut self, ask: Ask) {
            let expected = self.oracle.reserve(&ask, self.now());
            let answer = self.store.reserve(ask).await;
            match (answer, expected) {
                (Ok(answer), Ok(expected)) => {
                    assert_eq!(format!("{answer:?}"), format!("{expected:?}"));
                }
                (answer, expected) => assert_eq!(answer.is_err(), expected.is_err()),
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
            self.store.reset_used(scope, audit()).await.unwrap();
        }

        /// A new process: what was open is resolved by the policy, the rest is as it was.
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
            let mut open: Vec<_> = self.oracle.all_open().collect();
            open.sort_by_key(|open| open.serial);
            for open in open {
                next.restore_reservation(open.reservation.clone(), open.serial);
            }
            next.abandon_all(now, self.policy);
            self.oracle = next;
        }

        async fn restart(&mut self) {
            self.store.close().await;
            self.store = open(
                self.folder.path().join("quota.db"),
                &self.clock,
                self.policy,
            );
            self.die();
        }

        /// The next store opens a copy of the files as they are now, the old one never hears of it.
        async fn crash(&mut self) {
            self.store.ping().await.unwrap();
            let folder = tempfile::tempdir().unwrap();
            for name in ["quota.db", "quota.db-wal"] {
                std::fs::copy(self.folder.path().join(name), folder.path().join(name)).unwrap();
            }
            self.store = open(folder.path().join("quota.db"), &self.clock, self.policy);
            self.folder = folder;
            self.die();
        }

        async fn compare(&self) {
            for claim in &self.claims {
                let standing = self.store.standing(*claim).await.unwrap();
                assert_eq!(standing, self.oracle.standing(claim, self.now()));
            }
            let totals = self.store.totals().await.unwrap();
            let (open, held) = self.oracle.totals();
            assert_eq!((totals.open_reservations, totals.held), (open as i64, held));
        }
    }

    fn open(
        path: PathBuf,
        clock: &Arc<Mutex<Moment>>,
        policy: LostReservation,
    ) -> Arc<EmbeddedStore> {
        let clock = clock.clone();
        let options = EmbeddedOptions {
            lost_reservation: policy,
            clock: Arc::new(move || *clock.lock().unwrap()),
            ..EmbeddedOptions::default()
        };
        EmbeddedStore::open(&path, options).unwrap()
    }

    fn quotas(tokens: i64, usd: i64, period: Period) -> Quotas {
        let limit = |limit| Limit { limit, period };
        Quotas {
            requests: limit(0),
            tokens: limit(tokens),
            usd: limit(usd),
        }
    }

    fn amounts(tokens: i64) -> Amounts {
        Amounts {
            requests: 1,
            tokens,
            nano_usd: tokens / 2,
        }
    }

    fn run(steps: &[Step], policy: LostReservation, with_rates: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut pair = Pair::new(policy, with_rates).await;
            for step in steps {
                pair.take(step).await;
                pair.compare().await;
            }
        });
    }

    fn cases(cases: u32) -> ProptestConfig {
        ProptestConfig {
            cases: cases * soak(),
            failure_persistence: None,
            max_shrink_iters: 3_000,
            ..ProptestConfig::default()
        }
    }

    proptest! {
        #![proptest_config(cases(30))]
        #[test]
        fn the_store_agrees_with_the_ledger_through_restarts(
            steps in prop::collection::vec(step(), 1..1_200), release in any::<bool>()
        ) {
            let policy = if release { LostReservation::Release } else { LostReservation::Charge };
            run(&steps, policy, false);
        }
    }

    proptest! {
        #![proptest_config(cases(140))]
        #[test]
        fn the_store_agrees_with_the_ledger_under_rates(
            steps in prop::collection::vec(step(), 1..1_200)
        ) {
            run(&steps, LostReservation::Charge, true);
        }
    }

    /// What the ledger should come to, from the history alone: tokens by scope and window.
    #[derive(Default)]
    struct Book {
        /// Scope, start of the window, tokens.
        charged: Vec<(usize, i64, i64)>,
        open: Vec<(Ask, Vec<usize>, i64, i64)>,
    }

    impl Book {
        fn used(&self, scope: usize, window: i64) -> i64 {
            let charged = self.charged.iter();
            charged
                .filter(|(s, w, _)| (*s, *w) == (scope, window))
                .map(|(_, _, n)| n)
                .sum()
        }

        fn held(&self, scope: usize, window: i64) -> i64 {
            let open = self.open.iter();
            open.filter(|(_, scopes, w, _)| scopes.contains(&scope) && *w == window)
                .map(|(_, _, _, n)| n)
                .sum()
        }
    }

    proptest! {
        #![proptest_config(cases(100))]
        #[test]
        fn the_ledger_agrees_with_naive_sums_and_never_oversells(
            steps in prop::collection::vec(step(), 1..1_200), limit in 1i64..3_000
        ) {
            let keys = [KeyId(Uuid::from_u128(1)), KeyId(Uuid::from_u128(2))];
            let scopes = [Scope::Key(keys[0]), Scope::Key(keys[1]), Scope::Group(GroupId(Uuid::from_u128(3)))];
            let claims = scopes.map(|scope| ScopeClaim {
                scope, quotas: quotas(limit, 0, Period::Daily), rates: Rates::default(),
            });
            let (mut ledger, mut book, mut now) = (Ledger::default(), Book::default(), Moment::at(BEGIN));
            for (n, step) in steps.iter().enumerate() {
                let window = now.wall.0.div_euclid(DAY_MS) * DAY_MS;
                match *step {
                    Step::Reserve { key, grouped, input, output, .. } => {
                        let mut of = vec![key];
                        of.extend(grouped.then_some(2));
                        let asked = of.iter().map(|at| claims[*at]).collect();
                        let ask = ask(Uuid::from_u128(n as u128), keys[key], asked, input, output);
                        let fits = of.iter().map(|s| limit - book.used(*s, window) - book.held(*s, window)).min();
                        match ledger.reserve(&ask, now).unwrap() {
                            Reserved::Granted(grant) => {
                                prop_assert_eq!(grant.held.tokens, fits.unwrap().min(input + output));
                                book.open.push((ask, of, window, grant.held.tokens));
                            }
                            Reserved::Short(_) => prop_assert!(fits.unwrap() < input + output.min(1)),
                            Reserved::KeyChanged => unreachable!("the ledger knows no keys"),
                        }
                    }
                    Step::Settle { ago, tokens } if ago < book.open.len() => {
                        let (ask, of, window, _) = book.open.swap_remove(ago);
                        ledger.settle(ask.id, Charge::Exact(amounts(tokens)), now);
                        book.charged.extend(of.iter().map(|scope| (*scope, window, tokens)));
                    }
                    Step::Void { ago } if ago < book.open.len() => {
                        let (ask, ..) = book.open.swap_remove(ago);
                        ledger.settle(ask.id, Charge::Void, now);
                    }
                    Step::Advance { ms } => now = Moment::at(now.wall.0 + ms),
                    _ => {}
                }
                let window = now.wall.0.div_euclid(DAY_MS) * DAY_MS;
                for (at, claim) in claims.iter().enumerate() {
                    let standing = ledger.standing(claim, now);
                    prop_assert_eq!(standing.used.tokens, book.used(at, window));
                    prop_assert_eq!(standing.held.tokens, book.held(at, window));
                }
            }
        }
    }
}
