//! The accounts of one slice: what was drawn ahead, what running exchanges use of it, what has ended.
//!
//! ```text
//!            grant            admit             end               booked
//!  the store ─────▶ unspent ─────────▶ in use ────────▶ waiting ─────────▶ used
//!            ◀─────                 ◀─────────
//!          give back             what was not used
//! ```
//!
//! What the store holds for the slice is never less than unspent + in use + waiting, but for debt:
//! answers that outgrew their holds while nothing unspent could bear it. Pure: no clock, no store.

use crate::quota::{Amounts, ScopeClaim};

/// A resource that no limit rules is admitted freely; what is used of it is told all the same.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    /// Which resources are limited, by a quota or per minute.
    ruled: [bool; 3],
    /// Drawn and not spent; below 0: debt. 0 where not ruled.
    unspent: [i64; 3],
    /// What was unspent after the last grant.
    level: [i64; 3],
    /// The most that the store leaves unspent here, as last told.
    shares: [Option<i64>; 3],
    in_use: Amounts,
    running: usize,
    /// Charged by exchanges that have ended and are in no step yet.
    waiting: Amounts,
}

/// What a step tells the store: what it is to hold from now on, and the part of it that is lost
/// with this edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub keep: Amounts,
    pub in_use: Amounts,
}

impl Slice {
    pub fn new(claims: &[ScopeClaim]) -> Slice {
        let mut ruled = [false; 3];
        for claim in claims {
            let quotas = claim.quotas.to_array().map(|quota| !quota.is_unlimited());
            let rates = [
                claim.rates.requests_per_minute > 0,
                claim.rates.tokens_per_minute > 0,
                false,
            ];
            for n in 0..3 {
                ruled[n] |= quotas[n] || rates[n];
            }
        }
        Slice {
            ruled,
            unspent: [0; 3],
            level: [0; 3],
            shares: [None; 3],
            in_use: Amounts::ZERO,
            running: 0,
            waiting: Amounts::ZERO,
        }
    }

    /// Where a resource is not ruled: 0.
    pub fn ruled(&self, amounts: Amounts) -> Amounts {
        let mut figures = amounts.to_array();
        for (figure, ruled) in figures.iter_mut().zip(self.ruled) {
            *figure *= i64::from(ruled);
        }
        Amounts::from_array(figures)
    }

    pub fn fits(&self, amounts: Amounts) -> bool {
        let mut asked = amounts.to_array().into_iter().zip(self.unspent);
        let mut ruled = self.ruled.iter();
        asked.all(|(asked, unspent)| ruled.next() == Some(&false) || asked <= unspent)
    }

    /// An exchange begins to run that fits.
    pub fn admit(&mut self, held: Amounts) {
        self.running += 1;
        self.use_more(held);
    }

    /// A running exchange takes more that fits.
    pub fn use_more(&mut self, more: Amounts) {
        self.spend(more);
        self.in_use = self.in_use.plus(more);
    }

    /// An exchange ends: what it did not use is unspent again, what it used beyond is taken from there.
    pub fn end(&mut self, held: Amounts, charged: Amounts) {
        self.running = self.running.saturating_sub(1);
        self.in_use = self.in_use.minus(held);
        self.spend(charged.minus(held));
        self.waiting = self.waiting.plus(charged);
    }

    /// The store granted more for a running exchange.
    pub fn met(&mut self, more: Amounts) {
        self.in_use = self.in_use.plus(more);
    }

    /// The same, but the exchange has ended meanwhile.
    pub fn met_too_late(&mut self, more: Amounts) {
        self.spend(Amounts::ZERO.minus(more));
    }

    fn spend(&mut self, amounts: Amounts) {
        let amounts = self.ruled(amounts).to_array();
        for (unspent, amount) in self.unspent.iter_mut().zip(amounts) {
            *unspent = unspent.saturating_sub(amount);
        }
    }

    /// Puts together a step that books `charged` of what waits. Debt goes into the step.
    pub fn report(&mut self, charged: Amounts) -> Report {
        for (unspent, share) in self.unspent.iter_mut().zip(self.shares) {
            *unspent = (*unspent).clamp(0, share.unwrap_or(i64::MAX).max(0));
        }
        self.waiting = self.waiting.minus(charged);
        let in_use = self.in_use.plus(self.waiting);
        Report {
            keep: in_use.plus(Amounts::from_array(self.unspent)),
            in_use,
        }
    }

    /// The step was answered. `shares` below 0 were not told.
    pub fn grant(&mut self, granted: Amounts, shares: [i64; 3]) {
        self.spend(Amounts::ZERO.minus(granted));
        self.level = self.unspent;
        self.shares = shares.map(|share| (share >= 0).then_some(share));
    }

    /// Nothing is admitted from it any more: what is unspent goes back with the next report.
    pub fn give_back(&mut self) {
        for unspent in &mut self.unspent {
            *unspent = (*unspent).min(0);
        }
    }

    /// Less than half of what there was is left: time to ask for more.
    pub fn is_low(&self) -> bool {
        let mut levels = self.unspent.iter().zip(self.level);
        levels.any(|(unspent, level)| *unspent < level / 2 || *unspent < 0)
    }

    pub fn has_unspent(&self) -> bool {
        self.unspent.iter().any(|unspent| *unspent > 0)
    }

    /// What may still be admitted, 0 where a resource is not ruled.
    pub fn unspent(&self) -> Amounts {
        Amounts::from_array(self.unspent).max(Amounts::ZERO)
    }

