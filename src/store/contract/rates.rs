//! Windows, per-minute limits, concurrency.

use super::*;

on_every_engine!(
    handed too: requests_per_minute_refill_evenly,
    tokens_per_minute_never_brick_a_large_request,
    concurrency_counts_running_exchanges,
    draws_are_not_rate_limited,
    limits_are_reported_in_order;
    windows_reset_and_old_holds_settle_in_theirs,
    an_hour_back_over_midnight_resets_once,
    a_changed_period_keeps_held_and_used,
    holds_settle_under_the_new_dates_of_their_window,
);

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
    h.crash().await;
    assert_eq!(h.used_and_held(&daily).await, (65, 0));
}

async fn holds_settle_under_the_new_dates_of_their_window(h: Harness) {
    let caller = h.key(tokens(100, Period::Total)).await;
    let (open, expired) = (caller.ask(10, 20), caller.ask(10, 10));
    h.granted(&expired).await;
    h.clock.advance(60_001);
    assert_eq!(h.store.sweep().await.unwrap(), 1);
    h.granted(&open).await;
    let mut daily = caller.clone();
    daily.claims[0].quotas = tokens(100, Period::Daily);
    h.granted(&daily.ask(5, 0)).await;
    assert_eq!(h.used_and_held(&daily).await, (20, 35));
    let late = h.settle(&expired, used(25)).await;
    assert!(matches!(late, Settled::Late { charged } if charged.tokens == 5));
    h.settle(&open, used(12)).await;
    assert_eq!(h.used_and_held(&daily).await, (37, 5));
    // Back to the old period and on to another day: that one is new, whatever dates came before.
    h.granted(&caller.ask(3, 0)).await;
    let yesterday = daily.ask(7, 0);
    h.granted(&yesterday).await;
    h.clock.advance(crate::time::DAY_MS);
    h.settle(&yesterday, used(9)).await;
    assert_eq!(h.used_and_held(&daily).await, (0, 0));
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
