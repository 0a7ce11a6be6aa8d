//! Reading whole sorted sets, oldest first of each, in rounds: no more is in memory than one round.

use std::collections::{BTreeSet, VecDeque};

use redis::Cmd;

use super::answers::{fault, scored};
use super::days::key_days;
use super::directory::Directory;
use super::link::Link;
use super::names::{EventSet, Shard};
use super::newest::Range;
use crate::keys::KeyId;
use crate::store::StoreResult;
use crate::time::{DAY_MS, UnixMs};

/// Sets that are read side by side, and members of each that one round fetches.
const SIDE_BY_SIDE: usize = 16;
const FETCH: usize = 256;

/// No event is dated later.
const LATEST: UnixMs = UnixMs(1 << 42);

/// How far one sorted set has been read, from its lowest score on.
#[derive(Debug)]
pub(super) struct Cursor {
    name: String,
    /// The last member that was read.
    last: Option<(i64, Vec<u8>)>,
    /// Members of the last one's score that were read.
    at_last: usize,
}

/// Events of one key or of all in a span of time.
#[derive(Debug)]
pub(super) struct EventReader {
    range: Range,
    waiting: VecDeque<Cursor>,
}

impl EventReader {
    /// From `since` to before `until`.
    pub async fn new(
        link: &Link,
        directory: &Directory,
        key: Option<KeyId>,
        since: UnixMs,
        until: UnixMs,
    ) -> StoreResult<EventReader> {
        let of_keys: BTreeSet<(KeyId, Shard)> = match key {
            Some(key) => {
                let homes = directory.homes(key).await?;
                homes.into_iter().map(|shard| (key, shard)).collect()
            }
            // Where there is an event, there are sums of its day.
            None => {
                let last = until.plus_ms(-1).min(LATEST);
                let (first, last) = (since.max(UnixMs(0)).day(), last.max(UnixMs(0)).day());
                let days = key_days(link, directory, None, &first, &last).await?;
                days.into_iter().map(|of| (of.key, of.shard)).collect()
            }
        };
        let sources = of_keys
            .into_iter()
            .flat_map(|(key, shard)| EventSet::ALL.map(|set| Cursor::of(shard.events(key, set))));
        Ok(EventReader {
            range: Range::of(Some(since), Some(until)),
            waiting: sources.collect(),
        })
    }

    /// Of all keys, one day.
    pub async fn of_day(link: &Link, directory: &Directory, day: &str) -> StoreResult<EventReader> {
        let since = UnixMs::parse_rfc3339(&format!("{day}T00:00:00Z"));
        let since = since.ok_or_else(|| fault("a day that is none"))?;
        EventReader::new(link, directory, None, since, since.plus_ms(DAY_MS)).await
    }

    /// The next events as they are stored; `None` at the end.
    pub async fn next(&mut self, link: &Link) -> StoreResult<Option<Vec<Vec<u8>>>> {
        let count = self.waiting.len().min(SIDE_BY_SIDE);
        if count == 0 {
            return Ok(None);
        }
        let mut sources: Vec<Cursor> = self.waiting.drain(..count).collect();
        let pages = read_on(link, &self.range, &mut sources).await?;
        let mut events = Vec::new();
        let mut unread = Vec::new();
        for (source, page) in sources.into_iter().zip(pages) {
            unread.extend((!page.is_last).then_some(source));
            events.extend(page.members.into_iter().map(|(_, event)| event));
        }
        for source in unread.into_iter().rev() {
            self.waiting.push_front(source);
        }
        Ok(Some(events))
    }
}

/// What one round fetched of one set.
#[derive(Debug)]
pub(super) struct SetPage {
    pub members: Vec<(i64, Vec<u8>)>,
    pub is_last: bool,
}

/// The next page of each set.
pub(super) async fn read_on(
    link: &Link,
    range: &Range,
    cursors: &mut [Cursor],
) -> StoreResult<Vec<SetPage>> {
    let reads = cursors.iter().map(|cursor| cursor.read(range));
    let answers = link.ask_all(reads.collect()).await?;
    let mut pages = Vec::with_capacity(cursors.len());
    for (cursor, answer) in cursors.iter_mut().zip(answers) {
        pages.push(cursor.take_in(scored(answer)?));
    }
    Ok(pages)
}

impl Cursor {
    pub fn of(name: String) -> Cursor {
        Cursor {
            name,
            last: None,
            at_last: 0,
        }
    }

    /// What has the last one's score is read once more: what is pruned meanwhile shifts nothing.
    fn most(&self) -> usize {
        FETCH + self.at_last
    }

    fn read(&self, range: &Range) -> Cmd {
        let mut read = redis::cmd("ZRANGE");
        read.arg(&self.name);
        match &self.last {
            Some((score, _)) => read.arg(*score),
            None => read.arg(&range.min),
        };
        read.arg(&range.max).arg("BYSCORE").arg("LIMIT");
        read.arg(0).arg(self.most()).arg("WITHSCORES");
        read
    }

    fn take_in(&mut self, fetched: Vec<(i64, Vec<u8>)>) -> SetPage {
        let is_last = fetched.len() < self.most();
        let mut members = Vec::with_capacity(fetched.len());
        for member in fetched {
            if self.last.as_ref().is_some_and(|last| member <= *last) {
                continue;
            }
            let score = self.last.as_ref().map(|(score, _)| *score);
            self.at_last = if score == Some(member.0) {
                self.at_last + 1
            } else {
                1
            };
            members.push(member.clone());
            self.last = Some(member);
        }
        SetPage { members, is_last }
    }
}
