//! Taking in a backup, some records at a time: each kind all at once, in the order they come in. What is
//! there already is replaced; so an import may be repeated, also one that broke off.

use std::collections::{HashMap, HashSet};

use super::RedisStore;
use super::answers::int;
use super::layout::{Packer, period_figure};
use super::link::Script;
use super::names::{self, Home, Shard};
use super::script::script;
use super::sums::row_of;
use crate::keys::KeyId;
use crate::quota::Scope;
use crate::quota::counters::Count;
use crate::store::backup::{check_version, key_of_backup};
use crate::store::{
    AuditEntry, KeyActivity, Record, Rollup, StoreError, StoreResult, UsageEvent, UserRecord,
};

/// Commands of one round.
const CHUNK: usize = 512;

/// The steps of an import that no other work takes.
#[derive(Debug)]
pub(super) struct RestoreSteps {
    counters: Script,
    numbers: Script,
}

impl RestoreSteps {
    pub fn new() -> RestoreSteps {
        RestoreSteps {
            counters: script!("counters", "restore"),
            numbers: script!("numbers"),
        }
    }
}

/// Where a key's usage is put, and where else it may be.
#[derive(Clone, Debug)]
pub(super) struct Homes {
    pub present: Shard,
    pub all: Vec<Shard>,
}

/// The figures of a chunk, by what they are of.
#[derive(Default)]
struct Figures<'a> {
    rollups: Vec<&'a Rollup>,
    errors: Vec<(&'a str, KeyId, &'a str, i64)>,
    events: Vec<&'a UsageEvent>,
    audit: Vec<&'a AuditEntry>,
}

impl RedisStore {
    pub(super) async fn restore(&self, records: &[Record]) -> StoreResult<()> {
        let mut figures = Figures::default();
        for record in records {
            match record {
                Record::Backup {
                    version,
                    last_key_seq,
                    ..
                } => {
                    check_version(*version)?;
                    self.take_numbers(names::LAST_SEQ, *last_key_seq, 0).await?;
                }
                Record::Setting { name, value } => self.put_setting(name, value).await?,
                Record::Group { record } => {
                    self.directory.replace_group(record.clone(), None).await?;
                }
                Record::User {
                    record,
                    password_hash,
                } => {
                    let password_hash = password_hash.clone();
                    let user = UserRecord {
                        password_hash,
                        ..record.clone()
                    };
                    self.directory.import_user(user).await?;
                }
                Record::Key {
                    record,
                    hash,
                    previous,
                    activity,
                } => {
                    let key = key_of_backup(record, hash, previous.as_ref())?;
                    self.import_key(key).await?;
                    let scope = Scope::Key(record.id);
                    self.put_counters(scope, None, Some(activity)).await?;
                }
                Record::Counters { scope, counts } => {
                    self.put_counters(*scope, Some(counts), None).await?;
                }
                Record::Rollup { rollup } => figures.rollups.push(rollup),
                Record::ErrorCount {
                    day,
                    key,
                    code,
                    errors,
                } => figures.errors.push((day, *key, code, *errors)),
                Record::Event { event } => figures.events.push(event),
                Record::Audit { entry } => figures.audit.push(entry),
                Record::End { .. } => {}
            }
        }
        self.put_figures(&figures).await
    }

    async fn put_figures(&self, figures: &Figures<'_>) -> StoreResult<()> {
        let rollups = figures.rollups.iter().map(|rollup| rollup.key);
        let errors = figures.errors.iter().map(|(_, key, _, _)| *key);
        let events = figures.events.iter().map(|event| event.api_key_id);
        let keys: HashSet<KeyId> = rollups.chain(errors).chain(events).collect();
        let mut homes = HashMap::with_capacity(keys.len());
        for key in keys {
            homes.insert(key, self.homes_of(key).await?);
        }
        self.put_rollups(&figures.rollups, &homes).await?;
        self.put_error_counts(&figures.errors, &homes).await?;
        self.put_events(&figures.events, &homes).await?;
        self.put_audit(&figures.audit).await
    }

    async fn homes_of(&self, key: KeyId) -> StoreResult<Homes> {
        let record = self.directory.key(key).await?;
        let all = self.directory.homes(key).await?;
        let present = match (record, all.first()) {
            (Some(record), _) => Home::of(key, record.group).shard,
            (None, Some(first)) => *first,
            (None, None) => Shard::of_key(key),
        };
        Ok(Homes { present, all })
    }

