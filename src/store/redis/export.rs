//! A backup, sent record by record while exchanges go on: it takes little memory, however much there
//! is. No read spans Redis, so what is booked while it is made may be in the later records and not in
//! the counters, which come first.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::SendTimeoutError;

use super::RedisStore;
use super::answers::{bytes, strings};
use super::audit::logs;
use super::days::{key_days, next_day};
use super::event_reader::{Cursor, read_on};
use super::event_walk::EventWalk;
use super::layout::Stored;
use super::listings::KeyPages;
use super::names::{self, Home, Shard};
use super::newest::Range;
use super::queries::{self, read_event};
use super::records::decode_audit;
use super::sums::{self, each_error_count};
use crate::keys::KeyRecord;
use crate::quota::Scope;
use crate::quota::counters::Count;
use crate::store::{BACKUP_VERSION, Record, StoreError, StoreResult};

/// How long to wait for a receiver that takes nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// Users that are read in one round.
const CHUNK: i64 = 128;

/// Why no more is sent.
enum Stop {
    NobodyReceives,
    Failed(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Failed(error)
    }
}

struct Outlet {
    records: Sender<Record>,
    sent: u64,
}

impl Outlet {
    async fn send(&mut self, record: Record) -> Result<(), Stop> {
        match self.records.send_timeout(record, PATIENCE).await {
            Ok(()) => self.sent += 1,
            Err(SendTimeoutError::Closed(_)) => return Err(Stop::NobodyReceives),
            Err(SendTimeoutError::Timeout(_)) => {
                let slow = String::from("nobody takes the records of the backup");
                return Err(Stop::Failed(StoreError::Unavailable(slow)));
            }
        }
        Ok(())
    }
}

