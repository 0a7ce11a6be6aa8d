//! Sums of days: rollups and error counts. Each shard has them of the keys whose home it was.

use std::collections::BTreeMap;

use super::answers::{fault, pairs};
use super::days::{KeyDay, key_days};
use super::directory::Directory;
use super::layout::{Figures, Packer};
use super::link::Link;
use crate::keys::KeyId;
use crate::store::{Rollup, StoreResult};

/// Days of keys that are read in one round.
const CHUNK: usize = 1000;

/// Figures of a row: those of a [`Rollup`], in its order but for the calls, which are last.
const FIGURES: usize = 8;

pub(super) async fn rollups(
    link: &Link,
    directory: &Directory,
    key: Option<KeyId>,
    since_day: &str,
    until_day: &str,
) -> StoreResult<Vec<Rollup>> {
    let mut sums: BTreeMap<(String, KeyId, String), Rollup> = BTreeMap::new();
    let days = key_days(link, directory, key, since_day, until_day).await?;
    each_rollup(link, &days, |rollup| {
        let name = (rollup.day.clone(), rollup.key, rollup.model.clone());
        match sums.get_mut(&name) {
            Some(sum) => add(sum, &rollup),
            None => drop(sums.insert(name, rollup)),
        }
    })
    .await?;
    Ok(sums.into_values().collect())
}

/// Hands on what each shard has of these days; of a key that moved there may be several of one day.
pub(super) async fn each_rollup(
    link: &Link,
    days: &[KeyDay],
    mut take: impl FnMut(Rollup),
) -> StoreResult<()> {
    for days in days.chunks(CHUNK) {
        let names = days.iter().map(|of| of.shard.sums(of.key, &of.day));
        let answers = link.ask_all(names.map(all_of).collect()).await?;
        for (of, answer) in days.iter().zip(answers) {
            for (model, figures) in pairs(answer)? {
                let model =
                    String::from_utf8(model).map_err(|_| fault("a model without a name"))?;
                take(read_rollup(of, model, &figures)?);
            }
        }
    }
    Ok(())
}

fn read_rollup(of: &KeyDay, model: String, figures: &[u8]) -> StoreResult<Rollup> {
    let is_old = figures.len() < FIGURES * 8;
    let mut figures = Figures(figures);
    let [
        requests,
        tokens,
        prompt_tokens,
        completion_tokens,
        cost_nano,
        errors,
        response_time_ms,
    ] = figures.take()?;
    let calls = match is_old {
        // As book.lua reads older rows.
        true => requests.saturating_add(errors),
        false => figures.next()?,
    };
    Ok(Rollup {
        day: of.day.clone(),
        key: of.key,
        model,
        calls,
        requests,
        tokens,
        prompt_tokens,
        completion_tokens,
        cost_nano,
        errors,
        response_time_ms,
    })
}

/// The reverse of `read_rollup`.
pub(super) fn row_of(rollup: &Rollup) -> Vec<u8> {
    let mut row = Packer::default();
    row.put_all([
        rollup.requests,
        rollup.tokens,
        rollup.prompt_tokens,
        rollup.completion_tokens,
        rollup.cost_nano,
        rollup.errors,
        rollup.response_time_ms,
        rollup.calls,
    ]);
    row.done()
}

fn add(sum: &mut Rollup, more: &Rollup) {
    let figures = [
        (&mut sum.calls, more.calls),
        (&mut sum.requests, more.requests),
        (&mut sum.tokens, more.tokens),
        (&mut sum.prompt_tokens, more.prompt_tokens),
        (&mut sum.completion_tokens, more.completion_tokens),
        (&mut sum.cost_nano, more.cost_nano),
        (&mut sum.errors, more.errors),
        (&mut sum.response_time_ms, more.response_time_ms),
    ];
    for (figure, more) in figures {
        *figure = figure.saturating_add(more);
    }
}

/// As [`each_rollup`], the error codes.
pub(super) async fn each_error_count(
    link: &Link,
    days: &[KeyDay],
    mut take: impl FnMut(&KeyDay, String, i64),
) -> StoreResult<()> {
    for days in days.chunks(CHUNK) {
        let names = days.iter().map(|of| of.shard.errors(of.key, &of.day));
        let answers = link.ask_all(names.map(all_of).collect()).await?;
        for (of, answer) in days.iter().zip(answers) {
            for (code, count) in pairs(answer)? {
                let code = String::from_utf8(code).map_err(|_| fault("an error without a code"))?;
                let count = std::str::from_utf8(&count)
                    .ok()
                    .and_then(|n| n.parse().ok());
                let count = count.ok_or_else(|| fault("a count that is no number"))?;
                take(of, code, count);
            }
        }
    }
    Ok(())
}

fn all_of(name: String) -> redis::Cmd {
    redis::cmd("HGETALL").arg(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::names::Shard;

    #[test]
    fn rows_are_read_back_and_older_ones_have_calls() {
        let key = KeyId(uuid::Uuid::from_u128(1));
        let of = KeyDay {
            shard: Shard::of_key(key),
            key,
            day: String::from("2026-11-21"),
        };
        let row: Vec<u8> = (3..=10).flat_map(i64::to_be_bytes).collect();
        let rollup = read_rollup(&of, String::from("m"), &row).unwrap();
        assert_eq!((rollup.requests, rollup.errors, rollup.calls), (3, 8, 10));
        assert_eq!(row_of(&rollup), row);
        let old = read_rollup(&of, String::from("m"), &row[..56]).unwrap();
        assert_eq!((old.requests, old.response_time_ms, old.calls), (3, 9, 11));
        assert!(read_rollup(&of, String::from("m"), &row[..55]).is_err());
    }
}
