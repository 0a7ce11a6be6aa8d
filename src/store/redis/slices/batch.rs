//! What goes into a step of a slice, and the terms that all its steps have in common.

use tokio::sync::oneshot;
use uuid::Uuid;

use super::super::names::Home;
use super::slice::Report;
use crate::keys::KeyId;
use crate::quota::{Amounts, Ask, ReservationId, ScopeClaim};
use crate::store::UsageEvent;

/// An exchange that has ended: its events say what each charges.
#[derive(Debug)]
pub(super) struct Finished {
    pub event: UsageEvent,
    pub further: Vec<UsageEvent>,
    /// All of them together.
    pub charged: Amounts,
}

impl Finished {
    pub fn events(&self) -> impl Iterator<Item = &UsageEvent> {
        std::iter::once(&self.event).chain(&self.further)
    }
}

/// A running exchange needs more than is unspent.
#[derive(Debug)]
pub(super) struct Need {
    pub id: ReservationId,
    pub more: Amounts,
    pub answer: oneshot::Sender<bool>,
}

/// One step, as it is sent however often.
#[derive(Debug)]
pub(super) struct Batch {
    pub id: Uuid,
    pub seq: i64,
    /// Nothing runs any more: the slice ends with it.
    pub last: bool,
    pub report: Report,
    pub wanted: Amounts,
    pub least: Amounts,
    pub need: Option<(ReservationId, Amounts)>,
    pub events: Vec<Finished>,
    /// Their charges together.
    pub charged: Amounts,
}

/// What a slice was drawn under. It never changes.
#[derive(Debug)]
pub(super) struct Terms {
    pub id: ReservationId,
    pub key: KeyId,
    pub home: Home,
    pub key_version: i64,
    pub group_version: Option<i64>,
    pub scopes: Vec<ScopeClaim>,
    pub lease_ms: i64,
    /// What Redis keeps with it, for the event should it be lost.
    pub subject: Vec<u8>,
}

impl Terms {
    /// Whether an ask comes under the same records and limits.
    pub fn rule(&self, ask: &Ask) -> bool {
        self.key_version == ask.key_version
            && self.group_version == ask.group_version
            && self.scopes == ask.scopes
    }
}
