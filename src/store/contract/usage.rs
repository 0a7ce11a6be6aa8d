//! Usage events, rollups, pruning, usual outputs.

use super::*;
use crate::store::Rollup;
use crate::time::DAY_MS;

on_every_engine!(
    handed too: an_event_is_read_back_as_it_was_booked,
    pages_are_newest_first_with_exact_totals,
    rollups_add_up;
    pruning_takes_the_old_and_keeps_the_sums,
    usual_output_needs_twenty_answers,
);

async fn an_event_is_read_back_as_it_was_booked(h: Harness) {
    let caller = h.key(Quotas::default()).await;
    let ask = caller.ask(3, 4);
    h.granted(&ask).await;
    let mut booked = event(ask.id.0, caller.record.id, h.clock.now());
    let settlement = Settlement {
        id: ask.id,
        charge: used(7),
        event: booked.clone(),
        further: Vec::new(),
    };
    h.store.settle(settlement).await.unwrap();
    booked.set_charged(Amounts {
        requests: 1,
        tokens: 7,
        nano_usd: 7,
    });
    let page = h
        .store
        .usage_events(UsageQuery {
            limit: 9,
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(page.items, [booked]);
}

/// One settled exchange of `tokens` at the present time.
async fn exchange(h: &Harness, caller: &Caller, tokens: i64) {
    let ask = caller.ask(1, tokens);
    h.granted(&ask).await;
    h.settle(&ask, used(tokens)).await;
}

async fn pages_are_newest_first_with_exact_totals(h: Harness) {
    let (a, b) = (
        h.key(Quotas::default()).await,
        h.key(Quotas::default()).await,
    );
    let mut made = Vec::new();
    for n in 0..60 {
        h.clock.advance(DAY_MS / 13);
        let caller = if n % 3 == 0 { &b } else { &a };
        exchange(&h, caller, n).await;
        made.push((h.clock.now(), caller.record.id, n));
    }
    let (begin, step) = (made[0].0.0, DAY_MS / 13);
    for key in [None, Some(a.record.id), Some(b.record.id)] {
        for since in [
            None,
            Some(begin - 1),
            Some(begin + 5 * step),
            Some(begin + 14 * step + 7),
        ] {
            for until in [
                None,
                Some(begin + 6 * step),
                Some(begin + 40 * step),
                Some(begin + 99 * step),
            ] {
                let expected: Vec<i64> = made
                    .iter()
                    .rev()
                    .filter(|(at, of, _)| {
                        key.is_none_or(|key| key == *of)
                            && since.is_none_or(|since| at.0 >= since)
                            && until.is_none_or(|until| at.0 < until)
                    })
                    .map(|(_, _, n)| *n)
                    .collect();
                let query = UsageQuery {
                    key,
                    since: since.map(UnixMs),
                    until: until.map(UnixMs),
                    charged_only: false,
                    skip: 2,
                    limit: 5,
                };
                let page = h.store.usage_events(query).await.unwrap();
                let got: Vec<i64> = page.items.iter().map(|e| e.total_tokens).collect();
                let shown: Vec<i64> = expected.iter().skip(2).take(5).copied().collect();
                assert_eq!(got, shown, "{key:?} {since:?} {until:?}");
                assert_eq!(
                    page.total,
                    expected.len() as i64,
                    "{key:?} {since:?} {until:?}"
                );
            }
        }
    }
}

async fn rollups_add_up(mut h: Harness) {
    let caller = h.key(Quotas::default()).await;
    let first_day = h.clock.now().day();
    exchange(&h, &caller, 5).await;
    exchange(&h, &caller, 6).await;
    h.clock.advance(DAY_MS);
    let second_day = h.clock.now().day();
    exchange(&h, &caller, 7).await;
    h.restart().await;
    let rollups = h
        .store
        .rollups(Some(caller.record.id), &first_day, &second_day)
        .await
        .unwrap();
    let rollup = |day: &str, requests, tokens| Rollup {
        day: day.to_owned(),
        key: caller.record.id,
        model: String::from("gpt-x"),
        calls: requests,
        requests,
        tokens,
        prompt_tokens: 3 * requests,
        completion_tokens: 4 * requests,
        cost_nano: tokens,
        errors: 0,
        response_time_ms: 30 * requests,
    };
    assert_eq!(
        rollups,
        [rollup(&first_day, 2, 11), rollup(&second_day, 1, 7)]
    );
    assert_eq!(
        h.store
            .rollups(None, &second_day, &second_day)
            .await
            .unwrap()
            .len(),
        1
    );
}

async fn pruning_takes_the_old_and_keeps_the_sums(h: Harness) {
    let caller = h.key(Quotas::default()).await;
    let first_day = h.clock.now().day();
    for _ in 0..700 {
        exchange(&h, &caller, 1).await;
    }
    h.clock.advance(DAY_MS);
    exchange(&h, &caller, 2).await;
    h.store.ping().await.unwrap();
    assert_eq!(h.store.prune_events(h.clock.now()).await.unwrap(), 700);
    assert_eq!(h.store.prune_events(h.clock.now()).await.unwrap(), 0);
    for key in [None, Some(caller.record.id)] {
        let page = h
            .store
            .usage_events(UsageQuery {
                key,
                limit: 10,
                ..Default::default()
            })
            .await
            .unwrap();
        assert_eq!((page.total, page.items.len()), (1, 1));
    }
    let rollups = h.store.rollups(None, &first_day, &first_day).await.unwrap();
    assert_eq!(rollups[0].requests, 700);
    assert_eq!(h.used_and_held(&caller).await, (702, 0));
}

async fn usual_output_needs_twenty_answers(h: Harness) {
    let caller = h.key(Quotas::default()).await;
    for _ in 0..19 {
        exchange(&h, &caller, 9).await;
    }
    assert_eq!(h.store.usual_output(caller.record.id, "gpt-x"), None);
    exchange(&h, &caller, 9).await;
    assert_eq!(h.store.usual_output(caller.record.id, "gpt-x"), Some(4));
    assert_eq!(h.store.usual_output(caller.record.id, "other"), None);
}
