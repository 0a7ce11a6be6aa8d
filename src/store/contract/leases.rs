//! Leases, renewal, late settlements.

use super::*;

on_every_engine!(
    a_lease_runs_out_and_is_charged_once,
    a_renewed_lease_never_runs_out,
    a_late_settle_charges_the_rest,
    a_released_lease_is_charged_late,
);

async fn a_lease_runs_out_and_is_charged_once(h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    let ask = caller.ask(10, 40);
    h.granted(&ask).await;
    h.clock.advance(59_999);
    assert_eq!(h.store.sweep().await.unwrap(), 0);
    // A wall clock that jumps ends no lease.
    h.clock.jump(3_600_000);
    assert_eq!(h.store.sweep().await.unwrap(), 0);
    h.clock.advance(1);
    assert_eq!(h.store.sweep().await.unwrap(), 1);
    assert_eq!(h.store.sweep().await.unwrap(), 0);
    assert_eq!(h.used_and_held(&caller).await, (50, 0));
    let events = h.store.usage_events(all_of(&caller)).await.unwrap();
    assert_eq!(events.items[0].reason.as_deref(), Some("lease_expired"));
    assert_eq!(events.items[0].total_tokens, 50);
}

async fn a_renewed_lease_never_runs_out(h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    let ask = caller.ask(10, 40);
    h.granted(&ask).await;
    for _ in 0..10 {
        h.clock.advance(40_000);
        h.store.renew(&[ask.id], 60_000).await.unwrap();
        assert_eq!(h.store.sweep().await.unwrap(), 0);
    }
    assert!(matches!(
        h.settle(&ask, used(5)).await,
        Settled::Applied { .. }
    ));
}

async fn a_late_settle_charges_the_rest(h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    let ask = caller.ask(10, 40);
    h.granted(&ask).await;
    h.clock.advance(60_000);
    h.store.sweep().await.unwrap();
    let late = h.settle(&ask, used(62)).await;
    assert!(matches!(late, Settled::Late { charged } if charged.tokens == 12));
    assert_eq!(h.settle(&ask, used(62)).await, Settled::Already);
    assert_eq!(h.used_and_held(&caller).await, (62, 0));
    let events = h.store.usage_events(all_of(&caller)).await.unwrap().items;
    assert_eq!(events.len(), 2);
    assert_eq!(events[0].reason.as_deref(), Some("late"));
    assert_eq!(events.iter().map(|e| e.total_tokens).sum::<i64>(), 62);
    assert_eq!(events.iter().map(|e| e.requests).sum::<i64>(), 1);
}

async fn a_released_lease_is_charged_late(mut h: Harness) {
    h.policy = LostReservation::Release;
    h.restart().await;
    let caller = h.key(tokens(100, Period::Total)).await;
    let ask = caller.ask(10, 40);
    h.granted(&ask).await;
    h.clock.advance(60_000);
    assert_eq!(h.store.sweep().await.unwrap(), 1);
    assert_eq!(h.used_and_held(&caller).await, (0, 0));
    let late = h.settle(&ask, used(33)).await;
    assert!(matches!(late, Settled::Late { charged } if charged.tokens == 33));
    assert_eq!(h.settle(&ask, used(33)).await, Settled::Already);
    assert_eq!(h.used_and_held(&caller).await, (33, 0));
}
