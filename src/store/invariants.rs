//! What must hold of the books, checked on the books as they are.

use serde::Serialize;

use crate::quota::Amounts;

/// Violations that one check names; more are counted.
pub const MAX_NAMED: usize = 20;

/// One invariant, checked now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// `I1` to `I5`.
    pub id: &'static str,
    pub says: &'static str,
    pub holds: bool,
    /// Scopes, reservations or events looked at.
    pub checked: i64,
    pub violations: i64,
    /// The first of them, in words.
    pub examples: Vec<String>,
}

/// The sums of the books, and what must hold of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
            id,
            says,
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
        if self.examples.len() < MAX_NAMED {
            self.examples.push(violation);
        }
    }
}
