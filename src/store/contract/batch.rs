//! Several events of one reservation, what counts as a call, and listings of charged events only.

use super::*;
use crate::time::DAY_MS;

on_every_engine!(
    handed too: a_batch_is_booked_in_one_step,
    a_void_batch_charges_nothing,
    everything_asked_is_a_call;
    a_late_batch_is_charged_once,
    a_released_batch_that_comes_late_is_charged_whole,
    charged_events_are_listed_apart,
);

const ITEMS: [i64; 3] = [1, 2, 3];

/// A reservation of as many requests as the items draw.
async fn open_batch(h: &Harness, caller: &Caller) -> Ask {
    let mut ask = caller.ask(0, 0);
    ask.requests = ITEMS.iter().sum();
    h.granted(&ask).await;
    ask
}

/// The items as events of their own; what the first draws is the store's to find out.
fn batch(h: &Harness, ask: &Ask, charge: Charge) -> Settlement {
    let item = |id, n: usize| UsageEvent {
        requests: if n == 0 { 0 } else { ITEMS[n] },
        metadata: Some(serde_json::json!({"item": n})),
        requests_remaining: Some(100 - ITEMS[n]),
        model: None,
        ..event(id, ask.subject.key, h.clock.now())
    };
    Settlement {
        further: (1..ITEMS.len()).map(|n| item(Uuid::new_v4(), n)).collect(),
        ..Settlement::new(ask.id, charge, item(ask.id.0, 0))
    }
}

fn requests(requests: i64) -> Charge {
    Charge::Exact(Amounts {
        requests,
        tokens: 5,
        nano_usd: 6,
    })
}

/// Requests of each item's event, by item, and the reasons they have.
async fn booked_items(h: &Harness, caller: &Caller) -> Vec<(i64, i64, Option<String>)> {
    let page = h.store.usage_events(all_of(caller)).await.unwrap();
    assert_eq!(page.items.len() as i64, page.total);
    let mut items: Vec<_> = page.items.into_iter().collect();
    items.retain(|event| event.metadata.is_some());
    items.sort_by_key(|event| event.metadata.as_ref().unwrap()["item"].as_i64());
    let items = items.into_iter();
    let items = items.map(|event| (event.requests, event.total_tokens, event.reason));
    items.collect()
}

/// Calls and requests of all days.
async fn called(h: &Harness, caller: &Caller) -> (i64, i64) {
    let key = Some(caller.record.id);
    let rollups = h.store.rollups(key, "0000-01-01", "9999-12-31").await;
    let rollups = rollups.unwrap();
    let calls = rollups.iter().map(|day| day.calls).sum();
    (calls, rollups.iter().map(|day| day.requests).sum())
}

async fn a_batch_is_booked_in_one_step(mut h: Harness) {
    let caller = h.key(Quotas::default()).await;
    let ask = open_batch(&h, &caller).await;
    let settlement = batch(&h, &ask, requests(6));
    let settled = h.store.settle(settlement.clone()).await.unwrap();
    assert!(matches!(settled, Settled::Applied { charged, .. } if charged.requests == 6));
    for round in 0..3 {
        let expected = [(1, 5, None), (2, 0, None), (3, 0, None)];
        assert_eq!(booked_items(&h, &caller).await, expected, "{round}");
        assert_eq!(called(&h, &caller).await, (3, 6));
        let activity = h.store.activity(caller.record.id).await.unwrap();
        assert_eq!(activity.request_count, 6);
        let standing = h.standing(&caller).await;
        assert_eq!((standing.used.requests, standing.used.tokens), (6, 5));
        assert_eq!(h.store.totals().await.unwrap().open_reservations, 0);
        let again = h.store.settle(settlement.clone()).await.unwrap();
        assert_eq!(again, Settled::Already);
        if round == 1 {
            h.restart().await;
        }
    }
    let page = h.store.usage_events(all_of(&caller)).await.unwrap();
    let mut left: Vec<_> = page.items.iter().map(|e| e.requests_remaining).collect();
    left.sort_unstable();
    assert_eq!(left, [Some(97), Some(98), Some(99)]);
    h.assert_sound().await;
}

async fn a_void_batch_charges_nothing(h: Harness) {
    let caller = h.key(Quotas::default()).await;
    let ask = open_batch(&h, &caller).await;
    let settlement = batch(&h, &ask, Charge::Void);
    h.store.settle(settlement).await.unwrap();
    let nothing = (0, 0, None);
    let expected = [nothing.clone(), nothing.clone(), nothing];
    assert_eq!(booked_items(&h, &caller).await, expected);
    assert_eq!(called(&h, &caller).await, (3, 0));
    h.assert_sound().await;
}

