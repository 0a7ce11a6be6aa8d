//! Keys that move between groups: their counters, what is open, and their history go along.

use super::*;
use crate::store::{Freshness, KeyQuery};

on_every_engine!(
    a_key_that_moves_keeps_its_counters,
    what_was_open_at_a_move_is_charged_once,
    a_lost_reservation_of_a_moved_key_is_charged_once,
    a_moved_key_has_one_history,
    refusals_of_a_moved_key_are_booked,
);

impl Harness {
    async fn used_of(&self, claim: ScopeClaim) -> (i64, i64) {
        let standing = self.store.standing(claim).await.unwrap();
        (standing.used.tokens, standing.held.tokens)
    }
}

async fn a_key_that_moves_keeps_its_counters(h: Harness) {
    let limit = tokens(100, Period::Monthly);
    let alone = h.key(limit).await;
    let ask = alone.ask(10, 20);
    h.granted(&ask).await;
    h.settle(&ask, used(30)).await;
    let (red, blue) = (h.group(limit).await, h.group(limit).await);
    let mut caller = alone.clone();
    for (n, group) in [Some(&red), Some(&blue), None, Some(&red)]
        .into_iter()
        .enumerate()
    {
        let before = caller.clone();
        caller = h.moved(&caller, group).await;
        assert!(
            matches!(h.reserve(&before.ask(1, 1)).await, Reserved::KeyChanged),
            "by the record as it was before move {n}"
        );
        let used_before = 30 + 5 * n as i64;
        assert_eq!(h.used_and_held(&caller).await, (used_before, 0), "move {n}");
        let ask = caller.ask(1, 4);
        h.granted(&ask).await;
        h.settle(&ask, used(5)).await;
    }
    assert_eq!(h.used_and_held(&caller).await, (50, 0));
    assert_eq!(
        h.used_of(caller.claims[1]).await,
        (10, 0),
        "two of four in red"
    );
    h.short(&caller.ask(51, 0)).await;
    h.granted(&caller.ask(50, 0)).await;
    let found = h
        .store
        .key_by_hash(&caller.record.hash, Freshness::Now)
        .await;
    assert_eq!(found.unwrap().unwrap(), caller.record);
    let listed = h
        .store
        .list_keys(KeyQuery {
            limit: 9,
            ..KeyQuery::default()
        })
        .await
        .unwrap();
    assert_eq!(listed.items, [caller.record]);
}

async fn what_was_open_at_a_move_is_charged_once(h: Harness) {
    let limit = tokens(100, Period::Total);
    let rates = Rates {
        concurrency: 3,
        ..Rates::default()
    };
    let alone = h.key(limit).await.with_rates(rates);
    let (red, blue) = (h.group(limit).await, h.group(limit).await);
    let first = alone.ask(10, 0);
    h.granted(&first).await;
    let in_red = h.moved(&alone, Some(&red)).await;
    let second = in_red.ask(20, 0);
    h.granted(&second).await;
    let in_blue = h.moved(&in_red, Some(&blue)).await;
    let third = in_blue.ask(30, 0);
    h.granted(&third).await;
    assert_eq!(h.used_and_held(&in_blue).await, (0, 60));
    h.short(&in_blue.ask(1, 0)).await;
    for (ask, tokens) in [(&second, 25), (&first, 10), (&third, 0)] {
        h.settle(ask, used(tokens)).await;
        assert_eq!(h.settle(ask, used(tokens)).await, Settled::Already);
    }
    h.store.sweep().await.unwrap();
    assert_eq!(h.used_and_held(&in_blue).await, (35, 0));
    assert_eq!(h.used_of(in_red.claims[1]).await, (25, 0));
    assert_eq!(h.used_of(in_blue.claims[1]).await, (0, 0));
    let activity = h.store.activity(alone.record.id).await.unwrap();
    assert_eq!(activity.request_count, 3);
    assert_eq!(h.standing(&in_blue).await.used.requests, 3);
    assert_eq!(h.store.totals().await.unwrap().open_reservations, 0);
    for _ in 0..3 {
        h.granted(&in_blue.ask(1, 0)).await;
    }
}

async fn a_lost_reservation_of_a_moved_key_is_charged_once(h: Harness) {
    let alone = h.key(tokens(100, Period::Total)).await;
    let red = h.group(Quotas::default()).await;
    let ask = alone.ask(10, 40);
    h.granted(&ask).await;
    let in_red = h.moved(&alone, Some(&red)).await;
    h.clock.advance(60_000);
    assert_eq!(h.store.sweep().await.unwrap(), 1);
    assert_eq!(h.used_and_held(&in_red).await, (50, 0));
    let moved_back = h.moved(&in_red, None).await;
    let late = h.settle(&ask, used(62)).await;
    assert!(matches!(late, Settled::Late { charged } if charged.tokens == 12));
    h.store.sweep().await.unwrap();
    assert_eq!(h.used_and_held(&moved_back).await, (62, 0));
}

async fn a_moved_key_has_one_history(h: Harness) {
    let mut caller = h.key(Quotas::default()).await;
    let day = h.clock.now().day();
    let (red, blue) = (
        h.group(Quotas::default()).await,
        h.group(Quotas::default()).await,
    );
    let mut made = Vec::new();
    for n in 0..30 {
        if n % 3 == 0 {
            let group = [None, Some(&red), Some(&blue)][n as usize / 3 % 3];
            caller = h.moved(&caller, group).await;
        }
        let ask = caller.ask(1, n);
        h.granted(&ask).await;
        h.settle(&ask, used(n)).await;
        h.clock.advance(1_000);
        made.push(n);
    }
    made.reverse();
    let id = caller.record.id;
    for removed in [false, true] {
        for key in [Some(id), None] {
            let query = UsageQuery {
                key,
                skip: 4,
                limit: 20,
                ..Default::default()
            };
            let page = h.store.usage_events(query).await.unwrap();
            let got: Vec<i64> = page.items.iter().map(|event| event.total_tokens).collect();
            assert_eq!(
                (&got[..], page.total),
                (&made[4..24], 30),
                "{key:?} {removed}"
            );
            let rollups = h.store.rollups(key, &day, &day).await.unwrap();
            let sums: Vec<_> = rollups
                .iter()
                .map(|day| (day.requests, day.tokens))
                .collect();
            assert_eq!(sums, [(30, made.iter().sum())], "{key:?} {removed}");
        }
        if !removed {
            h.store.delete_key(id, audit("delete")).await.unwrap();
        }
    }
}

async fn refusals_of_a_moved_key_are_booked(h: Harness) {
    let alone = h.key(Quotas::default()).await;
    let id = alone.record.id;
    h.store
        .book_refusal(refusal(id, h.clock.now()))
        .await
        .unwrap();
    let red = h.group(Quotas::default()).await;
    h.moved(&alone, Some(&red)).await;
    h.store
        .book_refusal(refusal(id, h.clock.now()))
        .await
        .unwrap();
    let counts = h.error_counts(Some(id)).await;
    assert_eq!(counts, [(String::from("QUOTA_EXCEEDED"), 2)]);
    assert_eq!(h.store.activity(id).await.unwrap().error_count, 2);
}
