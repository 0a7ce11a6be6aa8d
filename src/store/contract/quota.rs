//! Reserve and settle.

use super::*;

on_every_engine!(
    handed too: a_clamp_shrinks_the_hold_to_what_is_left,
    all_scopes_grant_together_or_none,
    strict_and_open_admission,
    settling_twice_counts_once,
    an_excess_is_booked_as_debt,
    void_gives_everything_back,
    parallel_reserves_grant_exactly_what_fits,
    settling_in_parallel_counts_once,
    a_repeated_reserve_answers_the_same_grant,
    a_changed_key_refuses,
    a_reset_zeroes_used_and_keeps_held,
    absurd_amounts_are_faults,
    ten_thousand_refusals_move_error_counts_only;
    top_up_takes_more_or_nothing,
);

async fn a_clamp_shrinks_the_hold_to_what_is_left(h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    let grant = h.granted(&caller.ask(30, 1_000)).await;
    assert_eq!((grant.output_tokens, grant.held.tokens), (70, 100));
    assert_eq!(grant.output_left, 0);
    assert_eq!(grant.standings[0].held.tokens, 100);
    let shortage = h.short(&caller.ask(1, 1)).await;
    assert_eq!(shortage.kind, LimitKind::Tokens);
    assert_eq!((shortage.used, shortage.held), (0, 100));
    assert_eq!(shortage.requested, 2);
    // Running exchanges hold it: they will give back.
    assert_eq!(shortage.retry_after_ms, Some(1000));
    assert_eq!(h.short(&caller.ask(100, 1)).await.retry_after_ms, None);
}

async fn all_scopes_grant_together_or_none(h: Harness) {
    let alone = h.key(tokens(1_000, Period::Total)).await;
    let group = h.group(tokens(50, Period::Total)).await;
    let caller = h.moved(&alone, Some(&group)).await;
    let first = caller.ask(10, 1_000);
    assert_eq!(h.granted(&first).await.held.tokens, 50);
    let shortage = h.short(&caller.ask(1, 0)).await;
    assert_eq!(shortage.standing.scope, Scope::Group(group.id));
    assert_eq!(h.used_and_held(&caller).await, (0, 50));
    h.settle(&first, used(20)).await;
    let group_now = h.store.standing(caller.claims[1]).await.unwrap();
    assert_eq!((group_now.used.tokens, group_now.held.tokens), (20, 0));
    assert_eq!(h.used_and_held(&caller).await, (20, 0));
}

async fn strict_and_open_admission(h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    let mut ask = caller.ask(30, 71);
    ask.admission = Admission::Strict;
    assert_eq!(h.short(&ask).await.requested, 101);
    ask.admission = Admission::Open;
    let grant = h.granted(&ask).await;
    assert_eq!((grant.output_tokens, grant.held.tokens), (71, 100));
    let mut next = caller.ask(0, 0);
    next.admission = Admission::Open;
    assert_eq!(h.short(&next).await.kind, LimitKind::Tokens);
    let settled = h.settle(&ask, used(140)).await;
    let Settled::Applied { debt, .. } = settled else {
        panic!("{settled:?}");
    };
    assert_eq!(debt.tokens, 40);
}

async fn settling_twice_counts_once(mut h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    let ask = caller.ask(10, 40);
    h.granted(&ask).await;
    let first = h.settle(&ask, used(30)).await;
    assert!(matches!(first, Settled::Applied { charged, .. } if charged.tokens == 30));
    assert_eq!(h.settle(&ask, used(30)).await, Settled::Already);
    h.restart().await;
    assert_eq!(h.settle(&ask, used(30)).await, Settled::Already);
    assert_eq!(h.used_and_held(&caller).await, (30, 0));
    let never = caller.ask(1, 1);
    assert_eq!(h.settle(&never, used(30)).await, Settled::Already);
    assert_eq!(h.used_and_held(&caller).await, (30, 0));
}

