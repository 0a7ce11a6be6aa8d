//! Sums of days: rollups and error counts. Each shard has them of the keys whose home it was.

use std::collections::BTreeMap;

use super::answers::{fault, pairs, strings};
use super::directory::Directory;
use super::layout::Figures;
use super::link::Link;
use super::names::Shard;
use crate::keys::KeyId;
use crate::store::{Rollup, StoreResult};
use crate::time::{DAY_MS, UnixMs};

/// Characters of a day, `2026-11-21`, which begin an entry of a shard's days.
const DAY_CHARS: usize = 10;
/// Entries of a shard's days that are read in one round.
const CHUNK: usize = 1000;

/// One day of one key in one shard.
struct KeyDay {
    shard: Shard,
    key: KeyId,
    day: String,
}

pub(super) async fn rollups(
    link: &Link,
    directory: &Directory,
    key: Option<KeyId>,
    since_day: &str,
    until_day: &str,
) -> StoreResult<Vec<Rollup>> {
    let mut sums: BTreeMap<(String, KeyId, String), [i64; 7]> = BTreeMap::new();
    let days = key_days(link, directory, key, since_day, until_day).await?;
    for days in days.chunks(CHUNK) {
        let names = days.iter().map(|of| of.shard.sums(of.key, &of.day));
        let answers = link.ask_all(names.map(all_of).collect()).await?;
        for (of, answer) in days.iter().zip(answers) {
            for (model, figures) in pairs(answer)? {
                let model =
                    String::from_utf8(model).map_err(|_| fault("a model without a name"))?;
                let more: [i64; 7] = Figures(&figures).take()?;
                let sum = sums.entry((of.day.clone(), of.key, model)).or_default();
                for (sum, more) in sum.iter_mut().zip(more) {
                    *sum = sum.saturating_add(more);
                }
            }
        }
    }
    let rollups = sums.into_iter().map(|((day, key, model), figures)| {
        let [
            requests,
            tokens,
            prompt_tokens,
            completion_tokens,
            cost_nano,
            errors,
            response_time_ms,
        ] = figures;
        Rollup {
            day,
            key,
            model,
            calls: 0,
            requests,
            tokens,
            prompt_tokens,
            completion_tokens,
            cost_nano,
            errors,
            response_time_ms,
        }
    });
    Ok(rollups.collect())
}

pub(super) async fn error_counts(
    link: &Link,
    directory: &Directory,
    key: Option<KeyId>,
    since_day: &str,
    until_day: &str,
) -> StoreResult<Vec<(String, i64)>> {
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    let days = key_days(link, directory, key, since_day, until_day).await?;
    for days in days.chunks(CHUNK) {
        let names = days.iter().map(|of| of.shard.errors(of.key, &of.day));
        for answer in link.ask_all(names.map(all_of).collect()).await? {
            for (code, count) in pairs(answer)? {
                let code = String::from_utf8(code).map_err(|_| fault("an error without a code"))?;
                let count = std::str::from_utf8(&count)
                    .ok()
                    .and_then(|n| n.parse().ok());
                let count: i64 = count.ok_or_else(|| fault("a count that is no number"))?;
                *counts.entry(code).or_default() += count;
            }
        }
    }
    let mut counts: Vec<(String, i64)> = counts.into_iter().collect();
    counts.sort_by(|(a, of_a), (b, of_b)| of_b.cmp(of_a).then(a.cmp(b)));
    Ok(counts)
}

fn all_of(name: String) -> redis::Cmd {
    redis::cmd("HGETALL").arg(name).to_owned()
}

/// Days in the range that may have sums; of one key or of all.
async fn key_days(
    link: &Link,
    directory: &Directory,
    key: Option<KeyId>,
    since_day: &str,
    until_day: &str,
) -> StoreResult<Vec<KeyDay>> {
    let mut days = Vec::new();
    match key {
        Some(key) => {
            for shard in directory.homes(key).await? {
                let of_shard = span(link, shard).await?.into_iter();
                let wanted = of_shard.filter(|day| since_day <= &**day && &**day <= until_day);
                days.extend(wanted.map(|day| KeyDay { shard, key, day }));
            }
        }
        None => listed(link, since_day, until_day, &mut days).await?,
    }
    Ok(days)
}

/// Every day from the first to the last that a shard has sums of.
async fn span(link: &Link, shard: Shard) -> StoreResult<Vec<String>> {
    let ends = [0, -1].map(|at| {
        let mut end = redis::cmd("ZRANGE");
        end.arg(shard.days()).arg(at).arg(at);
        end
    });
    let mut ends = link.ask_all(ends.into()).await?.into_iter().map(strings);
    let mut next = || ends.next().transpose();
    let (Some(first), Some(last)) = (next()?, next()?) else {
        return Ok(Vec::new());
    };
    let ([first, ..], [last, ..]) = (&first[..], &last[..]) else {
        return Ok(Vec::new());
    };
    let noon = |entry: &[u8]| {
        let day = day_of(entry)?;
        UnixMs::parse_rfc3339(&format!("{day}T12:00:00Z"))
    };
    let (Some(first), Some(last)) = (noon(first), noon(last)) else {
        return Err(fault("a day that is none"));
    };
    let mut days = Vec::new();
    let mut at = first;
    while at <= last {
        days.push(at.day());
        at = at.plus_ms(DAY_MS);
    }
    Ok(days)
}

/// What the shards list in the range.
async fn listed(
    link: &Link,
    since_day: &str,
    until_day: &str,
    days: &mut Vec<KeyDay>,
) -> StoreResult<()> {
    // No key's id is longer than what follows the last day here.
    let end = [b"[", until_day.as_bytes(), &[0xff; 17]].concat();
    let mut shards: Vec<Shard> = Shard::all().collect();
    let mut first = 0;
    while !shards.is_empty() {
        let pages = shards.iter().map(|shard| {
            let mut page = redis::cmd("ZRANGE");
            page.arg(shard.days()).arg(format!("[{since_day}"));
            page.arg(&end)
                .arg("BYLEX")
                .arg("LIMIT")
                .arg(first)
                .arg(CHUNK);
            page
        });
        let answers = link.ask_all(pages.collect()).await?;
        let mut further = Vec::new();
        for (shard, answer) in shards.into_iter().zip(answers) {
            let entries = strings(answer)?;
            further.extend((entries.len() == CHUNK).then_some(shard));
            for entry in &entries {
                let id = entry.get(DAY_CHARS..);
                let key = id.and_then(|id| uuid::Uuid::from_slice(id).ok());
                let (Some(day), Some(key)) = (day_of(entry), key) else {
                    return Err(fault("a day that is none"));
                };
                let (day, key) = (day.to_owned(), KeyId(key));
                days.push(KeyDay { shard, key, day });
            }
        }
        shards = further;
        first += CHUNK;
    }
    Ok(())
}

fn day_of(entry: &[u8]) -> Option<&str> {
    std::str::from_utf8(entry.get(..DAY_CHARS)?).ok()
}
