//! Every name in Redis. What one decision touches has one hash tag, so that it lies in one slot of a
//! cluster.
//!
//! A key and its group must share a tag, and whatever is listed across keys must be found without
//! scanning: so tags are not ids but 64 *shards*, and a key's counters lie in the shard of its group,
//! or in its own where it has none. A key's record lies in its own shard always, which its id tells.
//!
//! `qp1` is the version of this layout: a release that changes it uses another prefix.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::keys::{KeyHash, KeyId};
use crate::quota::{GroupId, ReservationId, Scope};

/// How many shards there are. Part of the layout.
pub(super) const SHARDS: u8 = 64;

/// Which of a key's events: those that drew on the request quota, or refusals, voids and what came late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum EventSet {
    Charged,
    Uncharged,
}

impl EventSet {
    /// In the order in which the scripts are told of them.
    pub const ALL: [EventSet; 2] = [EventSet::Charged, EventSet::Uncharged];
}

/// Where a key's counters, reservations and events are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Home {
    pub shard: Shard,
    pub group: Option<GroupId>,
}

impl Home {
    pub fn of(key: KeyId, group: Option<GroupId>) -> Home {
        Home {
            shard: Shard::home(key, group),
            group,
        }
    }
}

/// A set of names with one hash tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Shard(u8);

impl Shard {
    pub fn all() -> impl Iterator<Item = Shard> {
        (0..SHARDS).map(Shard)
    }

    pub fn number(self) -> u8 {
        self.0
    }

    /// The reverse of `number`; `None` where there is no such shard.
    pub fn numbered(number: u8) -> Option<Shard> {
        (number < SHARDS).then_some(Shard(number))
    }

    /// Of a key's record, and of its counters where it has no group.
    pub fn of_key(id: KeyId) -> Shard {
        Shard::of(id.0)
    }

    pub fn of_group(id: GroupId) -> Shard {
        Shard::of(id.0)
    }

    /// Of a key's counters.
    pub fn home(key: KeyId, group: Option<GroupId>) -> Shard {
        group.map_or_else(|| Shard::of_key(key), Shard::of_group)
    }

    /// The last byte is random in every version of UUID that is used.
    fn of(id: Uuid) -> Shard {
        Shard(id.as_bytes()[15] % SHARDS)
    }

    fn name(self, what: &str) -> String {
        format!("qp1:{{{:02x}}}:{what}", self.0)
    }

    fn name_of(self, what: &str, id: Uuid) -> String {
        let mut name = self.name(what);
        // Writing to a String cannot fail.
        let _ = write!(name, ":{}", id.simple());
        name
    }

    /// String: counters of a scope (`counters.rs`).
    pub fn counters(self, scope: Scope) -> String {
        match scope {
            Scope::Key(id) => self.name_of("k", id.0),
            Scope::Group(id) => self.name_of("g", id.0),
        }
    }

    /// String: a reservation (`reservation.rs`), or what is remembered of one.
    pub fn reservation(self, id: ReservationId) -> String {
        self.name_of("r", id.0)
    }

    /// Sorted set: ids of open reservations by the end of their lease, in milliseconds.
    pub fn leases(self) -> String {
        self.name("leases")
    }

    /// Sorted set: usage events of a key by `created_at`, in milliseconds.
    pub fn events(self, key: KeyId, set: EventSet) -> String {
        match set {
            EventSet::Charged => self.name_of("ev", key.0),
            EventSet::Uncharged => self.name_of("un", key.0),
        }
    }

    /// Sorted set: order and key id of all usage events of the shard, by `created_at`.
    pub fn index(self, set: EventSet) -> String {
        self.name(match set {
            EventSet::Charged => "events",
            EventSet::Uncharged => "uncharged",
        })
    }

    /// Hash: model to the sums of one key's day (`2026-11-21`).
    pub fn sums(self, key: KeyId, day: &str) -> String {
        format!("{}:{day}", self.name_of("day", key.0))
    }

    /// Hash: error code to count of one key's day.
    pub fn errors(self, key: KeyId, day: &str) -> String {
        format!("{}:{day}", self.name_of("err", key.0))
    }

    /// Sorted set, every score 0: day (10 characters) and key id of all sums of the shard.
    pub fn days(self) -> String {
        self.name("days")
    }

    /// Hash: reservation id (and `l` where it settled late) to what a moved key owes for it.
    pub fn owed(self) -> String {
        self.name("owed")
    }

    /// String, for a day: what was owed for a reservation was paid here, that of its late settlement
    /// by itself.
    pub fn paid(self, id: ReservationId, late: bool) -> String {
        self.name_of(if late { "paid-late" } else { "paid" }, id.0)
    }

    /// String: what is remembered of a key that was removed for good.
    pub fn gone(self, id: KeyId) -> String {
        self.name_of("gone", id.0)
    }

    /// Hash: key id to what is left to do of its last change.
    pub fn changes(self) -> String {
        self.name("changes")
    }

    /// String: a key's record (`records.rs`).
    pub fn key_record(self, id: KeyId) -> String {
        self.name_of("K", id.0)
    }

    /// String: a group's record (`records.rs`).
    pub fn group_record(self, id: GroupId) -> String {
        self.name_of("G", id.0)
    }

    /// Sorted set: audit entries (`records.rs`), by the server's clock in microseconds.
    pub fn audit(self) -> String {
        self.name("audit")
    }
}

/// String: whose secret has this hash: a key's id, 32 hexadecimal digits.
pub(super) fn secret(hash: &KeyHash) -> String {
    format!("qp1:h:{}", hash.to_hex())
}

/// Counter: the last `seq` given to a key.
pub(super) const LAST_SEQ: &str = "qp1:{dir}:seq";
/// Sorted set: ids of keys that are not deleted, by `seq`.
pub(super) const KEYS: &str = "qp1:{dir}:keys";
/// Sorted set: those of them that are active.
pub(super) const ACTIVE_KEYS: &str = "qp1:{dir}:active";
/// Sorted set: ids of keys that are softly deleted, by `seq`.
pub(super) const DELETED_KEYS: &str = "qp1:{dir}:deleted";
/// Set: ids of groups.
pub(super) const GROUPS: &str = "qp1:{dir}:groups";

/// Sorted set: ids of a user's keys that are not deleted, or of the active ones, by `seq`.
pub(super) fn owned_keys(owner: Uuid, active_only: bool) -> String {
    let list = if active_only { "owner-active" } else { "owner" };
    format!("qp1:{{dir}}:{list}:{}", owner.simple())
}

/// Hash: a user's id to the record (`records.rs`).
pub(super) const USERS: &str = "qp1:{users}:records";
/// Hash: name or e-mail address, in small letters, to the user's id.
pub(super) const LOGINS: &str = "qp1:{users}:logins";
/// Sorted set: ids of users in the order of their creation.
pub(super) const USER_LIST: &str = "qp1:{users}:list";
/// Sorted set: audit entries of users, as each shard has its own.
pub(super) const USER_AUDIT: &str = "qp1:{users}:audit";

/// String: until when a session would have lasted that was ended.
pub(super) fn ended_session(id: Uuid) -> String {
    format!("qp1:ended:{}", id.simple())
}

/// Set: names of settings.
pub(super) const SETTINGS: &str = "qp1:{dir}:settings";
/// Counter: the last order given to an event of a backup.
pub(super) const LAST_RESTORED: &str = "qp1:{dir}:restored";

/// String: a setting that is made once.
pub(super) fn setting(name: &str) -> String {
    format!("qp1:setting:{name}")
}
