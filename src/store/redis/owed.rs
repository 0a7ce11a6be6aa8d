//! What is left over when a key moves between groups: reservations that were open end where its
//! counters had been, and what they charge is then paid where the counters are, exactly once.
//!
//! ```text
//!   owed ──▶ a place is named in the entry ──▶ paid there, with a mark beside the counters ──▶ cleared
//!                     ▲                                │ no counters there any more, and no mark
//!                     └────────────────────────────────┘
//! ```

use super::answers::{bytes, fault, scanned};
use super::directory::Directory;
use super::layout::Figures;
use super::names::{Home, Shard};
use crate::keys::KeyId;
use crate::quota::{Amounts, ReservationId};
use crate::store::{StoreError, StoreResult};

/// Figures of an entry, then the key's id, then the shard where it is paid, once one is named.
const FIGURES: usize = 15 * 8;
const KEY_END: usize = FIGURES + 16;
/// Behind the reservation's id: it was settled late.
const LATE: u8 = b'l';

/// Places that are tried for one entry before it waits for the next sweep.
const MOST_PLACES: usize = 4;
/// What one sweep takes on, of each shard and kind, at a time and in all.
const SCAN: usize = 100;
const MOST_SCANS: usize = 20;

impl Directory {
    /// Pays what a reservation that ended in `owed` left to be paid elsewhere.
    pub async fn pay(&self, owed: Shard, id: ReservationId) -> StoreResult<()> {
        for late in [false, true] {
            let mut field = id.0.as_bytes().to_vec();
            field.extend(late.then_some(LATE));
            let get = redis::cmd("HGET").arg(owed.owed()).arg(&field).to_owned();
            if let Some(entry) = bytes(self.link.ask(get).await?)? {
                self.pay_entry(owed, &field, entry).await?;
            }
        }
        Ok(())
    }

    /// Does what others left undone: changes whose edge died, and what is owed.
    pub async fn catch_up(&self) -> StoreResult<()> {
        let shards: Vec<Shard> = Shard::all().collect();
        for (shard, (field, entry)) in self.entries(&shards, Shard::owed).await? {
            self.pay_entry(shard, &field, entry).await?;
        }
        for (_, (id, _)) in self.entries(&shards, Shard::changes).await? {
            match self.finish(key_of(&id)?).await {
                // It is changed again and again: whoever does so finishes it.
                Err(StoreError::Conflict(_)) => {}
                finished => finished?,
            }
        }
        Ok(())
    }

    /// What is still to be paid to a key's counters for reservations that ended in these shards.
    pub(super) async fn owed_to(&self, key: KeyId, shards: &[Shard]) -> StoreResult<Amounts> {
        let mut owed = Amounts::ZERO;
        for (_, (_, entry)) in self.entries(shards, Shard::owed).await? {
            let (figures, owner, _) = parts(&entry)?;
            if key_of(owner)? == key {
                // pay.lua: two flags and what was held, then what was charged.
                let mut figures = Figures(figures);
                let _flags_and_held = figures.take::<5>()?;
                owed = owed.plus(figures.amounts()?);
            }
        }
        Ok(owed)
    }

    /// Some entries of a hash of each shard: all, unless there are very many.
    async fn entries(
        &self,
        shards: &[Shard],
        name: impl Fn(Shard) -> String,
    ) -> StoreResult<Vec<(Shard, (Vec<u8>, Vec<u8>))>> {
        let mut entries = Vec::new();
        let mut scans: Vec<(Shard, u64)> = shards.iter().map(|shard| (*shard, 0)).collect();
        for _ in 0..MOST_SCANS {
            let commands = scans.iter().map(|(shard, cursor)| {
                let mut scan = redis::cmd("HSCAN");
                scan.arg(name(*shard)).arg(*cursor).arg("COUNT").arg(SCAN);
                scan
            });
            let answers = self.link.ask_all(commands.collect()).await?;
            let mut further = Vec::new();
            for ((shard, _), answer) in scans.into_iter().zip(answers) {
                let (cursor, page) = scanned(answer)?;
                entries.extend(page.into_iter().map(|entry| (shard, entry)));
                further.extend((cursor != 0).then_some((shard, cursor)));
            }
            scans = further;
            if scans.is_empty() {
                break;
            }
        }
        Ok(entries)
    }

    async fn pay_entry(&self, owed: Shard, field: &[u8], mut entry: Vec<u8>) -> StoreResult<()> {
        let (figures, key, _) = parts(&entry)?;
        let (figures, key) = (figures.to_vec(), key_of(key)?);
        let name = reservation_of(field)?;
        for _ in 0..MOST_PLACES {
            let record = self.key(key).await?;
            let Some(home) = record.map(|record| Home::of(key, record.group).shard) else {
                // The key was removed for good, and its counters with it.
                return self.clear_owed(owed, field).await;
            };
            let known = parts(&entry)?.2;
            let Some(place) = known else {
                let pin = self.steps.pin(&self.link, owed, field, None, home);
                match pin.await? {
                    Some(pinned) => entry = pinned,
                    None => return Ok(()),
                }
                continue;
            };
            let now = self.now();
            let pay = self.steps.pay(&self.link, place, key, name, &figures, now);
            if pay.await? {
                return self.clear_owed(owed, field).await;
            }
            if place == home {
                // They are on their way there.
                return Ok(());
            }
            let pin = self.steps.pin(&self.link, owed, field, known, home);
            match pin.await? {
                Some(pinned) => entry = pinned,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    async fn clear_owed(&self, owed: Shard, field: &[u8]) -> StoreResult<()> {
        let clear = redis::cmd("HDEL").arg(owed.owed()).arg(field).to_owned();
        self.link.ask(clear).await.map(drop)
    }
}

fn parts(entry: &[u8]) -> StoreResult<(&[u8], &[u8], Option<Shard>)> {
    let (Some(figures), Some(key)) = (entry.get(..FIGURES), entry.get(FIGURES..KEY_END)) else {
        return Err(fault("something owed that cannot be read"));
    };
    let place = entry.get(KEY_END).copied().and_then(Shard::numbered);
    Ok((figures, key, place))
}

fn key_of(bytes: &[u8]) -> StoreResult<KeyId> {
    let id = uuid::Uuid::from_slice(bytes).map(KeyId);
    id.map_err(|_| fault("a key without an id"))
}

fn reservation_of(field: &[u8]) -> StoreResult<(ReservationId, bool)> {
    let id = field
        .get(..16)
        .and_then(|id| uuid::Uuid::from_slice(id).ok());
    let id = id.ok_or_else(|| fault("something owed for no reservation"))?;
    Ok((ReservationId(id), field.get(16) == Some(&LATE)))
}