async fn an_excess_is_booked_as_debt(h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    let ask = caller.ask(10, 40);
    h.granted(&ask).await;
    let settled = h.settle(&ask, used(130)).await;
    assert!(matches!(settled, Settled::Applied { debt, .. } if debt.tokens == 80));
    assert_eq!(h.used_and_held(&caller).await, (130, 0));
    let shortage = h.short(&caller.ask(0, 0)).await;
    assert_eq!((shortage.kind, shortage.used), (LimitKind::Tokens, 130));
    let at_least = h.key(Quotas::default()).await;
    let ask = at_least.ask(10, 40);
    h.granted(&ask).await;
    h.settle(
        &ask,
        Charge::AtLeast(Amounts {
            tokens: 7,
            ..Amounts::ZERO
        }),
    )
    .await;
    assert_eq!(h.used_and_held(&at_least).await, (50, 0));
}

async fn void_gives_everything_back(h: Harness) {
    let rates = Rates {
        requests_per_minute: 1,
        tokens_per_minute: 100,
        concurrency: 1,
    };
    let caller = h.key(tokens(100, Period::Daily)).await.with_rates(rates);
    for _ in 0..3 {
        let ask = caller.ask(10, 40);
        h.granted(&ask).await;
        h.settle(&ask, Charge::Void).await;
        let standing = h.standing(&caller).await;
        assert_eq!(standing.used, Amounts::ZERO);
        assert_eq!(standing.held, Amounts::ZERO);
        assert_eq!((standing.requests_in_bucket, standing.running), (1, 0));
        assert_eq!(standing.tokens_in_bucket, 100);
    }
}

async fn parallel_reserves_grant_exactly_what_fits(h: Harness) {
    let mut quotas = tokens(0, Period::Total);
    quotas.requests.limit = 37;
    let caller = h.key(quotas).await;
    let asks: Vec<Ask> = (0..500).map(|_| caller.ask(1, 1)).collect();
    let reserves = asks.into_iter().map(|ask| {
        let store = h.store.clone();
        tokio::spawn(async move { store.reserve(ask).await.unwrap() })
    });
    let answers = futures_util::future::join_all(reserves).await;
    let granted = answers
        .into_iter()
        .filter(|answer| matches!(answer.as_ref().unwrap(), Reserved::Granted(_)))
        .count();
    assert_eq!(granted, 37);
    assert_eq!(h.standing(&caller).await.held.requests, 37);
    assert_eq!(h.store.totals().await.unwrap().open_reservations, 37);
}

async fn settling_in_parallel_counts_once(h: Harness) {
    let caller = h.key(tokens(1_000_000, Period::Total)).await;
    for _ in 0..50 {
        let ask = caller.ask(10, 40);
        h.granted(&ask).await;
        let settles = (0..5).map(|_| h.settle(&ask, used(30)));
        let answers = futures_util::future::join_all(settles).await;
        let applied = answers.iter().filter(|a| **a != Settled::Already);
        assert_eq!(applied.count(), 1);
    }
    assert_eq!(h.used_and_held(&caller).await, (1_500, 0));
}

async fn a_repeated_reserve_answers_the_same_grant(h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    let ask = caller.ask(10, 60);
    let first = h.granted(&ask).await;
    let again = h.granted(&ask).await;
    assert_eq!(first.output_tokens, again.output_tokens);
    assert_eq!(first.held, again.held);
    assert_eq!(first.output_left, again.output_left);
    assert_eq!(h.used_and_held(&caller).await, (0, 70));
    h.settle(&ask, used(1)).await;
    assert!(h.store.reserve(ask).await.is_err());
    assert_eq!(h.used_and_held(&caller).await, (1, 0));
}

