//! What is read of usage: events and what is held. And the pruning of old events.
//!
//! A key's events lie in the shard that was its home when they were booked; each shard has an index
//! of all of its events, by which they are listed across keys and pruned.

use std::collections::HashMap;

use redis::{Cmd, Value};

use super::answers::{bytes, fault, int, scored, strings};
use super::directory::Directory;
use super::layout::Figures;
use super::link::Link;
use super::names::{EventSet, Shard};
use super::newest::{Entry, Range, newest};
use crate::keys::KeyId;
use crate::quota::{Amounts, ReservationId};
use crate::store::{Page, StoreResult, Totals, UsageEvent, UsageQuery};
use crate::time::UnixMs;

/// Figures before an event's JSON: its order, what was charged, whether late.
const EVENT_HEAD: usize = 5 * 8;
/// An entry of the index: the order, then the key's id.
const ORDER_BYTES: usize = 8;
/// Events pruned, and open reservations looked at, in one round.
const CHUNK: usize = 500;
/// Where a reservation's held amounts stand (`layout.rs`).
const HELD_FIRST: usize = 48;
const HELD_LAST: usize = 71;

pub(super) async fn usage_events(
    link: &Link,
    directory: &Directory,
    query: &UsageQuery,
) -> StoreResult<Page<UsageEvent>> {
    let range = Range::of(query.since, query.until);
    let shards: Vec<Shard> = match query.key {
        Some(key) => directory.homes(key).await?,
        None => Shard::all().collect(),
    };
    let sets: &[EventSet] = match query.charged_only {
        true => &[EventSet::Charged],
        false => &EventSet::ALL,
    };
    let pairs = |shard: &Shard| sets.iter().map(|set| (*shard, *set)).collect::<Vec<_>>();
    let sets: Vec<(Shard, EventSet)> = shards.iter().flat_map(pairs).collect();
    let names = sets.iter().map(|(shard, set)| match query.key {
        Some(key) => shard.events(key, *set),
        None => shard.index(*set),
    });
    let names: Vec<String> = names.collect();
    let counts = names.iter().map(|name| {
        let mut count = redis::cmd("ZCOUNT");
        count.arg(name).arg(&range.min).arg(&range.max);
        count
    });
    let counts = link.ask_all(counts.collect()).await?;
    let total = counts.iter().map(int).sum::<StoreResult<i64>>()?;
    let limit = query.limit.min(total);
    let mut entries = newest(link, &names, &range, query.skip, limit).await?;
    if query.key.is_none() {
        entries = bodies(link, &sets, entries).await?;
    }
    let items = entries.iter().map(|entry| read_event(&entry.member));
    Ok(Page {
        items: items.collect::<StoreResult<_>>()?,
        total,
    })
}

/// Events of one key and one millisecond in one of its sets.
pub(super) type Place = (Shard, EventSet, KeyId, i64);

/// The events that index entries stand for, in their order; those pruned meanwhile are left out.
pub(super) async fn bodies(
    link: &Link,
    sets: &[(Shard, EventSet)],
    index: Vec<Entry>,
) -> StoreResult<Vec<Entry>> {
    let mut wanted = Vec::with_capacity(index.len());
    let mut places: HashMap<Place, usize> = HashMap::new();
    let mut commands = Vec::new();
    for entry in index {
        let Some((shard, set)) = sets.get(entry.set) else {
            continue;
        };
        let place = (*shard, *set, key_of(&entry.member)?, entry.score);
        let slot = *places.entry(place).or_insert_with(|| {
            commands.push(events_at(place));
            commands.len() - 1
        });
        wanted.push((slot, entry));
    }
    let answers = link.ask_all(commands).await?;
    let answers = answers.into_iter().map(strings);
    let found: Vec<Vec<Vec<u8>>> = answers.collect::<StoreResult<_>>()?;
    let entries = wanted.into_iter().filter_map(|(slot, entry)| {
        let order = entry.member.get(..ORDER_BYTES)?;
        let mut at_once = found.get(slot)?.iter();
        let member = at_once.find(|member| member.starts_with(order))?.clone();
        Some(Entry { member, ..entry })
    });
    Ok(entries.collect())
}

/// Every event of one millisecond.
pub(super) fn events_at((shard, set, key, score): Place) -> Cmd {
    let mut command = redis::cmd("ZRANGE");
    command.arg(shard.events(key, set)).arg(score).arg(score);
    command.arg("BYSCORE");
    command
}

fn key_of(entry: &[u8]) -> StoreResult<KeyId> {
    let id = entry.get(ORDER_BYTES..).map(uuid::Uuid::from_slice);
    match id {
        Some(Ok(id)) => Ok(KeyId(id)),
        _ => Err(fault("an index of events that cannot be read")),
    }
}

