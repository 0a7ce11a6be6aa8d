//! Of which days there are sums and events. Each shard lists the days of the keys whose home it was.

use super::answers::{fault, strings};
use super::directory::Directory;
use super::link::Link;
use super::names::Shard;
use crate::keys::KeyId;
use crate::store::StoreResult;
use crate::time::{DAY_MS, UnixMs};

/// Characters of a day, `2026-11-21`, which begin an entry of a shard's days.
const DAY_CHARS: usize = 10;
/// Entries of a shard's days that are read in one round.
const CHUNK: usize = 1000;

/// Behind a day: after the entries of all keys, none of whose ids is so long.
const PAST_ANY_ID: [u8; 17] = [0xff; 17];

/// One day of one key in one shard.
#[derive(Debug)]
pub(super) struct KeyDay {
    pub shard: Shard,
    pub key: KeyId,
    pub day: String,
}

/// Days in the range that may have sums; of one key or of all.
pub(super) async fn key_days(
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

/// The first day after this one (empty: of all) that any key has sums of.
pub(super) async fn next_day(link: &Link, after: &str) -> StoreResult<Option<String>> {
    let from = [b"(", after.as_bytes(), &PAST_ANY_ID].concat();
    let reads = Shard::all().map(|shard| {
        let mut read = redis::cmd("ZRANGE");
        read.arg(shard.days())
            .arg(if after.is_empty() { b"-" } else { &from[..] });
        read.arg("+").arg("BYLEX").arg("LIMIT").arg(0).arg(1);
        read
    });
    let mut first: Option<String> = None;
    for answer in link.ask_all(reads.collect()).await? {
        for entry in strings(answer)? {
            let day = day_of(&entry).ok_or_else(|| fault("a day that is none"))?;
            if first.as_deref().is_none_or(|first| day < first) {
                first = Some(day.to_owned());
            }
        }
    }
    Ok(first)
}

/// What the shards list in the range.
async fn listed(
    link: &Link,
    since_day: &str,
    until_day: &str,
    days: &mut Vec<KeyDay>,
) -> StoreResult<()> {
    let end = [b"[", until_day.as_bytes(), &PAST_ANY_ID].concat();
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
