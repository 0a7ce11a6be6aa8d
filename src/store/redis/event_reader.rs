//! Reading many events, oldest first of each key, in rounds: no more is in memory than one round.

use std::collections::{BTreeSet, VecDeque};

use redis::Cmd;

use super::answers::scored;
use super::days::key_days;
use super::directory::Directory;
use super::link::Link;
use super::names::{EventSet, Shard};
use super::newest::Range;
use crate::keys::KeyId;
use crate::store::StoreResult;
use crate::time::UnixMs;

/// Sets that are read side by side, and members of each that one round fetches.
const SIDE_BY_SIDE: usize = 16;
const FETCH: usize = 256;

/// No event is dated later.
const LATEST: UnixMs = UnixMs(1 << 42);

/// One set of events of one key.
#[derive(Debug)]
struct Source {
    shard: Shard,
    key: KeyId,
    set: EventSet,
    /// The last member that was read.
    last: Option<(i64, Vec<u8>)>,
    /// Members of the last one's millisecond that were read.
    at_last: usize,
}

/// Events of one key or of all in a span of time.
#[derive(Debug)]
pub(super) struct EventReader {
    range: Range,
    waiting: VecDeque<Source>,
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
        let sources = of_keys.into_iter().flat_map(|(key, shard)| {
            EventSet::ALL.map(|set| Source {
                shard,
                key,
                set,
                last: None,
                at_last: 0,
            })
        });
        Ok(EventReader {
            range: Range::of(Some(since), Some(until)),
            waiting: sources.collect(),
        })
    }

    /// The next events as they are stored; `None` at the end.
    pub async fn next(&mut self, link: &Link) -> StoreResult<Option<Vec<Vec<u8>>>> {
        let count = self.waiting.len().min(SIDE_BY_SIDE);
        if count == 0 {
            return Ok(None);
        }
        let sources: Vec<Source> = self.waiting.drain(..count).collect();
        let reads = sources.iter().map(|source| source.read(&self.range));
        let answers = link.ask_all(reads.collect()).await?;
        let mut events = Vec::new();
        let mut unread = Vec::new();
        for (mut source, answer) in sources.into_iter().zip(answers) {
            let members = scored(answer)?;
            let is_last = members.len() < source.most();
            source.take_in(members, &mut events);
            unread.extend((!is_last).then_some(source));
        }
        for source in unread.into_iter().rev() {
            self.waiting.push_front(source);
        }
        Ok(Some(events))
    }
}

impl Source {
    /// The last one's millisecond is read once more: what is pruned meanwhile shifts nothing.
    fn most(&self) -> usize {
        FETCH + self.at_last
    }

    fn read(&self, range: &Range) -> Cmd {
        let mut read = redis::cmd("ZRANGE");
        read.arg(self.shard.events(self.key, self.set));
        match &self.last {
            Some((score, _)) => read.arg(*score),
            None => read.arg(&range.min),
        };
        read.arg(&range.max).arg("BYSCORE").arg("LIMIT");
        read.arg(0).arg(self.most()).arg("WITHSCORES");
        read
    }

    fn take_in(&mut self, members: Vec<(i64, Vec<u8>)>, events: &mut Vec<Vec<u8>>) {
        for member in members {
            if self.last.as_ref().is_some_and(|last| member <= *last) {
                continue;
            }
            let score = self.last.as_ref().map(|(score, _)| *score);
            self.at_last = if score == Some(member.0) {
                self.at_last + 1
            } else {
                1
            };
            events.push(member.1.clone());
            self.last = Some(member);
        }
    }
}
