//! Asking the books what was used: events, and their sums.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::keys::KeyId;
use crate::time::{UnixMs, as_ms};

/// Which usage events to read, newest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UsageQuery {
    pub key: Option<KeyId>,
    pub since: Option<UnixMs>,
    /// Exclusive.
    pub until: Option<UnixMs>,
    /// Only events that drew on the request quota.
    pub charged_only: bool,
    pub skip: i64,
    pub limit: i64,
}

/// One day of one key and model. Kept for good. `requests`, `tokens` and `cost_nano` are what was
/// charged; `errors` counts failed answers and refusals, charged or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollup {
    /// `2026-11-21`, UTC.
    pub day: String,
    pub key: KeyId,
    /// Empty where no model was named.
    pub model: String,
    /// Everything that was asked: exchanges, draws and refusals, whatever came of them.
    #[serde(default)]
    pub calls: i64,
    pub requests: i64,
    pub tokens: i64,
    pub prompt_tokens: i64,
    pub completion_tokens: i64,
    pub cost_nano: i64,
    pub errors: i64,
    pub response_time_ms: i64,
}

/// What sums are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SumBy {
    Key,
    Model,
    /// UTC.
    Day,
    /// Of failed answers and refusals only.
    ErrorCode,
    /// The caller's own word for whom it asked. Kept in events only: as far back as they are.
    EndUser,
}

/// Which usage to sum up.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SumQuery {
    pub key: Option<KeyId>,
    #[serde(with = "as_ms")]
    pub since: UnixMs,
    /// Exclusive.
    #[serde(with = "as_ms")]
    pub until: UnixMs,
    pub by: SumBy,
}

/// The usage of one key, model, day, error code or end user. The figures mean what they mean in a
/// [`Rollup`]; of an error code `calls` and `errors` are known and the others 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageSum {
    /// The key's id, the model or end user (empty where none was named), the day or the code.
    pub name: String,
    pub calls: i64,
    pub requests: i64,
    pub tokens: i64,
    pub prompt_tokens: i64,
    pub completion_tokens: i64,
    pub cost_nano: i64,
    pub errors: i64,
    /// All answer times together.
    pub response_time_ms: i64,
}

impl SumBy {
    /// Most tokens first, then most calls, then by name; days oldest first.
    pub fn sort(self, sums: &mut [UsageSum]) {
        sums.sort_unstable_by(|a, b| {
            let by_name = a.name.cmp(&b.name);
            if self == SumBy::Day {
                return by_name;
            }
            let most = b.tokens.cmp(&a.tokens).then(b.calls.cmp(&a.calls));
            most.then(by_name)
        });
    }
}

/// Sums that come in pieces: of days, of parts of days, of shards.
#[derive(Debug, Default)]
pub struct SumsByName(HashMap<String, UsageSum>);

impl SumsByName {
    /// One more piece of the sum of its name.
    pub fn add(&mut self, piece: UsageSum) {
        let Some(sum) = self.0.get_mut(&piece.name) else {
            self.0.insert(piece.name.clone(), piece);
            return;
        };
        let figures = [
            (&mut sum.calls, piece.calls),
            (&mut sum.requests, piece.requests),
            (&mut sum.tokens, piece.tokens),
            (&mut sum.prompt_tokens, piece.prompt_tokens),
            (&mut sum.completion_tokens, piece.completion_tokens),
            (&mut sum.cost_nano, piece.cost_nano),
            (&mut sum.errors, piece.errors),
            (&mut sum.response_time_ms, piece.response_time_ms),
        ];
        for (figure, more) in figures {
            *figure = figure.saturating_add(more);
        }
    }

    /// All sums, in the order of `by`.
    pub fn into_sorted(self, by: SumBy) -> Vec<UsageSum> {
        let mut sums: Vec<UsageSum> = self.0.into_values().collect();
        by.sort(&mut sums);
        sums
    }
}