impl RedisStore {
    pub(super) async fn back_up(&self, records: Sender<Record>) -> StoreResult<()> {
        let mut outlet = Outlet { records, sent: 0 };
        match self.send_in_order(&mut outlet).await {
            Ok(()) | Err(Stop::NobodyReceives) => Ok(()),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    async fn send_in_order(&self, outlet: &mut Outlet) -> Result<(), Stop> {
        self.send_head(outlet).await?;
        for group in self.directory.list_groups().await? {
            let record = (*group).clone();
            outlet.send(Record::Group { record }).await?;
        }
        self.send_users(outlet).await?;
        self.send_keys(outlet).await?;
        self.send_counters(outlet).await?;
        self.send_rollups(outlet).await?;
        self.send_error_counts(outlet).await?;
        let mut events = EventWalk::new();
        while let Some(stored) = events.next(&self.link).await? {
            for event in stored {
                let event = Box::new(read_event(&event)?);
                outlet.send(Record::Event { event }).await?;
            }
        }
        self.send_audit(outlet).await?;
        let records = outlet.sent;
        outlet.send(Record::End { records }).await
    }

    async fn send_head(&self, outlet: &mut Outlet) -> Result<(), Stop> {
        let totals = queries::totals(&self.link).await?;
        let head = Record::Backup {
            version: BACKUP_VERSION,
            at: self.wall(),
            open_reservations: totals.open_reservations,
            last_key_seq: self.take_numbers(names::LAST_SEQ, 0, 0).await?,
        };
        outlet.send(head).await?;
        let members = redis::cmd("SMEMBERS").arg(names::SETTINGS).to_owned();
        for name in text(strings(self.link.ask(members).await?)?) {
            let get = redis::cmd("GET").arg(names::setting(&name)).to_owned();
            if let Some(value) = bytes(self.link.ask(get).await?)? {
                let value = String::from_utf8_lossy(&value).into_owned();
                outlet.send(Record::Setting { name, value }).await?;
            }
        }
        Ok(())
    }

    async fn send_users(&self, outlet: &mut Outlet) -> Result<(), Stop> {
        let mut skip = 0;
        loop {
            let page = self.directory.list_users(skip, CHUNK).await?;
            for user in &page.items {
                outlet.send(Record::of_user(user)).await?;
            }
            skip += CHUNK;
            if skip >= page.total {
                return Ok(());
            }
        }
    }

    async fn send_keys(&self, outlet: &mut Outlet) -> Result<(), Stop> {
        let mut pages = KeyPages::default();
        while let Some(records) = pages.next(&self.directory).await? {
            let places: Vec<_> = records.iter().map(|record| place_of(record)).collect();
            let stored = self.stored_at(&places).await?;
            for (record, stored) in records.iter().zip(stored) {
                let activity = stored.unwrap_or_default().activity;
                outlet.send(Record::of_key(record, activity)).await?;
            }
        }
        Ok(())
    }

    async fn send_counters(&self, outlet: &mut Outlet) -> Result<(), Stop> {
        let mut pages = KeyPages::default();
        while let Some(records) = pages.next(&self.directory).await? {
            let places = records.iter().map(|record| place_of(record));
            self.send_counts(outlet, places.collect()).await?;
        }
        let groups = self.directory.list_groups().await?;
        let places = groups
            .iter()
            .map(|group| (Shard::of_group(group.id), Scope::Group(group.id)));
        self.send_counts(outlet, places.collect()).await
    }

    async fn send_counts(
        &self,
        outlet: &mut Outlet,
        places: Vec<(Shard, Scope)>,
    ) -> Result<(), Stop> {
        let stored = self.stored_at(&places).await?;
        for ((_, scope), stored) in places.into_iter().zip(stored) {
            let Some(Stored { counters, .. }) = stored else {
                continue;
            };
            // What is held ends with the exchanges that run now.
            let counts = counters.counts.map(|count| Count { held: 0, ..count });
            outlet.send(Record::Counters { scope, counts }).await?;
        }
        Ok(())
    }

    async fn send_rollups(&self, outlet: &mut Outlet) -> Result<(), Stop> {
        let mut day = String::new();
        while let Some(next) = next_day(&self.link, &day).await? {
            let rollups = sums::rollups(&self.link, &self.directory, None, &next, &next);
            for rollup in rollups.await? {
                outlet.send(Record::Rollup { rollup }).await?;
            }
            day = next;
        }
        Ok(())
    }

    async fn send_error_counts(&self, outlet: &mut Outlet) -> Result<(), Stop> {
        let mut day = String::new();
        while let Some(next) = next_day(&self.link, &day).await? {
            let days = key_days(&self.link, &self.directory, None, &next, &next).await?;
            let mut counts = BTreeMap::new();
            each_error_count(&self.link, &days, |of, code, errors| {
                *counts.entry((of.key, code)).or_insert(0) += errors;
            })
            .await?;
            for ((key, code), errors) in counts {
                let day = next.clone();
                let count = Record::ErrorCount {
                    day,
                    key,
                    code,
                    errors,
                };
                outlet.send(count).await?;
            }
            day = next;
        }
        Ok(())
    }

    async fn send_audit(&self, outlet: &mut Outlet) -> Result<(), Stop> {
        for log in logs() {
            let mut cursors = [Cursor::of(log)];
            loop {
                let mut pages = read_on(&self.link, &Range::default(), &mut cursors).await?;
                let Some(page) = pages.pop() else { break };
                for (_, entry) in &page.members {
                    let entry = decode_audit(entry)?;
                    outlet.send(Record::Audit { entry }).await?;
                }
                if page.is_last {
                    break;
                }
            }
        }
        Ok(())
    }
}

fn place_of(record: &KeyRecord) -> (Shard, Scope) {
    let home = Home::of(record.id, record.group);
    (home.shard, Scope::Key(record.id))
}

/// In the order of the alphabet.
fn text(names: Vec<Vec<u8>>) -> Vec<String> {
    let names = names.into_iter().map(String::from_utf8);
    let mut names: Vec<String> = names.filter_map(Result::ok).collect();
    names.sort_unstable();
    names
}
