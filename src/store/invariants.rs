//! What must hold of the books, checked on the books as they are.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::keys::KeyId;
use crate::quota::{Amounts, ReservationId, Scope, Standing};

/// Violations that one check names; more are counted.
pub const MAX_NAMED: usize = 20;

/// Sweeps come every second: one that is this late does not come.
pub const LATE_SWEEP_MS: i64 = 5_000;

const RESOURCES: [&str; 3] = ["requests", "tokens", "nano-USD"];

/// One invariant, checked now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// `I1` to `I5`.
    pub id: Cow<'static, str>,
    pub says: Cow<'static, str>,
    pub holds: bool,
    /// Scopes, reservations or events looked at.
    pub checked: i64,
    pub violations: i64,
    /// The first of them, in words.
    pub examples: Vec<String>,
}

/// The sums of the books, and what must hold of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invariants {
    /// Settled in the current windows, over all keys.
    pub settled: Amounts,
    pub held: Amounts,
    pub open_reservations: i64,
    pub checks: Vec<Check>,
}

impl Check {
    pub fn new(id: &'static str, says: &'static str) -> Check {
        Check {
            id: id.into(),
            says: says.into(),
            holds: true,
            checked: 0,
            violations: 0,
            examples: Vec::new(),
        }
    }

    /// One more that was looked at; `violation` says what is wrong with it.
    pub fn look(&mut self, violation: Option<String>) {
        self.checked += 1;
        let Some(violation) = violation else { return };
        self.holds = false;
        self.violations += 1;
        self.name(|| violation);
    }

    /// Something worth telling that is no violation by itself.
    fn name(&mut self, tell: impl FnOnce() -> String) {
        if self.examples.len() < MAX_NAMED {
            self.examples.push(tell());
        }
    }
}

/// The five checks, for an engine to feed with what it finds in its books.
#[derive(Debug)]
pub struct Inspection {
    found: Invariants,
    never_oversold: Check,
    debt_is_booked: Check,
    resolved_once: Check,
    nothing_left_held: Check,
    books_balance: Check,
}

impl Default for Inspection {
    fn default() -> Self {
        Inspection {
            found: Invariants::default(),
            never_oversold: Check::new(
                "I1",
                "settled + held is within every limit, but for what I2 tells of",
            ),
            debt_is_booked: Check::new(
                "I2",
                "what was used beyond a limit was booked; the examples are scopes in debt",
            ),
            resolved_once: Check::new(
                "I3",
                "no reservation has two usage events, or one while it is open",
            ),
            nothing_left_held: Check::new("I4", "nothing is held past its lease"),
            books_balance: Check::new("I5", "the counters of every key are the sum of its usage"),
        }
    }
}

impl Inspection {
    /// The open reservations, and what they hold together.
    pub fn open(&mut self, reservations: i64, held: Amounts) {
        self.found.open_reservations = reservations;
        self.found.held = held;
    }

    /// The counters of one scope under its limits; `booked` is everything it ever settled.
    pub fn scope(&mut self, standing: &Standing, booked: Amounts) {
        if let Scope::Key(_) = standing.scope {
            self.found.settled = self.found.settled.plus(standing.used);
        }
        let limits = standing.quotas.to_array();
        let (used, held) = (standing.used.to_array(), standing.held.to_array());
        for (at, booked) in booked.to_array().into_iter().enumerate() {
            let (limit, used, held) = (limits[at].limit, used[at], held[at]);
            if limit == 0 {
                continue;
            }
            let tell = |rest: String| {
                let (scope, resource) = (named(standing.scope), RESOURCES[at]);
                format!("{scope}: {used} {resource} used of {limit}, {rest}")
            };
            let in_debt = used > limit;
            let beyond = used.saturating_add(held) > limit;
            let oversold = beyond && !in_debt;
            self.never_oversold.look(oversold.then(|| {
                tell(format!(
                    "{held} held: oversold, unless an answer outgrew its hold or the limit was \
                     lowered while others run"
                ))
            }));
            let unexplained = in_debt && used > booked;
            let violation = unexplained.then(|| tell(format!("but {booked} ever booked")));
            self.debt_is_booked.look(violation);
            if in_debt && !unexplained {
                let debt = used.saturating_sub(limit);
                self.debt_is_booked.name(|| tell(format!("{debt} of debt")));
            }
        }
    }

