//! All events there are, oldest first, by the shards' indexes read as one.

use std::collections::VecDeque;

use super::event_reader::{Cursor, read_on};
use super::link::Link;
use super::names::{EventSet, Shard};
use super::newest::{Entry, Range};
use super::queries::bodies;
use crate::store::StoreResult;

/// Events that one round hands on.
const ROUND: usize = 1000;

/// How far the indexes have been read.
#[derive(Debug)]
pub(super) struct EventWalk {
    sets: Vec<(Shard, EventSet)>,
    cursors: Vec<Option<Cursor>>,
    fetched: Vec<VecDeque<(i64, Vec<u8>)>>,
}

impl EventWalk {
    pub fn new() -> EventWalk {
        let pairs = |shard| EventSet::ALL.map(|set| (shard, set));
        let sets: Vec<_> = Shard::all().flat_map(pairs).collect();
        let cursor = |(shard, set): &(Shard, EventSet)| Some(Cursor::of(shard.index(*set)));
        EventWalk {
            cursors: sets.iter().map(cursor).collect(),
            fetched: vec![VecDeque::new(); sets.len()],
            sets,
        }
    }

    /// The next events as they are stored; `None` at the end.
    pub async fn next(&mut self, link: &Link) -> StoreResult<Option<Vec<Vec<u8>>>> {
        let mut entries = Vec::new();
        while entries.len() < ROUND {
            self.refill(link).await?;
            let Some(entry) = self.take_oldest() else {
                break;
            };
            entries.push(entry);
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let found = bodies(link, &self.sets, entries).await?;
        Ok(Some(found.into_iter().map(|entry| entry.member).collect()))
    }

    /// Reads on wherever the oldest is not known.
    async fn refill(&mut self, link: &Link) -> StoreResult<()> {
        let empty = |fetched: &VecDeque<_>| fetched.is_empty();
        loop {
            let cursors = self.cursors.iter_mut().enumerate();
            let fetched = &self.fetched;
            let due = cursors.filter(|(at, _)| fetched.get(*at).is_some_and(empty));
            let due = due.filter_map(|(at, cursor)| Some((at, cursor.take()?)));
            let (places, mut cursors): (Vec<usize>, Vec<Cursor>) = due.unzip();
            if places.is_empty() {
                return Ok(());
            }
            let pages = read_on(link, &Range::default(), &mut cursors).await?;
            for ((at, cursor), page) in places.into_iter().zip(cursors).zip(pages) {
                self.fetched[at].extend(page.members);
                self.cursors[at] = (!page.is_last).then_some(cursor);
            }
        }
    }

    fn take_oldest(&mut self) -> Option<Entry> {
        let fronts = self.fetched.iter().enumerate();
        let fronts = fronts.filter_map(|(set, fetched)| Some((fetched.front()?, set)));
        let (_, set) = fronts.min()?;
        let (score, member) = self.fetched.get_mut(set)?.pop_front()?;
        Some(Entry { set, score, member })
    }
}
