//! Random steps go to the ledger, and the history alone says what it must come to.

use proptest::prelude::*;
use quota_proxy::keys::KeyId;
use quota_proxy::quota::ledger::Ledger;
use quota_proxy::quota::{Ask, Charge, GroupId, Period, Rates, Reserved, Scope, ScopeClaim};
use quota_proxy::time::{DAY_MS, Moment};
use uuid::Uuid;

use super::steps::{BEGIN, Step, amounts, cases, quotas, step};
use crate::records::ask;

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