    /// An open reservation, and for how long its lease has been over.
    pub fn reservation(&mut self, id: ReservationId, overdue_ms: i64) {
        let late = overdue_ms > LATE_SWEEP_MS;
        let tell = || format!("reservation {}: {overdue_ms} ms past its lease", id.0);
        self.nothing_left_held.look(late.then(tell));
    }

    /// A usage event of this key; what is wrong about it in the sight of I3, if anything.
    pub fn event(&mut self, id: Uuid, key: KeyId, wrong: Option<&str>) {
        let tell = |wrong| format!("event {id} of key {}: {wrong}", key.0);
        self.resolved_once.look(wrong.map(tell));
    }

    /// What the counters of a key say was ever booked, and what its usage comes to.
    pub fn balance(&mut self, key: KeyId, counters: Amounts, usage: Amounts) {
        let tell = || {
            let [c, u] = [counters.to_array(), usage.to_array()];
            let differ = (0..3).filter(|&at| c[at] != u[at]);
            let parts = differ.map(|at| format!("{} of {} {}", c[at], u[at], RESOURCES[at]));
            let parts: Vec<String> = parts.collect();
            format!("key {}: counted {}", key.0, parts.join(", "))
        };
        self.books_balance.look((counters != usage).then(tell));
    }

    pub fn done(self) -> Invariants {
        Invariants {
            checks: vec![
                self.never_oversold,
                self.debt_is_booked,
                self.resolved_once,
                self.nothing_left_held,
                self.books_balance,
            ],
            ..self.found
        }
    }
}

fn named(scope: Scope) -> String {
    match scope {
        Scope::Key(id) => format!("key {}", id.0),
        Scope::Group(id) => format!("group {}", id.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::{GroupId, Limit, Quotas, Rates};

    fn standing(scope: Scope, used: i64, held: i64) -> Standing {
        let tokens = |tokens| Amounts {
            tokens,
            ..Amounts::ZERO
        };
        let limit = Limit {
            limit: 100,
            ..Limit::default()
        };
        Standing {
            scope,
            quotas: Quotas {
                tokens: limit,
                ..Quotas::default()
            },
            rates: Rates::default(),
            used: tokens(used),
            held: tokens(held),
            running: 0,
            requests_in_bucket: 0,
            tokens_in_bucket: 0,
            resets_at: [None; 3],
        }
    }

    #[test]
    fn an_oversold_scope_is_no_scope_in_debt() {
        let key = Scope::Key(KeyId(Uuid::nil()));
        let group = Scope::Group(GroupId(Uuid::nil()));
        let booked = |tokens| Amounts {
            tokens,
            ..Amounts::ZERO
        };
        let mut inspection = Inspection::default();
        inspection.scope(&standing(key, 60, 40), booked(60));
        inspection.scope(&standing(group, 70, 40), booked(70));
        inspection.scope(&standing(key, 130, 0), booked(130));
        inspection.scope(&standing(key, 150, 0), booked(140));
        let found = inspection.done();
        assert_eq!(found.settled.tokens, 60 + 130 + 150, "keys alone");
        let [oversold, debt, ..] = &found.checks[..] else {
            panic!("{found:?}");
        };
        // Three resources, one of them limited.
        assert_eq!((oversold.checked, oversold.violations), (4, 1));
        assert!(oversold.examples[0].contains("group"), "{oversold:?}");
        assert!(oversold.examples[0].contains("40 held"), "{oversold:?}");
        assert_eq!((debt.holds, debt.violations), (false, 1));
        assert!(debt.examples[0].contains("30 of debt"), "{debt:?}");
        assert!(debt.examples[1].contains("but 140 ever booked"), "{debt:?}");
    }

    #[test]
    fn violations_are_counted_and_the_first_are_named() {
        let mut inspection = Inspection::default();
        for n in 0..30 {
            let id = ReservationId(Uuid::from_u128(n));
            inspection.reservation(id, LATE_SWEEP_MS + i64::from(n >= 5));
        }
        let check = &inspection.done().checks[3];
        assert_eq!(
            (&*check.id, check.checked, check.violations),
            ("I4", 30, 25)
        );
        assert_eq!(check.examples.len(), MAX_NAMED);
    }
}