/// What was charged is what the step decided, not what the edge asked for.
pub(super) fn read_event(member: &[u8]) -> StoreResult<UsageEvent> {
    let Some((head, json)) = member.split_at_checked(EVENT_HEAD) else {
        return Err(fault("a usage event that is too short"));
    };
    let mut figures = Figures(head);
    let _order = figures.next()?;
    let charged = figures.amounts()?;
    let late = figures.next()? != 0;
    let event: Result<UsageEvent, _> = serde_json::from_slice(json);
    let mut event = event.map_err(|_| fault("a usage event that cannot be read"))?;
    event.set_charged(charged);
    if late {
        event.reason = Some(String::from("late"));
    }
    Ok(event)
}

/// Deletes usage events older than this; answers how many.
pub(super) async fn prune_events(link: &Link, before: UnixMs) -> StoreResult<usize> {
    let mut pruned = 0;
    let pairs = |shard| EventSet::ALL.map(|set| (shard, set));
    let mut sets: Vec<(Shard, EventSet)> = Shard::all().flat_map(pairs).collect();
    while !sets.is_empty() {
        let oldest = sets.iter().map(|(shard, set)| {
            let mut oldest = redis::cmd("ZRANGE");
            oldest.arg(shard.index(*set)).arg("-inf");
            oldest.arg(format!("({}", before.0)).arg("BYSCORE");
            oldest.arg("LIMIT").arg(0).arg(CHUNK).arg("WITHSCORES");
            oldest
        });
        let answers = link.ask_all(oldest.collect()).await?;
        let mut further = Vec::new();
        for (set, answer) in sets.into_iter().zip(answers) {
            let removed = prune_chunk(link, set, &scored(answer)?).await?;
            further.extend((removed > 0).then_some(set));
            pruned += removed;
        }
        sets = further;
    }
    Ok(pruned)
}

/// Deletes what these entries of a shard's index stand for: its oldest.
async fn prune_chunk(
    link: &Link,
    (shard, set): (Shard, EventSet),
    entries: &[(i64, Vec<u8>)],
) -> StoreResult<usize> {
    let Some((last, _)) = entries.last() else {
        return Ok(0);
    };
    let keys = entries.iter().map(|(_, entry)| key_of(entry));
    let mut keys: Vec<KeyId> = keys.collect::<StoreResult<_>>()?;
    keys.sort_unstable();
    keys.dedup();
    let until_last = |name: String| {
        let mut remove = redis::cmd("ZREMRANGEBYSCORE");
        remove.arg(name).arg("-inf").arg(*last);
        remove
    };
    // The events first: what the index still names is found again, and pruned, however this ends.
    let events = keys.iter().map(|key| until_last(shard.events(*key, set)));
    link.ask_all(events.collect()).await?;
    let removed = int(&link.ask(until_last(shard.index(set))).await?)?;
    Ok(usize::try_from(removed).unwrap_or(0))
}

/// The sums of all open reservations.
pub(super) async fn totals(link: &Link) -> StoreResult<Totals> {
    let mut totals = Totals::default();
    let mut shards: Vec<Shard> = Shard::all().collect();
    let mut first = 0;
    while !shards.is_empty() {
        let ranges = shards.iter().map(|shard| {
            let mut range = redis::cmd("ZRANGE");
            range.arg(shard.leases()).arg(first).arg(first + CHUNK - 1);
            range
        });
        let answers = link.ask_all(ranges.collect()).await?;
        let mut further = Vec::new();
        for (shard, answer) in shards.into_iter().zip(answers) {
            let ids = strings(answer)?;
            further.extend((ids.len() == CHUNK).then_some(shard));
            if !ids.is_empty() {
                add_held(link, shard, &ids, &mut totals).await?;
            }
        }
        shards = further;
        first += CHUNK;
    }
    Ok(totals)
}

async fn add_held(
    link: &Link,
    shard: Shard,
    ids: &[Vec<u8>],
    totals: &mut Totals,
) -> StoreResult<()> {
    let mut reads = Vec::with_capacity(ids.len());
    for id in ids {
        let id = uuid::Uuid::from_slice(id).map(ReservationId);
        let id = id.map_err(|_| fault("a lease of no reservation"))?;
        let mut read = redis::cmd("GETRANGE");
        read.arg(shard.reservation(id))
            .arg(HELD_FIRST)
            .arg(HELD_LAST);
        reads.push(read);
    }
    for answer in link.ask_all(reads).await? {
        if let Some(held) = held_of(answer)? {
            totals.open_reservations += 1;
            totals.held = totals.held.plus(held);
        }
    }
    Ok(())
}

/// `None` for one that ended in between.
fn held_of(answer: Value) -> StoreResult<Option<Amounts>> {
    let figures = bytes(answer)?.unwrap_or_default();
    if figures.is_empty() {
        return Ok(None);
    }
    Figures(&figures).amounts().map(Some)
}
