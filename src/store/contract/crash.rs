//! What a kill -9 leaves, and what may not be left.

use super::*;

on_engine!(
    embedded:
    a_granted_hold_survives_a_kill,
    a_settlement_on_disk_survives_a_kill_and_counts_once,
    a_kill_before_the_settlement_is_written_charges_the_hold,
    a_released_hold_leaves_nothing,
    many_kills_leave_nothing_held_and_books_that_balance,
);

async fn a_granted_hold_survives_a_kill(mut h: Harness) {
    let caller = h.key(tokens(100, Period::Daily)).await;
    h.granted(&caller.ask(10, 40)).await;
    h.crash().await;
    assert_eq!(h.used_and_held(&caller).await, (50, 0));
    let events = h
        .store
        .usage_events(UsageQuery {
            limit: 9,
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(events.items[0].reason.as_deref(), Some("edge_died"));
    assert_eq!(
        (events.items[0].total_tokens, events.items[0].requests),
        (50, 1)
    );
    // And once only, however often it dies.
    h.crash().await;
    assert_eq!(h.used_and_held(&caller).await, (50, 0));
}

async fn a_settlement_on_disk_survives_a_kill_and_counts_once(mut h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    let ask = caller.ask(10, 40);
    h.granted(&ask).await;
    h.settle(&ask, used(20)).await;
    h.store.ping().await.unwrap();
    h.crash().await;
    assert_eq!(h.settle(&ask, used(20)).await, Settled::Already);
    assert_eq!(h.used_and_held(&caller).await, (20, 0));
}

async fn a_kill_before_the_settlement_is_written_charges_the_hold(mut h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    let ask = caller.ask(10, 40);
    h.granted(&ask).await;
    h.settle(&ask, used(20)).await;
    h.crash().await;
    let (used, held) = h.used_and_held(&caller).await;
    assert!(used == 50 || used == 20, "{used}");
    assert_eq!(held, 0);
}

async fn a_released_hold_leaves_nothing(mut h: Harness) {
    h.policy = LostReservation::Release;
    let caller = h.key(tokens(100, Period::Total)).await;
    h.granted(&caller.ask(10, 40)).await;
    h.crash().await;
    assert_eq!(h.used_and_held(&caller).await, (0, 0));
    h.granted(&caller.ask(10, 90)).await;
}

async fn many_kills_leave_nothing_held_and_books_that_balance(mut h: Harness) {
    let caller = h.key(Quotas::default()).await;
    for round in 0..12 {
        for n in 0..40 {
            let ask = caller.ask(n, round);
            h.granted(&ask).await;
            if n % 3 != 0 {
                h.settle(&ask, used(n)).await;
            }
            if n % 7 == 0 {
                h.clock.advance(1);
            }
        }
        h.crash().await;
        assert_eq!(h.store.totals().await.unwrap().held, Amounts::ZERO);
        let page = h
            .store
            .usage_events(UsageQuery {
                limit: 10_000,
                ..Default::default()
            })
            .await
            .unwrap();
        let standing = h.standing(&caller).await;
        assert_eq!(
            page.items.iter().map(|e| e.total_tokens).sum::<i64>(),
            standing.used.tokens
        );
        assert_eq!(
            page.items.iter().map(|e| e.requests).sum::<i64>(),
            standing.used.requests
        );
        assert_eq!(
            standing.used.requests,
            40 * (round + 1),
            "each exchange once"
        );
    }
}