async fn top_up_takes_more_or_nothing(mut h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    let ask = caller.ask(10, 40);
    let grant = h.granted(&ask).await;
    assert_eq!(grant.output_left, 50);
    let more = |tokens| Amounts {
        tokens,
        ..Amounts::ZERO
    };
    let top_up = |id, n| h.store.top_up(id, &caller.claims, more(n));
    assert!(!top_up(ask.id, 51).await.unwrap());
    assert!(top_up(ask.id, 50).await.unwrap());
    assert!(!top_up(ask.id, 1).await.unwrap());
    assert_eq!(h.used_and_held(&caller).await, (0, 100));
    let stranger = caller.ask(1, 1);
    assert!(!top_up(stranger.id, 0).await.unwrap());
    h.crash().await;
    assert_eq!(h.used_and_held(&caller).await, (100, 0));
}

async fn a_changed_key_refuses(h: Harness) {
    let caller = h.key(Quotas::default()).await;
    let mut record = (*caller.record).clone();
    record.active = false;
    let updated = h.store.update_key(record, audit("disable")).await.unwrap();
    assert!(matches!(
        h.reserve(&caller.ask(1, 1)).await,
        Reserved::KeyChanged
    ));
    let caller = Caller {
        record: updated,
        ..caller
    };
    h.granted(&caller.ask(1, 1)).await;
    h.store
        .delete_key(caller.record.id, audit("delete"))
        .await
        .unwrap();
    assert!(matches!(
        h.reserve(&caller.ask(1, 1)).await,
        Reserved::KeyChanged
    ));
}

async fn a_reset_zeroes_used_and_keeps_held(mut h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    let (settled, open) = (caller.ask(10, 20), caller.ask(10, 20));
    h.granted(&settled).await;
    h.settle(&settled, used(30)).await;
    h.granted(&open).await;
    let scope = caller.claims[0].scope;
    h.store.reset_used(scope, audit("reset")).await.unwrap();
    assert_eq!(h.used_and_held(&caller).await, (0, 30));
    h.settle(&open, used(25)).await;
    assert_eq!(h.used_and_held(&caller).await, (25, 0));
    h.restart().await;
    assert_eq!(h.used_and_held(&caller).await, (25, 0));
    let nobody = Scope::Key(KeyId(Uuid::new_v4()));
    assert!(h.store.reset_used(nobody, audit("reset")).await.is_err());
}

async fn absurd_amounts_are_faults(h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    for (input, output) in [(-1, 0), (0, -1), (i64::MAX, 1), (0, i64::MAX)] {
        assert!(h.store.reserve(caller.ask(input, output)).await.is_err());
    }
    let ask = caller.ask(1, 1);
    h.granted(&ask).await;
    let absurd = Amounts {
        requests: -5,
        tokens: i64::MIN,
        nano_usd: -1,
    };
    h.settle(&ask, Charge::Exact(absurd)).await;
    assert_eq!(h.standing(&caller).await.used, Amounts::ZERO);
    let ask = caller.ask(1, 1);
    h.granted(&ask).await;
    h.settle(&ask, used(i64::MAX)).await;
    assert_eq!(h.used_and_held(&caller).await, (1 << 53, 0));
}

async fn ten_thousand_refusals_move_error_counts_only(h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    let open = caller.ask(10, 80);
    h.granted(&open).await;
    let before = h.standing(&caller).await;
    for _ in 0..10_000 {
        h.short(&caller.ask(11, 10)).await;
        let refusal = refusal(caller.record.id, h.clock.now());
        h.store.book_refusal(refusal).await.unwrap();
    }
    assert_eq!(h.standing(&caller).await, before);
    let activity = h.store.activity(caller.record.id).await.unwrap();
    assert_eq!((activity.request_count, activity.error_count), (0, 10_000));
    let page = h.store.usage_events(all_of(&caller)).await.unwrap();
    assert_eq!(page.total, 60, "rows are bounded per minute");
    let day = h.clock.now().day();
    let errors = h.error_counts(None).await;
    assert_eq!(errors, [(String::from("QUOTA_EXCEEDED"), 10_000)]);
    let rollups = h
        .store
        .rollups(Some(caller.record.id), &day, &day)
        .await
        .unwrap();
    assert_eq!((rollups[0].errors, rollups[0].requests), (10_000, 0));
}
