//! Events as the steps that book them take them.

use super::atomic::counters_of;
use super::layout::Packer;
use super::names::{EventSet, Home};
use crate::keys::KeyId;
use crate::quota::{Amounts, ReservationId, Scope};
use crate::store::{StoreError, StoreResult, UsageEvent};

/// What ends with one reservation: the event that bears its tokens and cost, and those beside it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Events<'a> {
    pub first: &'a UsageEvent,
    pub further: &'a [UsageEvent],
}

impl<'a> Events<'a> {
    pub fn one(event: &'a UsageEvent) -> Events<'a> {
        Events {
            first: event,
            further: &[],
        }
    }
}

/// Events of one step, of one key, and the days they are of.
#[derive(Debug, Default)]
pub(super) struct EventArgs {
    days: Vec<String>,
    args: Vec<Vec<u8>>,
}

impl EventArgs {
    /// The place of a day among those of the step.
    pub fn day(&mut self, event: &UsageEvent) -> usize {
        let day = event.created_at.day();
        let known = self.days.iter().position(|known| *known == day);
        known.unwrap_or_else(|| {
            self.days.push(day);
            self.days.len() - 1
        })
    }

    /// One more event that charges this.
    pub fn push(&mut self, event: &UsageEvent, charged: Amounts) -> StoreResult<()> {
        let day = self.day(event);
        let mut figures = Packer::default();
        figures
            .put_all(charged.clamped().to_array())
            .put_all(event_figures(event))
            .put(count(day));
        self.args.extend([
            figures.done(),
            event_json(event)?,
            text_bytes(event.model.as_deref()),
            error_bytes(event),
        ]);
        Ok(())
    }

    pub fn days(&self) -> i64 {
        count(self.days.len())
    }

    /// Every name that booking touches: the reservation, the leases, the key's counters, its four sets
    /// of events, the days, what is owed, sums and errors of each day, the group's counters.
    pub fn keys(&self, home: Home, id: ReservationId, key: KeyId) -> Vec<String> {
        let shard = home.shard;
        let mut keys = vec![
            shard.reservation(id),
            shard.leases(),
            shard.counters(Scope::Key(key)),
        ];
        for set in EventSet::ALL {
            keys.extend([shard.events(key, set), shard.index(set)]);
        }
        keys.extend([shard.days(), shard.owed()]);
        for day in &self.days {
            keys.extend([shard.sums(key, day), shard.errors(key, day)]);
        }
        let group = home.group.map(Scope::Group);
        keys.extend(group.map(|group| counters_of(home, group)));
        keys
    }

    /// Four of each event.
    pub fn into_args(self) -> Vec<Vec<u8>> {
        self.args
    }
}

/// What the sums of a day need of an event.
pub(super) fn event_figures(event: &UsageEvent) -> [i64; 5] {
    [
        i64::from(event.is_error),
        event.created_at.0,
        event.prompt_tokens,
        event.completion_tokens,
        event.response_time_ms,
    ]
}

pub(super) fn event_json(event: &UsageEvent) -> StoreResult<Vec<u8>> {
    let json = serde_json::to_vec(event);
    json.map_err(|error| StoreError::Fault(format!("an event cannot be written: {error}")))
}

pub(super) fn text_bytes(text: Option<&str>) -> Vec<u8> {
    text.unwrap_or_default().as_bytes().to_vec()
}

pub(super) fn error_bytes(event: &UsageEvent) -> Vec<u8> {
    text_bytes(Some(event.error_code.as_deref().unwrap_or("unknown")))
}

/// Of things of which there are few.
fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
