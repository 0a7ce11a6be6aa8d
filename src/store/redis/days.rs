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
    let Some((first, last)) = ends(link, &[shard]).await? else {
        return Ok(Vec::new());
    };
    all_days(&first, &last)
}

/// Each day from the first to the last.
pub(super) fn all_days(first: &str, last: &str) -> StoreResult<Vec<String>> {
    let noon = |day: &str| UnixMs::parse_rfc3339(&format!("{day}T12:00:00Z"));
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

/// The first and the last day that these shards have sums of.
pub(super) async fn ends(link: &Link, shards: &[Shard]) -> StoreResult<Option<(String, String)>> {
    let reads = shards.iter().flat_map(|shard| {
        [0, -1].map(|at| {
            let mut end = redis::cmd("ZRANGE");
            end.arg(shard.days()).arg(at).arg(at);
            end
        })
    });
    let mut found = Vec::new();
    for answer in link.ask_all(reads.collect()).await? {
        for entry in strings(answer)? {
            let day = day_of(&entry).ok_or_else(|| fault("a day that is none"))?;
            found.push(day.to_owned());
        }
    }
    found.sort_unstable();
    let first = found.first().cloned();
    Ok(first.zip(found.pop()))
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
