//! What a backup has of what happened: usage events and what operators did. Each is put once, however
//! often it comes.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::RedisStore;
use super::answers::strings;
use super::audit::logs;
use super::booking::event_json;
use super::event_reader::{Cursor, read_on};
use super::layout::Packer;
use super::names::{self, EventSet, Shard};
use super::newest::Range;
use super::queries::{Place, events_at, read_event};
use super::records::{encode_audit, said_of_audit};
use super::restore::Homes;
use crate::keys::KeyId;
use crate::store::{AuditEntry, StoreResult, UsageEvent};
use crate::time::{DAY_MS, UnixMs};

/// Events of backups are ordered behind any that a step books in the same millisecond, by the order in
/// which they come.
const FIRST_RESTORED: i64 = 1 << 52;
/// Events whose places are looked at in one round.
const CHUNK: usize = 256;

/// What makes an event the same: one that came late has the id of its reservation's first.
type Identity = (KeyId, Uuid, bool);

fn identity(event: &UsageEvent) -> Identity {
    let late = event.reason.as_deref() == Some("late");
    (event.api_key_id, event.id, late)
}

impl RedisStore {
    pub(super) async fn put_events(
        &self,
        events: &[&UsageEvent],
        homes: &HashMap<KeyId, Homes>,
    ) -> StoreResult<()> {
        for events in events.chunks(CHUNK) {
            let mut there = self.restored_before(events, homes).await?;
            let count = i64::try_from(events.len()).unwrap_or(0);
            let last = self.take_numbers(names::LAST_RESTORED, FIRST_RESTORED, count);
            let mut order = last.await? - count;
            let mut commands = Vec::new();
            for event in events {
                order += 1;
                let key = event.api_key_id;
                let Some(homes) = homes.get(&key) else {
                    continue;
                };
                if there.insert(identity(event)) {
                    let shard = homes.present;
                    commands.push(homes.list_day(key, &event.created_at.day()));
                    commands.extend(additions(shard, event, order)?);
                }
            }
            self.in_rounds(commands).await?;
        }
        Ok(())
    }

    /// Which of these events are there, wherever their keys' events may be. They are listed once more:
    /// an import may have broken off in between.
    async fn restored_before(
        &self,
        events: &[&UsageEvent],
        homes: &HashMap<KeyId, Homes>,
    ) -> StoreResult<HashSet<Identity>> {
        let mut places: HashSet<Place> = HashSet::new();
        for event in events {
            let key = event.api_key_id;
            for shard in homes.get(&key).into_iter().flat_map(|homes| &homes.all) {
                places.extend(EventSet::ALL.map(|set| (*shard, set, key, event.created_at.0)));
            }
        }
        let places: Vec<Place> = places.into_iter().collect();
        let reads = places.iter().map(|place| events_at(*place));
        let answers = self.link.ask_all(reads.collect()).await?;
        let mut there = HashSet::new();
        let mut listings = Vec::new();
        for ((shard, set, key, at), answer) in places.into_iter().zip(answers) {
            for member in strings(answer)? {
                there.insert(identity(&read_event(&member)?));
                let order = member.get(..8).unwrap_or_default();
                listings.push(listing(shard, set, key, at, order));
            }
        }
        self.in_rounds(listings).await?;
        Ok(there)
    }

    pub(super) async fn put_audit(&self, entries: &[&AuditEntry]) -> StoreResult<()> {
        let mut told: HashMap<Vec<u8>, (Vec<u8>, &AuditEntry)> = HashMap::new();
        for entry in entries {
            let written = encode_audit(entry)?;
            told.entry(said_of_audit(&written)?.to_vec())
                .or_insert((written, entry));
        }
        let times = entries.iter().map(|entry| entry.at);
        let Some((first, last)) = times.clone().min().zip(times.max()) else {
            return Ok(());
        };
        let range = match self.now() {
            // Entries lie where Redis's clock put them: a day covers what clocks differ by.
            None => {
                let micros = |at: UnixMs| UnixMs(at.0.saturating_mul(1000));
                let (since, until) = (first.plus_ms(-DAY_MS), last.plus_ms(DAY_MS));
                Range::of(Some(micros(since)), Some(micros(until)))
            }
            Some(_) => Range::default(),
        };
        for log in logs() {
            let mut cursors = [Cursor::of(log)];
            loop {
                let mut pages = read_on(&self.link, &range, &mut cursors).await?;
                let Some(page) = pages.pop() else { break };
                for (_, entry) in &page.members {
                    told.remove(said_of_audit(entry)?);
                }
                if page.is_last || told.is_empty() {
                    break;
                }
            }
        }
        let commands = told.into_values().map(|(written, entry)| {
            let subject = Uuid::parse_str(&entry.subject).unwrap_or_default();
            let mut add = redis::cmd("ZADD");
            add.arg(Shard::of_key(KeyId(subject)).audit());
            add.arg(entry.at.0.saturating_mul(1000)).arg(written);
            add
        });
        self.in_rounds(commands.collect()).await
    }
}

/// The event itself, and its place in the index.
fn additions(shard: Shard, event: &UsageEvent, order: i64) -> StoreResult<[redis::Cmd; 2]> {
    let (key, at) = (event.api_key_id, event.created_at.0);
    let set = if event.requests > 0 {
        EventSet::Charged
    } else {
        EventSet::Uncharged
    };
    let late = i64::from(identity(event).2);
    let mut head = Packer::default();
    head.put(order)
        .put_all(event.charged().to_array())
        .put(late);
    let member = [head.done(), event_json(event)?].concat();
    let mut add = redis::cmd("ZADD");
    add.arg(shard.events(key, set)).arg(at).arg(member);
    let order = order.to_be_bytes();
    Ok([add, listing(shard, set, key, at, &order)])
}

fn listing(shard: Shard, set: EventSet, key: KeyId, at: i64, order: &[u8]) -> redis::Cmd {
    let entry = [order, key.0.as_bytes()].concat();
    let mut list = redis::cmd("ZADD");
    list.arg(shard.index(set)).arg(at).arg(entry);
    list
}
