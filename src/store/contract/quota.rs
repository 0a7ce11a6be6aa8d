//! Reserve, settle, leases, windows, rates.

use super::*;

on_every_engine!(
    a_clamp_shrinks_the_hold_to_what_is_left,
    all_scopes_grant_together_or_none,
    strict_and_open_admission,
    settling_twice_counts_once,
    an_excess_is_booked_as_debt,
    void_gives_everything_back,
    parallel_reserves_grant_exactly_what_fits,
    settling_in_parallel_counts_once,
    a_lease_runs_out_and_is_charged_once,
    a_renewed_lease_never_runs_out,
    a_late_settle_charges_the_rest,
    a_released_lease_is_charged_late,
    a_repeated_reserve_answers_the_same_grant,
    top_up_takes_more_or_nothing,
    windows_reset_and_old_holds_settle_in_theirs,
    an_hour_back_over_midnight_resets_once,
    a_changed_period_keeps_held_and_used,
    requests_per_minute_refill_evenly,
    tokens_per_minute_never_brick_a_large_request,
    concurrency_counts_running_exchanges,
    draws_are_not_rate_limited,
    a_changed_key_refuses,
    a_reset_zeroes_used_and_keeps_held,
    absurd_amounts_are_faults,
    limits_are_reported_in_order,
    ten_thousand_refusals_move_error_counts_only,
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
    let mut caller = h.key(tokens(1_000, Period::Total)).await;
    let group = crate::store::GroupRecord {
        id: GroupId(Uuid::new_v4()),
        name: String::from("team"),
        quotas: tokens(50, Period::Total),
        allowed_pools: Vec::new(),
        allowed_models: Vec::new(),
        version: 0,
        created_at: h.clock.now(),
        updated_at: h.clock.now(),
    };
    h.store
        .put_group(group.clone(), audit("group"))
        .await
        .unwrap();
    caller.claims.push(ScopeClaim {
        scope: Scope::Group(group.id),
        quotas: group.quotas,
        rates: Rates::default(),
    });
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
    h.crash();
    assert_eq!(h.used_and_held(&caller).await, (100, 0));
}

async fn windows_reset_and_old_holds_settle_in_theirs(h: Harness) {
    let caller = h.key(tokens(100, Period::Daily)).await;
    let old = caller.ask(10, 40);
    h.granted(&old).await;
    let settled = caller.ask(10, 40);
    h.granted(&settled).await;
    h.settle(&settled, used(50)).await;
    let shortage = h.short(&caller.ask(10, 0)).await;
    assert_eq!(shortage.retry_after_ms, Some(1000));
    h.clock.advance(crate::time::DAY_MS);
    let grant = h.granted(&caller.ask(100, 0)).await;
    assert_eq!(grant.held.tokens, 100);
    // The hold of yesterday gives nothing to today and takes nothing from it.
    h.settle(&old, used(70)).await;
    assert_eq!(h.used_and_held(&caller).await, (0, 100));
    let shortage = h.short(&caller.ask(101, 0)).await;
    assert_eq!(shortage.retry_after_ms, None);
    let events = h.store.usage_events(all_of(&caller)).await.unwrap();
    assert_eq!(
        events.items.iter().map(|e| e.total_tokens).sum::<i64>(),
        120
    );
}

async fn an_hour_back_over_midnight_resets_once(h: Harness) {
    let caller = h.key(tokens(100, Period::Daily)).await;
    let to_midnight = crate::time::DAY_MS - BEGIN % crate::time::DAY_MS;
    h.clock.jump(to_midnight - 1000);
    let ask = caller.ask(90, 0);
    h.granted(&ask).await;
    h.settle(&ask, used(90)).await;
    h.clock.jump(2_000);
    let ask = caller.ask(90, 0);
    h.granted(&ask).await;
    h.settle(&ask, used(90)).await;
    h.clock.jump(-3_600_000);
    assert_eq!(h.used_and_held(&caller).await, (90, 0));
    h.short(&caller.ask(90, 0)).await;
    h.clock.jump(3_600_000);
    assert_eq!(h.used_and_held(&caller).await, (90, 0));
}

async fn a_changed_period_keeps_held_and_used(mut h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    let first = caller.ask(10, 20);
    h.granted(&first).await;
    h.settle(&first, used(30)).await;
    let open = caller.ask(10, 20);
    h.granted(&open).await;
    let mut daily = caller.clone();
    daily.claims[0].quotas = tokens(100, Period::Daily);
    let other = daily.ask(5, 0);
    h.granted(&other).await;
    assert_eq!(h.used_and_held(&daily).await, (30, 35));
    h.crash();
    assert_eq!(h.used_and_held(&daily).await, (65, 0));
}

