//! Records of keys, groups and users, changes to them and audit entries as Redis keeps them: a version or an
//! id of fixed length that the scripts compare, then JSON.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::answers::fault;
use super::names::{Home, Shard};
use crate::keys::{KeyHash, KeyId, KeyRecord, PreviousSecret};
use crate::store::{AuditEntry, GroupRecord, StoreResult, UserRecord};
use crate::time::UnixMs;

/// Before the JSON of a record: its version, big-endian.
const VERSION_BYTES: usize = 8;
/// Before the JSON of a change or an audit entry: its id.
const ID_BYTES: usize = 16;

/// A key's record and what is kept beside it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct KeyEntry {
    pub record: KeyRecord,
    /// Where its counters were before: older events are still there.
    pub former_homes: Vec<Shard>,
}

#[derive(Serialize, Deserialize)]
struct WrittenKey<'a> {
    record: std::borrow::Cow<'a, KeyRecord>,
    hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<(String, UnixMs)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    homes: Vec<u8>,
}

impl KeyEntry {
    pub fn home(&self) -> Home {
        Home::of(self.record.id, self.record.group)
    }

    /// Every shard that may hold events of this key.
    pub fn homes(&self) -> Vec<Shard> {
        let mut homes = self.former_homes.clone();
        homes.push(self.home().shard);
        homes.sort_unstable();
        homes.dedup();
        homes
    }

    /// The secrets by which the key is found.
    pub fn hashes(&self) -> impl Iterator<Item = KeyHash> {
        let previous = self.record.previous.map(|previous| previous.hash);
        [Some(self.record.hash), previous].into_iter().flatten()
    }

    pub fn encode(&self) -> StoreResult<Vec<u8>> {
        let previous = self.record.previous;
        let written = WrittenKey {
            record: std::borrow::Cow::Borrowed(&self.record),
            hash: self.record.hash.to_hex(),
            previous: previous.map(|previous| (previous.hash.to_hex(), previous.valid_until)),
            homes: self.former_homes.iter().map(|home| home.number()).collect(),
        };
        with_json(&self.record.version.to_be_bytes(), &written)
    }

    pub fn decode(bytes: &[u8]) -> StoreResult<KeyEntry> {
        let (version, json) = split::<VERSION_BYTES>(bytes)?;
        let written: WrittenKey<'_> = from_json(json)?;
        let mut record = written.record.into_owned();
        record.version = i64::from_be_bytes(version);
        record.hash = hash_of(&written.hash)?;
        record.previous = match written.previous {
            None => None,
            Some((hash, valid_until)) => Some(PreviousSecret {
                hash: hash_of(&hash)?,
                valid_until,
            }),
        };
        Ok(KeyEntry {
            record,
            former_homes: shards(&written.homes),
        })
    }
}

/// What is left to do of a change of a key, once its record is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Change {
    pub id: Uuid,
    /// Secrets it has no more.
    pub dropped: Vec<KeyHash>,
    /// Where its counters were, if not where they are to be.
    pub from: Option<Shard>,
    /// The version a removal made.
    pub removed: Option<i64>,
    /// Whose it is no more.
    pub owner: Option<Uuid>,
}

#[derive(Serialize, Deserialize)]
struct WrittenChange {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dropped: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    removed: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<Uuid>,
}

impl Change {
    /// One of which nothing but what every change does is left to do.
    pub fn new() -> Change {
        Change {
            id: Uuid::now_v7(),
            ..Change::default()
        }
    }

    pub fn encode(&self) -> StoreResult<Vec<u8>> {
        let written = WrittenChange {
            dropped: self.dropped.iter().map(|hash| hash.to_hex()).collect(),
            from: self.from.map(Shard::number),
            removed: self.removed,
            owner: self.owner,
        };
        with_json(self.id.as_bytes(), &written)
    }

    pub fn decode(bytes: &[u8]) -> StoreResult<Change> {
        let (id, json) = split::<ID_BYTES>(bytes)?;
        let written: WrittenChange = from_json(json)?;
        let dropped = written.dropped.iter().map(|text| hash_of(text));
        Ok(Change {
            id: Uuid::from_bytes(id),
            dropped: dropped.collect::<StoreResult<_>>()?,
            from: written.from.and_then(Shard::numbered),
            removed: written.removed,
            owner: written.owner,
        })
    }
}

