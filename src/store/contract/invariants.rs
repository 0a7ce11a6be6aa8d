//! The invariants: they hold of books that were kept, and a check that fails says so.

use super::chance::Chance;
use super::*;
use crate::store::Check;

on_every_engine!(
    a_crowd_leaves_sound_books,
    debt_is_told_and_no_violation,
    what_is_open_is_counted,
);

pub(super) fn check(checks: &[Check], id: &str) -> Check {
    let found = checks.iter().find(|check| check.id == id);
    found.unwrap().clone()
}

/// Exchanges of many tasks at once, some of which are left open, and draws of whole batches.
pub(super) async fn crowd(h: &Harness, callers: &[Caller], chance: &mut Chance) {
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let (store, mut chance) = (h.store.clone(), chance.fork());
        let (callers, now) = (callers.to_vec(), h.clock.now());
        tasks.push(tokio::spawn(async move {
            for _ in 0..25 {
                let caller = chance.pick(&callers);
                let ask = caller.ask(chance.below(5) as i64, chance.below(20) as i64);
                let reserved = store.reserve(ask.clone()).await.unwrap();
                let Reserved::Granted(grant) = reserved else {
                    let refused = refusal(caller.record.id, now);
                    store.book_refusal(refused).await.unwrap();
                    continue;
                };
                // No answer outgrows its hold: beside others that run it would look oversold.
                let most = u64::try_from(grant.held.tokens).unwrap();
                let charge = match chance.below(4) {
                    0 => continue,
                    1 => Charge::Void,
                    _ => used(chance.below(most + 1) as i64),
                };
                let booked = event(ask.id.0, caller.record.id, now);
                let settlement = Settlement::new(ask.id, charge, booked);
                store.settle(settlement.clone()).await.unwrap();
                assert_eq!(store.settle(settlement).await.unwrap(), Settled::Already);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

pub(super) async fn callers(h: &Harness) -> Vec<Caller> {
    let group = h.group(tokens(2_000, Period::Weekly)).await;
    let mut callers = Vec::new();
    for n in 0..5 {
        let caller = h.key(tokens(600, Period::Daily)).await;
        callers.push(match n {
            0 => h.key(Quotas::default()).await,
            1 | 2 => h.moved(&caller, Some(&group)).await,
            _ => caller,
        });
    }
    callers
}

async fn a_crowd_leaves_sound_books(mut h: Harness) {
    let mut chance = Chance::from_env();
    let callers = callers(&h).await;
    for round in 0..3 {
        crowd(&h, &callers, &mut chance).await;
        h.assert_sound().await;
        let found = h.store.invariants().await.unwrap();
        let totals = h.store.totals().await.unwrap();
        assert_eq!(found.open_reservations, totals.open_reservations);
        assert_eq!(found.held, totals.held);
        let mut settled = Amounts::ZERO;
        for caller in &callers {
            settled = settled.plus(h.standing(caller).await.used);
        }
        assert_eq!(found.settled, settled, "{round}");
        assert!(check(&found.checks, "I1").checked > 0);
        assert!(check(&found.checks, "I3").checked > 0);
        assert!(check(&found.checks, "I5").checked >= 5);
        match round {
            0 => h.clock.advance(60_000),
            _ => h.clock.advance(9 * 3_600_000),
        }
        h.store.sweep().await.unwrap();
        h.assert_sound().await;
        if round == 1 {
            h.restart().await;
        }
    }
}

async fn debt_is_told_and_no_violation(h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    let ask = caller.ask(10, 0);
    h.granted(&ask).await;
    h.settle(&ask, used(130)).await;
    h.assert_sound().await;
    let found = h.store.invariants().await.unwrap();
    let debts = check(&found.checks, "I2").examples;
    assert_eq!(debts.len(), 1, "{debts:?}");
    let id = caller.record.id.0.to_string();
    for part in [id.as_str(), "130", "30 of debt"] {
        assert!(debts[0].contains(part), "{}", debts[0]);
    }
}

async fn what_is_open_is_counted(h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    for _ in 0..3 {
        h.granted(&caller.ask(10, 10)).await;
    }
    let found = h.store.invariants().await.unwrap();
    assert_eq!((found.open_reservations, found.held.tokens), (3, 60));
    assert_eq!(check(&found.checks, "I4").checked, 3);
    h.assert_sound().await;
    // Nobody sweeps.
    h.clock.advance(3_600_000);
    let found = h.store.invariants().await.unwrap();
    let late = check(&found.checks, "I4");
    assert_eq!((late.holds, late.violations), (false, 3));
    assert_eq!(late.examples.len(), 3);
    h.store.sweep().await.unwrap();
    h.assert_sound().await;
}
