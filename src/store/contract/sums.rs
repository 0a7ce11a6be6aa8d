//! Sums of usage against the plainest way to find them: one event after the other.

use super::chance::Chance;
use super::*;
use crate::store::{SumBy, SumQuery, UsageSum};
use crate::time::DAY_MS;

on_every_engine!(
    handed too: sums_are_those_of_the_events;
    sums_outlive_the_events,
);

pub(super) const BY: [SumBy; 5] = [
    SumBy::Key,
    SumBy::Model,
    SumBy::Day,
    SumBy::ErrorCode,
    SumBy::EndUser,
];

/// Books events of these callers over some days; answers them as they should be kept.
pub(super) async fn random_usage(
    h: &Harness,
    callers: &[Caller],
    chance: &mut Chance,
    count: usize,
) -> Vec<UsageEvent> {
    let some = |text: &str| Some(text.to_owned());
    let mut made = Vec::new();
    for _ in 0..count {
        h.clock.advance(1 + chance.below(DAY_MS as u64 / 4) as i64);
        let caller = chance.pick(callers);
        let n = chance.below(50) as i64;
        let ask = caller.ask(1, n);
        let mut event = UsageEvent {
            model: chance
                .pick(&[None, some("gpt-x"), some("claude-y")])
                .clone(),
            end_user: chance.pick(&[None, some("u1"), some("u2")]).clone(),
            response_time_ms: chance.below(100) as i64,
            ..event(ask.id.0, caller.record.id, h.clock.now())
        };
        if chance.below(4) == 0 {
            event.is_error = true;
            event.error_code = chance.pick(&[None, some("A"), some("B")]).clone();
        }
        match chance.below(5) {
            0 => {
                event.set_charged(Amounts::ZERO);
                event.is_error = true;
                h.store.book_refusal(event.clone()).await.unwrap();
            }
            1 => {
                event.set_charged(Amounts::ZERO);
                h.granted(&ask).await;
                let void = Settlement::new(ask.id, Charge::Void, event.clone());
                h.store.settle(void).await.unwrap();
            }
            _ => {
                let charged = Amounts {
                    requests: 1,
                    tokens: n,
                    nano_usd: 3 * n,
                };
                event.set_charged(charged);
                h.granted(&ask).await;
                let settlement = Settlement::new(ask.id, Charge::Exact(charged), event.clone());
                h.store.settle(settlement).await.unwrap();
            }
        }
        made.push(event);
    }
    made
}

fn name_of(event: &UsageEvent, by: SumBy) -> Option<String> {
    Some(match by {
        SumBy::Key => event.api_key_id.0.to_string(),
        SumBy::Model => event.model.clone().unwrap_or_default(),
        SumBy::Day => event.created_at.day(),
        SumBy::EndUser => event.end_user.clone().unwrap_or_default(),
        SumBy::ErrorCode if !event.is_error => return None,
        SumBy::ErrorCode => event.error_code.clone().unwrap_or("unknown".into()),
    })
}

fn expected(events: &[UsageEvent], query: &SumQuery) -> Vec<UsageSum> {
    let mut sums: Vec<UsageSum> = Vec::new();
    for event in events {
        let wanted = query.key.is_none_or(|key| key == event.api_key_id)
            && (query.since..query.until).contains(&event.created_at);
        let Some(name) = name_of(event, query.by).filter(|_| wanted) else {
            continue;
        };
        let at = sums.iter().position(|sum| sum.name == name);
        let at = at.unwrap_or_else(|| {
            sums.push(UsageSum {
                name,
                ..UsageSum::default()
            });
            sums.len() - 1
        });
        let sum = &mut sums[at];
        sum.calls += 1;
        sum.errors += i64::from(event.is_error);
        if query.by == SumBy::ErrorCode {
            continue;
        }
        sum.requests += event.requests;
        sum.tokens += event.total_tokens;
        sum.prompt_tokens += event.prompt_tokens;
        sum.completion_tokens += event.completion_tokens;
        sum.cost_nano += event.total_cost_nano;
        sum.response_time_ms += event.response_time_ms;
    }
    sums.sort_by(|a, b| match query.by {
        SumBy::Day => a.name.cmp(&b.name),
        _ => (-a.tokens, -a.calls, &a.name).cmp(&(-b.tokens, -b.calls, &b.name)),
    });
    sums
}

async fn sums_are_those_of_the_events(mut h: Harness) {
    let mut chance = Chance::from_env();
    let mut callers = Vec::new();
    for _ in 0..3 {
        callers.push(h.key(Quotas::default()).await);
    }
    let group = h.group(Quotas::default()).await;
    callers[1] = h.moved(&callers[1], Some(&group)).await;
    let events = random_usage(&h, &callers, &mut chance, 80).await;
    h.restart().await;
    // Ends on days, on events, beside them, and anywhere.
    let mut ends = vec![UnixMs(0), UnixMs(i64::MIN), UnixMs(i64::MAX)];
    for event in &events {
        let at = event.created_at;
        ends.extend([at, at.plus_ms(1), at.plus_ms(-at.0.rem_euclid(DAY_MS))]);
    }
    let ids = callers.iter().map(|caller| Some(caller.record.id));
    let keys: Vec<Option<KeyId>> = ids.chain([None]).collect();
    for _ in 0..150 {
        let (one, other) = (*chance.pick(&ends), *chance.pick(&ends));
        let query = SumQuery {
            key: *chance.pick(&keys),
            since: one.min(other),
            until: one.max(other),
            by: *chance.pick(&BY),
        };
        let sums = h.store.usage_sums(query).await.unwrap();
        assert_eq!(sums, expected(&events, &query), "{query:?}");
    }
    let nobody = SumQuery {
        key: Some(KeyId(Uuid::nil())),
        since: UnixMs(0),
        until: UnixMs(i64::MAX),
        by: SumBy::Model,
    };
    assert_eq!(h.store.usage_sums(nobody).await.unwrap(), []);
    let backwards = SumQuery {
        key: None,
        since: h.clock.now(),
        until: UnixMs(0),
        by: SumBy::Key,
    };
    assert_eq!(h.store.usage_sums(backwards).await.unwrap(), []);
}

async fn sums_outlive_the_events(h: Harness) {
    let mut chance = Chance::from_env();
    let callers = [h.key(Quotas::default()).await];
    let events = random_usage(&h, &callers, &mut chance, 20).await;
    h.store.ping().await.unwrap();
    h.store.prune_events(UnixMs(i64::MAX)).await.unwrap();
    for by in BY {
        let query = SumQuery {
            key: None,
            since: UnixMs(0),
            until: UnixMs(i64::MAX),
            by,
        };
        let sums = h.store.usage_sums(query).await.unwrap();
        match by {
            SumBy::EndUser => assert_eq!(sums, []),
            _ => assert_eq!(sums, expected(&events, &query), "{by:?}"),
        }
    }
}