/// What is remembered of a key that was removed for good: where its events are.
pub(super) fn encode_homes(homes: &[Shard]) -> Vec<u8> {
    homes.iter().map(|home| home.number()).collect()
}

/// The reverse of `encode_homes`.
pub(super) fn decode_homes(bytes: &[u8]) -> Vec<Shard> {
    shards(bytes)
}

fn shards(numbers: &[u8]) -> Vec<Shard> {
    numbers.iter().filter_map(|n| Shard::numbered(*n)).collect()
}

/// A group without its version, which the script puts before it.
pub(super) fn encode_group(record: &GroupRecord) -> StoreResult<Vec<u8>> {
    let version = 0;
    with_json(
        &[],
        &GroupRecord {
            version,
            ..record.clone()
        },
    )
}

pub(super) fn decode_group(bytes: &[u8]) -> StoreResult<GroupRecord> {
    let (version, json) = split::<VERSION_BYTES>(bytes)?;
    let mut record: GroupRecord = from_json(json)?;
    record.version = i64::from_be_bytes(version);
    Ok(record)
}

#[derive(Serialize, Deserialize)]
struct WrittenUser<'a> {
    record: std::borrow::Cow<'a, UserRecord>,
    password_hash: std::borrow::Cow<'a, str>,
}

pub(super) fn encode_user(record: &UserRecord) -> StoreResult<Vec<u8>> {
    let written = WrittenUser {
        record: std::borrow::Cow::Borrowed(record),
        password_hash: std::borrow::Cow::Borrowed(&record.password_hash),
    };
    with_json(&record.version.to_be_bytes(), &written)
}

pub(super) fn decode_user(bytes: &[u8]) -> StoreResult<UserRecord> {
    let written: WrittenUser<'_> = from_json(split::<VERSION_BYTES>(bytes)?.1)?;
    let mut record = written.record.into_owned();
    record.password_hash = written.password_hash.into_owned();
    Ok(record)
}

/// An id first: two entries that say the same are still two.
pub(super) fn encode_audit(entry: &AuditEntry) -> StoreResult<Vec<u8>> {
    with_json(Uuid::now_v7().as_bytes(), entry)
}

/// What an entry says, without its id.
pub(super) fn said_of_audit(bytes: &[u8]) -> StoreResult<&[u8]> {
    split::<ID_BYTES>(bytes).map(|(_, said)| said)
}

pub(super) fn decode_audit(bytes: &[u8]) -> StoreResult<AuditEntry> {
    from_json(said_of_audit(bytes)?)
}

/// A key's id as the value of its secrets.
pub(super) fn key_text(id: KeyId) -> String {
    id.0.simple().to_string()
}

pub(super) fn key_of_text(text: &[u8]) -> StoreResult<KeyId> {
    let id = Uuid::try_parse_ascii(text);
    id.map(KeyId).map_err(|_| fault("a secret of no key"))
}

fn with_json(head: &[u8], value: &impl Serialize) -> StoreResult<Vec<u8>> {
    let mut bytes = head.to_vec();
    let written = serde_json::to_writer(&mut bytes, value);
    written.map_err(|error| fault(&format!("a record that cannot be written: {error}")))?;
    Ok(bytes)
}

fn split<const N: usize>(bytes: &[u8]) -> StoreResult<([u8; N], &[u8])> {
    let parts = bytes.split_first_chunk::<N>();
    let (head, json) = parts.ok_or_else(|| fault("a record that is too short"))?;
    Ok((*head, json))
}

fn from_json<'a, T: Deserialize<'a>>(json: &'a [u8]) -> StoreResult<T> {
    // The text is not repeated: it may hold what an operator wrote.
    serde_json::from_slice(json).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        fault(&format!("a record that cannot be read at {line}:{column}"))
    })
}

fn hash_of(text: &str) -> StoreResult<KeyHash> {
    KeyHash::from_hex(text).ok_or_else(|| fault("a hash of a secret that is none"))
}