async fn requests_per_minute_refill_evenly(h: Harness) {
    let rates = Rates {
        requests_per_minute: 3,
        ..Rates::default()
    };
    let caller = h.key(Quotas::default()).await.with_rates(rates);
    for _ in 0..3 {
        h.granted(&caller.ask(1, 1)).await;
    }
    let shortage = h.short(&caller.ask(1, 1)).await;
    assert_eq!(shortage.kind, LimitKind::RequestsPerMinute);
    assert_eq!(shortage.retry_after_ms, Some(20_000));
    h.clock.advance(19_999);
    assert_eq!(h.short(&caller.ask(1, 1)).await.retry_after_ms, Some(1));
    h.clock.advance(1);
    h.granted(&caller.ask(1, 1)).await;
    h.clock.advance(3_600_000);
    assert_eq!(h.standing(&caller).await.requests_in_bucket, 3);
}

async fn tokens_per_minute_never_brick_a_large_request(h: Harness) {
    let rates = Rates {
        tokens_per_minute: 100,
        ..Rates::default()
    };
    let caller = h.key(Quotas::default()).await.with_rates(rates);
    let small = caller.ask(10, 0);
    h.granted(&small).await;
    let large = caller.ask(10, 1_000);
    let shortage = h.short(&large).await;
    assert_eq!(shortage.kind, LimitKind::TokensPerMinute);
    assert_eq!(
        (shortage.requested, shortage.retry_after_ms),
        (100, Some(6_000))
    );
    h.clock.advance(6_000);
    assert_eq!(h.granted(&large).await.output_tokens, 1_000);
    h.settle(&large, used(160)).await;
    // 100 were taken, 160 were used: 60 of debt.
    assert_eq!(h.standing(&caller).await.tokens_in_bucket, -60);
    h.settle(&small, used(4)).await;
    assert_eq!(h.standing(&caller).await.tokens_in_bucket, -54);
}

async fn concurrency_counts_running_exchanges(h: Harness) {
    let rates = Rates {
        concurrency: 2,
        ..Rates::default()
    };
    let caller = h.key(Quotas::default()).await.with_rates(rates);
    let (a, b) = (caller.ask(1, 1), caller.ask(1, 1));
    h.granted(&a).await;
    h.granted(&b).await;
    let shortage = h.short(&caller.ask(1, 1)).await;
    assert_eq!((shortage.kind, shortage.held), (LimitKind::Concurrency, 2));
    h.settle(&a, used(1)).await;
    h.granted(&caller.ask(1, 1)).await;
}

async fn draws_are_not_rate_limited(h: Harness) {
    let rates = Rates {
        requests_per_minute: 1,
        tokens_per_minute: 1,
        concurrency: 1,
    };
    let mut quotas = Quotas::default();
    quotas.requests.limit = 10;
    let caller = h.key(quotas).await.with_rates(rates);
    let draw = |requests| Ask {
        requests,
        rate_limited: false,
        admission: Admission::Strict,
        ..caller.ask(0, 0)
    };
    h.granted(&draw(4)).await;
    h.granted(&draw(5)).await;
    let shortage = h.short(&draw(2)).await;
    assert_eq!(
        (shortage.kind, shortage.requested),
        (LimitKind::Requests, 2)
    );
    h.granted(&draw(1)).await;
    assert_eq!(h.standing(&caller).await.requests_in_bucket, 1);
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

async fn limits_are_reported_in_order(h: Harness) {
    let limit = |limit| Limit {
        limit,
        period: Period::Total,
    };
    let quotas = Quotas {
        requests: limit(1),
        tokens: limit(1),
        usd: limit(1),
    };
    let rates = Rates {
        requests_per_minute: 1,
        tokens_per_minute: 1,
        concurrency: 1,
    };
    let caller = h.key(quotas).await.with_rates(rates);
    h.granted(&caller.ask(0, 1)).await;
    let mut loosened = caller.clone();
    let mut kinds = Vec::new();
    for step in 0..6 {
        kinds.push(h.short(&loosened.ask(0, 1)).await.kind);
        let claim = &mut loosened.claims[0];
        match step {
            0 => claim.quotas.requests.limit = 0,
            1 => claim.quotas.tokens.limit = 0,
            2 => claim.quotas.usd.limit = 0,
            3 => claim.rates.requests_per_minute = 0,
            4 => claim.rates.tokens_per_minute = 0,
            _ => claim.rates.concurrency = 0,
        }
    }
    let order = [
        LimitKind::Requests,
        LimitKind::Tokens,
        LimitKind::Usd,
        LimitKind::RequestsPerMinute,
        LimitKind::TokensPerMinute,
        LimitKind::Concurrency,
    ];
    assert_eq!(kinds, order);
    h.granted(&loosened.ask(0, 1)).await;
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
    let errors = h.store.error_counts(None, &day, &day).await.unwrap();
    assert_eq!(errors, [(String::from("QUOTA_EXCEEDED"), 10_000)]);
    let rollups = h
        .store
        .rollups(Some(caller.record.id), &day, &day)
        .await
        .unwrap();
    assert_eq!((rollups[0].errors, rollups[0].requests), (10_000, 0));
}

fn all_of(caller: &Caller) -> crate::store::UsageQuery {
    crate::store::UsageQuery {
        key: Some(caller.record.id),
        limit: 1_000,
        ..Default::default()
    }
}
