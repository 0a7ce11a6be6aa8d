//! Usage summed up: whole days from their sums, parts of days and end users from events.

use super::days::key_days;
use super::directory::Directory;
use super::event_reader::EventReader;
use super::link::Link;
use super::queries::read_event;
use super::sums::{each_error_count, each_rollup};
use crate::store::span::Span;
use crate::store::usage::SumsByName;
use crate::store::{Rollup, StoreResult, SumBy, SumQuery, UsageEvent, UsageSum};

pub(super) async fn usage_sums(
    link: &Link,
    directory: &Directory,
    query: &SumQuery,
) -> StoreResult<Vec<UsageSum>> {
    let mut sums = SumsByName::default();
    let parts = match query.by {
        SumBy::EndUser => vec![query.since..query.until],
        _ => {
            let span = Span::of(query.since, query.until);
            if let Some((first, last)) = span.whole_days() {
                let days = key_days(link, directory, query.key, &first, &last).await?;
                if query.by == SumBy::ErrorCode {
                    each_error_count(link, &days, |_, code, errors| {
                        sums.add(failed(code, errors));
                    })
                    .await?;
                } else {
                    each_rollup(link, &days, |rollup| sums.add(of_rollup(rollup, query.by)))
                        .await?;
                }
            }
            span.parts
        }
    };
    for part in parts {
        let mut reader = EventReader::new(link, directory, query.key, part.start, part.end).await?;
        while let Some(events) = reader.next(link).await? {
            for event in events {
                if let Some(piece) = of_event(read_event(&event)?, query.by) {
                    sums.add(piece);
                }
            }
        }
    }
    Ok(sums.into_sorted(query.by))
}

fn failed(code: String, errors: i64) -> UsageSum {
    UsageSum {
        name: code,
        calls: errors,
        errors,
        ..UsageSum::default()
    }
}

fn of_rollup(rollup: Rollup, by: SumBy) -> UsageSum {
    UsageSum {
        name: match by {
            SumBy::Key => rollup.key.0.to_string(),
            SumBy::Day => rollup.day,
            SumBy::Model | SumBy::ErrorCode | SumBy::EndUser => rollup.model,
        },
        calls: rollup.calls,
        requests: rollup.requests,
        tokens: rollup.tokens,
        prompt_tokens: rollup.prompt_tokens,
        completion_tokens: rollup.completion_tokens,
        cost_nano: rollup.cost_nano,
        errors: rollup.errors,
        response_time_ms: rollup.response_time_ms,
    }
}

/// `None` for an event that has no part in these sums.
fn of_event(event: UsageEvent, by: SumBy) -> Option<UsageSum> {
    let name = match by {
        SumBy::Key => event.api_key_id.0.to_string(),
        SumBy::Day => event.created_at.day(),
        SumBy::Model => event.model.unwrap_or_default(),
        SumBy::EndUser => event.end_user.unwrap_or_default(),
        SumBy::ErrorCode => {
            let code = event.is_error.then_some(event.error_code)?;
            return Some(failed(code.unwrap_or_else(|| String::from("unknown")), 1));
        }
    };
    Some(UsageSum {
        name,
        calls: 1,
        requests: event.requests,
        tokens: event.total_tokens,
        prompt_tokens: event.prompt_tokens,
        completion_tokens: event.completion_tokens,
        cost_nano: event.total_cost_nano,
        errors: i64::from(event.is_error),
        response_time_ms: event.response_time_ms,
    })
}