    pub fn in_use(&self) -> Amounts {
        self.in_use
    }

    pub fn waiting(&self) -> Amounts {
        self.waiting
    }

    pub fn running(&self) -> usize {
        self.running
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::KeyId;
    use crate::quota::{Limit, Period, Quotas, Rates, Scope};

    const LIMIT: i64 = 1_000;

    fn tokens_only() -> Slice {
        let limit = Limit {
            limit: LIMIT,
            period: Period::Total,
        };
        Slice::new(&[ScopeClaim {
            scope: Scope::Key(KeyId(uuid::Uuid::nil())),
            quotas: Quotas {
                tokens: limit,
                ..Quotas::default()
            },
            rates: Rates::default(),
        }])
    }

    fn tokens(tokens: i64) -> Amounts {
        Amounts {
            requests: 1,
            tokens,
            nano_usd: tokens,
        }
    }

    #[test]
    fn what_is_not_used_can_be_admitted_again() {
        let mut slice = tokens_only();
        assert!(!slice.fits(tokens(1)));
        slice.grant(tokens(100), [-1; 3]);
        slice.admit(tokens(80));
        assert!(!slice.fits(tokens(21)) && slice.fits(tokens(20)) && slice.is_low());
        slice.end(tokens(80), tokens(30));
        assert!(slice.fits(tokens(70)) && !slice.fits(tokens(71)));
        let report = slice.report(tokens(30));
        let nothing = Amounts::ZERO;
        assert_eq!(report.in_use, nothing);
        assert_eq!(
            report.keep,
            Amounts {
                tokens: 70,
                ..nothing
            }
        );
    }

    #[test]
    fn debt_is_paid_by_the_next_step() {
        let mut slice = tokens_only();
        slice.grant(tokens(10), [-1; 3]);
        slice.admit(tokens(10));
        slice.end(tokens(10), tokens(35));
        assert!(!slice.fits(Amounts::ZERO), "in debt");
        assert_eq!(slice.report(tokens(35)).keep, Amounts::ZERO);
        assert!(slice.fits(Amounts::ZERO));
    }

    #[test]
    fn near_the_limit_it_keeps_its_share_only() {
        let mut slice = tokens_only();
        slice.grant(tokens(100), [0, 40, 0]);
        assert_eq!(slice.report(Amounts::ZERO).keep.tokens, 40);
        slice.give_back();
        assert_eq!(slice.report(Amounts::ZERO).keep.tokens, 0);
    }

    #[derive(Clone, Debug)]
    enum Doing {
        Admit(i64),
        /// One of those that run, and what it used.
        End(usize, i64),
        /// A step: how many of those that have ended it books, and what it is granted at the most.
        Step(usize, i64),
        Met(i64),
        GiveBack,
    }

    fn doing() -> impl Strategy<Value = Doing> {
        prop_oneof![
            4 => (0..60_i64).prop_map(Doing::Admit),
            4 => (any::<usize>(), 0..80_i64).prop_map(|(at, used)| Doing::End(at, used)),
            3 => (0..4_usize, 0..300_i64).prop_map(|(book, most)| Doing::Step(book, most)),
            1 => (0..40_i64).prop_map(Doing::Met),
            1 => Just(Doing::GiveBack),
        ]
    }

    proptest! {
        /// Beside a store that holds and books as told: what was used and is held there never goes
        /// beyond the limit but for answers that outgrew their holds, and nothing gets lost.
        #[test]
        fn never_spends_more_than_it_was_granted(doings in prop::collection::vec(doing(), 1..200)) {
            let mut slice = tokens_only();
            let (mut used, mut held) = (0, 0);
            let (mut running, mut ended) = (Vec::new(), Vec::new());
            let (mut outgrown, mut total) = (0, 0);
            for doing in doings {
                match doing {
                    Doing::Admit(n) if slice.fits(tokens(n)) => {
                        slice.admit(tokens(n));
                        running.push(n);
                    }
                    Doing::Admit(_) => {}
                    Doing::End(at, charged) if !running.is_empty() => {
                        let hold = running.swap_remove(at % running.len());
                        slice.end(tokens(hold), tokens(charged));
                        ended.push(charged);
                        outgrown += (charged - hold).max(0);
                        total += charged;
                    }
                    Doing::End(..) => {}
                    Doing::Met(more) => {
                        if let Some(first) = running.first_mut()
                            && used + held + more <= LIMIT
                        {
                            held += more;
                            slice.met(Amounts { requests: 0, ..tokens(more) });
                            *first += more;
                        }
                    }
                    Doing::Step(book, most) => {
                        let booked: i64 = ended.drain(..book.min(ended.len())).sum();
                        let charged = Amounts { requests: 0, ..tokens(booked) };
                        let report = slice.report(charged);
                        used += booked;
                        held = report.keep.tokens;
                        prop_assert!(held >= report.in_use.tokens);
                        let granted = (LIMIT - used - held).clamp(0, most);
                        held += granted;
                        slice.grant(Amounts { requests: 0, ..tokens(granted) }, [-1; 3]);
                    }
                    Doing::GiveBack => slice.give_back(),
                }
                prop_assert!(used + held <= LIMIT + outgrown);
                let waiting: i64 = ended.iter().sum();
                prop_assert_eq!(slice.waiting().tokens, waiting);
                prop_assert_eq!(slice.in_use().tokens, running.iter().sum::<i64>());
                prop_assert!(running.iter().sum::<i64>() + waiting <= held + outgrown);
                prop_assert_eq!(used + waiting, total);
            }
        }
    }
}