    /// Of the numbers of this counter, none up to `least` is given any more; takes `more` and answers
    /// the last one.
    pub(super) async fn take_numbers(
        &self,
        counter: &str,
        least: i64,
        more: i64,
    ) -> StoreResult<i64> {
        let args = [least, more].map(|n| n.to_string());
        let steps = &self.restore_steps;
        let last = self
            .link
            .run_background(&steps.numbers, &[counter], &args)
            .await?;
        int(&last)
    }

    async fn put_setting(&self, name: &str, value: &str) -> StoreResult<()> {
        self.directory.list_setting(name).await?;
        let mut set = redis::cmd("SET");
        set.arg(names::setting(name)).arg(value);
        self.link.ask(set).await.map(drop)
    }

    async fn put_counters(
        &self,
        scope: Scope,
        counts: Option<&[Count; 3]>,
        activity: Option<&KeyActivity>,
    ) -> StoreResult<()> {
        let shard = match scope {
            Scope::Key(id) => self.homes_of(id).await?.present,
            Scope::Group(id) => Shard::of_group(id),
        };
        let mut told = Packer::default();
        for count in counts.into_iter().flatten() {
            told.put_all([count.used, count.booked]);
            told.put(period_figure(count.window.period));
            let end = count.window.end.unwrap_or(-1);
            told.put_all([count.window.start, end, count.number]);
        }
        let mut beside = Packer::default();
        if let Some(activity) = activity {
            let last_used = activity.last_used_at.map_or(0, |at| at.0);
            beside.put_all([activity.request_count, activity.error_count, last_used]);
        }
        let args = [told.done(), beside.done()];
        let keys = [shard.counters(scope)];
        let steps = &self.restore_steps;
        let done = self
            .link
            .run_background(&steps.counters, &keys, &args)
            .await?;
        if int(&done)? == 1 {
            return Ok(());
        }
        Err(StoreError::Fault(format!("counters of nobody: {scope:?}")))
    }

    async fn put_rollups(
        &self,
        rollups: &[&Rollup],
        homes: &HashMap<KeyId, Homes>,
    ) -> StoreResult<()> {
        let mut commands = Vec::new();
        for rollup in rollups {
            let Some(homes) = homes.get(&rollup.key) else {
                continue;
            };
            for shard in homes.others() {
                let name = shard.sums(rollup.key, &rollup.day);
                commands.push(redis::cmd("HDEL").arg(name).arg(&rollup.model).to_owned());
            }
            let mut set = redis::cmd("HSET");
            set.arg(homes.present.sums(rollup.key, &rollup.day));
            set.arg(&rollup.model).arg(row_of(rollup));
            commands.extend([set, homes.list_day(rollup.key, &rollup.day)]);
        }
        self.in_rounds(commands).await
    }

    async fn put_error_counts(
        &self,
        errors: &[(&str, KeyId, &str, i64)],
        homes: &HashMap<KeyId, Homes>,
    ) -> StoreResult<()> {
        let mut commands = Vec::new();
        for (day, key, code, count) in errors {
            let Some(homes) = homes.get(key) else {
                continue;
            };
            for shard in homes.others() {
                let name = shard.errors(*key, day);
                commands.push(redis::cmd("HDEL").arg(name).arg(code).to_owned());
            }
            let mut set = redis::cmd("HSET");
            set.arg(homes.present.errors(*key, day));
            set.arg(code).arg(*count);
            commands.extend([set, homes.list_day(*key, day)]);
        }
        self.in_rounds(commands).await
    }

    /// In this order of rounds; within one they are in any.
    pub(super) async fn in_rounds(&self, mut commands: Vec<redis::Cmd>) -> StoreResult<()> {
        while !commands.is_empty() {
            let rest = commands.split_off(commands.len().min(CHUNK));
            self.link.ask_all(commands).await?;
            commands = rest;
        }
        Ok(())
    }
}

impl Homes {
    fn others(&self) -> impl Iterator<Item = Shard> {
        let others = self.all.iter().copied();
        others.filter(|shard| *shard != self.present)
    }

    /// Where there are figures of a day, it is listed.
    pub(super) fn list_day(&self, key: KeyId, day: &str) -> redis::Cmd {
        let entry = [day.as_bytes(), key.0.as_bytes()].concat();
        let mut list = redis::cmd("ZADD");
        list.arg(self.present.days()).arg(0).arg(entry);
        list
    }
}
