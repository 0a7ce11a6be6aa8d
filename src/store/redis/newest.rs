//! Many sorted sets read as one, newest first, in rounds: no more is fetched at once than a page may
//! need, and no more is kept than was fetched.

use std::collections::VecDeque;

use super::answers::scored;
use super::link::Link;
use crate::store::StoreResult;
use crate::time::UnixMs;

/// Members of each set that one round fetches.
const LEAST_FETCH: usize = 8;
const MOST_FETCH: usize = 1024;

/// Bounds of the scores, as Redis writes them.
#[derive(Clone, Debug)]
pub(super) struct Range {
    pub min: String,
    pub max: String,
}

impl Default for Range {
    fn default() -> Self {
        Range::of(None, None)
    }
}

impl Range {
    /// From `since` to before `until`.
    pub fn of(since: Option<UnixMs>, until: Option<UnixMs>) -> Range {
        Range {
            min: since.map_or_else(|| String::from("-inf"), |at| at.0.to_string()),
            max: until.map_or_else(|| String::from("+inf"), |at| format!("({}", at.0)),
        }
    }
}

/// A member of the set with this index.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub set: usize,
    pub score: i64,
    pub member: Vec<u8>,
}

/// How far one set has been read.
struct Reading<'a> {
    name: &'a str,
    fetched: VecDeque<(i64, Vec<u8>)>,
    offset: usize,
    ended: bool,
    /// The last one fetched. What is added meanwhile shifts the rest: it comes a second time.
    last: Option<(i64, Vec<u8>)>,
}

/// After the newest `skip` of all sets together, the next `limit`; by score, then by member.
pub(super) async fn newest(
    link: &Link,
    names: &[String],
    range: &Range,
    skip: i64,
    limit: i64,
) -> StoreResult<Vec<Entry>> {
    let mut skip = usize::try_from(skip).unwrap_or(0);
    let limit = usize::try_from(limit).unwrap_or(0);
    let mut readings: Vec<Reading<'_>> = names.iter().map(|name| Reading::of(name)).collect();
    if let [only] = &mut readings[..] {
        only.offset = std::mem::take(&mut skip);
    }
    let most = readings.len().max(1);
    let mut fetch = (skip.saturating_add(limit) / most).clamp(LEAST_FETCH, MOST_FETCH);
    if most == 1 {
        fetch = limit.clamp(1, MOST_FETCH);
    }
    let mut page = Vec::new();
    while page.len() < limit {
        refill(link, &mut readings, range, fetch).await?;
        fetch = (fetch * 2).min(MOST_FETCH);
        if readings.iter().all(|reading| reading.fetched.is_empty()) {
            break;
        }
        while page.len() < limit && readings.iter().all(Reading::is_ready) {
            let Some(entry) = take_newest(&mut readings) else {
                break;
            };
            if skip > 0 {
                skip -= 1;
            } else {
                page.push(entry);
            }
        }
    }
    Ok(page)
}

impl Reading<'_> {
    fn of(name: &str) -> Reading<'_> {
        Reading {
            name,
            fetched: VecDeque::new(),
            offset: 0,
            ended: false,
            last: None,
        }
    }

    /// Whether its newest is known.
    fn is_ready(&self) -> bool {
        self.ended || !self.fetched.is_empty()
    }

    fn take_in(&mut self, members: Vec<(i64, Vec<u8>)>, fetch: usize) {
        self.ended = members.len() < fetch;
        self.offset += members.len();
        for member in members {
            if self.last.as_ref().is_none_or(|last| member < *last) {
                self.last = Some(member.clone());
                self.fetched.push_back(member);
            }
        }
    }
}

async fn refill(
    link: &Link,
    readings: &mut [Reading<'_>],
    range: &Range,
    fetch: usize,
) -> StoreResult<()> {
    while readings.iter().any(|reading| !reading.is_ready()) {
        let waiting = readings.iter_mut().filter(|reading| !reading.is_ready());
        let mut waiting: Vec<&mut Reading<'_>> = waiting.collect();
        let commands = waiting.iter().map(|reading| {
            let mut command = redis::cmd("ZRANGE");
            command.arg(reading.name).arg(&range.max).arg(&range.min);
            command.arg("BYSCORE").arg("REV").arg("LIMIT");
            command.arg(reading.offset).arg(fetch).arg("WITHSCORES");
            command
        });
        let answers = link.ask_all(commands.collect()).await?;
        for (reading, answer) in waiting.iter_mut().zip(answers) {
            reading.take_in(scored(answer)?, fetch);
        }
    }
    Ok(())
}

fn take_newest(readings: &mut [Reading<'_>]) -> Option<Entry> {
    let fronts = readings.iter().enumerate();
    let fronts = fronts.filter_map(|(set, reading)| Some((reading.fetched.front()?, set)));
    let (_, set) = fronts.max()?;
    let (score, member) = readings.get_mut(set)?.fetched.pop_front()?;
    Some(Entry { set, score, member })
}
