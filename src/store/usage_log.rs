//! What the books say of an exchange: its event, and the sums that events are rolled up into.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::UsageEvent;
use crate::keys::KeyId;
use crate::quota::{Amounts, Reservation};
use crate::time::{DAY_MS, UnixMs};

/// Rows of refused requests written per key and minute; more are counted only.
const REFUSAL_ROWS_PER_MINUTE: u32 = 60;

/// The event of a reservation whose exchange never settled. `reason` says how it was lost.
pub fn event_of_lost(
    lost: &Reservation,
    charged: Amounts,
    reason: &str,
    now: UnixMs,
) -> UsageEvent {
    let subject = &lost.subject;
    let prompt_tokens = subject.input_tokens.min(charged.tokens);
    UsageEvent {
        id: lost.id.0,
        api_key_id: subject.key,
        request_id: subject.request_id.clone(),
        request_method: subject.method.clone(),
        request_path: subject.path.clone(),
        request_size: 0,
        response_status: 0,
        response_size: 0,
        response_time_ms: (now.0 - lost.opened_at.0).max(0),
        first_byte_ms: None,
        requests: charged.requests,
        requests_remaining: None,
        prompt_tokens,
        completion_tokens: charged.tokens - prompt_tokens,
        cached_tokens: 0,
        cache_write_tokens: 0,
        reasoning_tokens: 0,
        total_tokens: charged.tokens,
        model: subject.model.clone(),
        pool: subject.pool.clone(),
        peer: None,
        is_error: true,
        error_code: Some(reason.to_owned()),
        error_message: None,
        total_error_message: None,
        total_cost_nano: charged.nano_usd,
        estimated: true,
        end_user: subject.end_user.clone(),
        client_disconnected: false,
        reason: Some(reason.to_owned()),
        metadata: None,
        created_at: now,
    }
}

impl UsageEvent {
    /// Makes the event say exactly what was charged (invariant I5).
    pub fn set_charged(&mut self, charged: Amounts) {
        self.requests = charged.requests;
        self.total_tokens = charged.tokens;
        self.total_cost_nano = charged.nano_usd;
    }
}

/// Shares out what one reservation was charged: each further event has its requests, as far as they
/// were charged, and no more; the first has the rest, and all tokens and cost.
pub fn share_charge(event: &mut UsageEvent, further: &mut [UsageEvent], charged: Amounts) {
    let mut first = charged;
    for item in further {
        let requests = item.requests.clamp(0, first.requests.max(0));
        item.set_charged(Amounts {
            requests,
            ..Amounts::ZERO
        });
        first.requests -= requests;
    }
    event.set_charged(first);
}

/// An event to write; `row` is false where only the sums move.
#[derive(Debug)]
pub struct Booked {
    pub event: UsageEvent,
    pub row: bool,
}

/// Keeps refused requests from flooding the event table.
#[derive(Debug, Default)]
pub struct FloodGuard {
    minute: i64,
    rows: HashMap<KeyId, u32, RandomState>,
}

impl FloodGuard {
    /// Whether one more row of this key may be written in this minute.
    pub fn allows_row(&mut self, key: KeyId, steady_ms: i64) -> bool {
        let minute = steady_ms.div_euclid(60_000);
        if minute != self.minute {
            self.minute = minute;
            self.rows.clear();
        }
        let rows = self.rows.entry(key).or_default();
        *rows += 1;
        *rows <= REFUSAL_ROWS_PER_MINUTE
    }
}

/// The sums of one day, key and model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DaySums {
    pub calls: i64,
    pub requests: i64,
    pub tokens: i64,
    pub prompt_tokens: i64,
    pub completion_tokens: i64,
    pub cost_nano: i64,
    pub errors: i64,
    pub response_time_ms: i64,
}

/// How many rows events have, and how many of them drew on the request quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowCounts {
    pub events: i64,
    pub charged: i64,
}

/// What a batch of events adds to the sums. Days are counted from the epoch.
#[derive(Debug, Default)]
pub struct Sums<'a> {
    pub rollups: HashMap<(i64, KeyId, &'a str), DaySums, RandomState>,
    pub errors: HashMap<(i64, KeyId, &'a str), i64, RandomState>,
    pub rows: HashMap<(i64, KeyId), RowCounts, RandomState>,
}

impl<'a> Sums<'a> {
    pub fn of(events: impl IntoIterator<Item = &'a Booked>) -> Sums<'a> {
        let mut sums = Sums::default();
        for booked in events {
            sums.add(booked);
        }
        sums
    }

    fn add(&mut self, booked: &'a Booked) {
        let event = &booked.event;
        let day = event.created_at.0.div_euclid(DAY_MS);
        let model = event.model.as_deref().unwrap_or_default();
        let sums = self
            .rollups
            .entry((day, event.api_key_id, model))
            .or_default();
        sums.calls += 1;
        sums.requests = sums.requests.saturating_add(event.requests);
        sums.tokens = sums.tokens.saturating_add(event.total_tokens);
        sums.prompt_tokens = sums.prompt_tokens.saturating_add(event.prompt_tokens);
        sums.completion_tokens = sums
            .completion_tokens
            .saturating_add(event.completion_tokens);
        sums.cost_nano = sums.cost_nano.saturating_add(event.total_cost_nano);
        sums.errors += i64::from(event.is_error);
        sums.response_time_ms = sums.response_time_ms.saturating_add(event.response_time_ms);
        if event.is_error {
            let code = event.error_code.as_deref().unwrap_or("unknown");
            *self
                .errors
                .entry((day, event.api_key_id, code))
                .or_default() += 1;
        }
        if booked.row {
            self.count_row(event);
        }
    }

    /// Takes note of a row alone: of an event whose sums are known already.
    pub fn count_row(&mut self, event: &UsageEvent) {
        let day = event.created_at.0.div_euclid(DAY_MS);
        let counts = self.rows.entry((day, event.api_key_id)).or_default();
        counts.events += 1;
        counts.charged += i64::from(event.requests > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(charged: i64, items: [i64; 3]) -> Vec<i64> {
        let blank = UsageEvent::blank(uuid::Uuid::nil(), KeyId(uuid::Uuid::nil()), UnixMs(0));
        let mut event = blank.clone();
        let mut further = items.map(|requests| UsageEvent {
            requests,
            total_tokens: 9,
            ..blank.clone()
        });
        let charged = Amounts {
            requests: charged,
            tokens: 5,
            nano_usd: 6,
        };
        share_charge(&mut event, &mut further, charged);
        let all = further
            .iter()
            .fold(event.charged(), |sum, item| sum.plus(item.charged()));
        assert_eq!(all, charged, "what is booked is what was charged");
        assert_eq!(event.total_tokens, 5);
        let events = std::iter::once(&event).chain(&further);
        events.map(|event| event.requests).collect()
    }

    #[test]
    fn a_charge_is_shared_out_exactly() {
        assert_eq!(shared(6, [1, 2, 3]), [0, 1, 2, 3]);
        assert_eq!(shared(9, [1, 2, 3]), [3, 1, 2, 3]);
        assert_eq!(shared(4, [1, 2, 3]), [0, 1, 2, 1]);
        assert_eq!(shared(0, [1, 2, 3]), [0, 0, 0, 0]);
        assert_eq!(shared(4, [-1, 2, 0]), [2, 0, 2, 0]);
    }
}