async fn a_late_batch_is_charged_once(h: Harness) {
    let caller = h.key(Quotas::default()).await;
    let ask = open_batch(&h, &caller).await;
    h.clock.advance(60_000);
    assert_eq!(h.store.sweep().await.unwrap(), 1);
    assert_eq!(called(&h, &caller).await, (1, 6));
    let settlement = batch(&h, &ask, requests(6));
    let late = h.store.settle(settlement.clone()).await.unwrap();
    assert!(matches!(late, Settled::Late { charged } if charged.requests == 0));
    let late = || Some(String::from("late"));
    let expected = [(0, 5, late()), (0, 0, late()), (0, 0, late())];
    assert_eq!(booked_items(&h, &caller).await, expected);
    assert_eq!(called(&h, &caller).await, (4, 6));
    let again = h.store.settle(settlement).await.unwrap();
    assert_eq!(again, Settled::Already);
    assert_eq!(called(&h, &caller).await, (4, 6));
    h.assert_sound().await;
}

async fn a_released_batch_that_comes_late_is_charged_whole(mut h: Harness) {
    h.policy = LostReservation::Release;
    h.restart().await;
    let caller = h.key(Quotas::default()).await;
    let ask = open_batch(&h, &caller).await;
    h.clock.advance(60_000);
    assert_eq!(h.store.sweep().await.unwrap(), 1);
    assert_eq!(called(&h, &caller).await, (1, 0));
    let settlement = batch(&h, &ask, requests(6));
    h.store.settle(settlement).await.unwrap();
    let late = || Some(String::from("late"));
    let expected = [(1, 5, late()), (2, 0, late()), (3, 0, late())];
    assert_eq!(booked_items(&h, &caller).await, expected);
    assert_eq!(called(&h, &caller).await, (4, 6));
    h.assert_sound().await;
}

async fn everything_asked_is_a_call(mut h: Harness) {
    let caller = h.key(Quotas::default()).await;
    for charge in [used(3), used(4), Charge::Void] {
        let ask = caller.ask(1, 4);
        h.granted(&ask).await;
        h.settle(&ask, charge).await;
    }
    // More than there are rows for.
    for _ in 0..70 {
        let refused = refusal(caller.record.id, h.clock.now());
        h.store.book_refusal(refused).await.unwrap();
    }
    h.granted(&caller.ask(1, 1)).await;
    h.store.ping().await.unwrap();
    h.crash().await;
    assert_eq!(called(&h, &caller).await, (74, 3));
    let rows = h.store.usage_events(all_of(&caller)).await.unwrap().total;
    assert!((4 + 60..4 + 70).contains(&rows), "{rows}");
}

/// Charged events of both callers with refusals and void answers in between; the charged ones, newest
/// first.
async fn mixed_usage(h: &Harness, callers: &[Caller; 2], step: i64) -> Vec<(UnixMs, KeyId, i64)> {
    let mut charged = Vec::new();
    for n in 0..90 {
        h.clock.advance(step);
        let caller = &callers[usize::from(n % 5 == 0)];
        if n % 3 == 0 {
            let refused = refusal(caller.record.id, h.clock.now());
            h.store.book_refusal(refused).await.unwrap();
            continue;
        }
        let ask = caller.ask(1, n);
        h.granted(&ask).await;
        if n % 7 == 0 {
            h.settle(&ask, Charge::Void).await;
            continue;
        }
        h.settle(&ask, used(n)).await;
        charged.push((h.clock.now(), caller.record.id, n));
    }
    charged.reverse();
    charged
}

async fn charged_events_are_listed_apart(h: Harness) {
    let callers = [
        h.key(Quotas::default()).await,
        h.key(Quotas::default()).await,
    ];
    let (begin, step) = (h.clock.now(), DAY_MS / 11);
    let charged = mixed_usage(&h, &callers, step).await;
    let at = |steps: i64| Some(begin.plus_ms(steps * step));
    for key in [None, Some(callers[0].record.id), Some(callers[1].record.id)] {
        for (since, until) in [
            (None, None),
            (at(7), None),
            (None, at(40)),
            (at(20), at(71)),
        ] {
            for skip in [0, 3, 40] {
                let wanted = charged.iter().filter(|(at, of, _)| {
                    key.is_none_or(|key| key == *of)
                        && since.is_none_or(|since| *at >= since)
                        && until.is_none_or(|until| *at < until)
                });
                let wanted: Vec<i64> = wanted.map(|(_, _, n)| *n).collect();
                let query = UsageQuery {
                    key,
                    since,
                    until,
                    charged_only: true,
                    skip,
                    limit: 7,
                };
                let page = h.store.usage_events(query.clone()).await.unwrap();
                assert_eq!(page.total, wanted.len() as i64, "{query:?}");
                let got: Vec<i64> = page.items.iter().map(|e| e.total_tokens).collect();
                let shown = wanted.iter().skip(skip as usize).take(7).copied();
                assert_eq!(got, shown.collect::<Vec<_>>(), "{query:?}");
            }
        }
    }
    h.store.ping().await.unwrap();
    h.store
        .prune_events(begin.plus_ms(40 * step))
        .await
        .unwrap();
    let left = charged
        .iter()
        .filter(|(at, ..)| *at >= begin.plus_ms(40 * step));
    let query = UsageQuery {
        charged_only: true,
        limit: 1,
        ..UsageQuery::default()
    };
    let page = h.store.usage_events(query).await.unwrap();
    assert_eq!(page.total, left.count() as i64);
}
