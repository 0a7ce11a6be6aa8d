//! Counters of many scopes at once.

use std::collections::HashMap;

use super::RedisStore;
use super::answers::bytes;
use super::layout::{Figures, Stored};
use super::names::{Home, Shard};
use crate::keys::KeyId;
use crate::quota::{Scope, ScopeClaim};
use crate::store::{KeyFigures, StoreResult};

/// Scopes that are read in one round.
const CHUNK: usize = 128;

impl RedisStore {
    /// Counters and activity, in the order of the claims.
    pub(super) async fn figures_of(&self, claims: &[ScopeClaim]) -> StoreResult<Vec<KeyFigures>> {
        let mut figures = Vec::with_capacity(claims.len());
        for claims in claims.chunks(CHUNK) {
            let stored = self.refreshed(claims).await?;
            figures.extend(claims.iter().zip(stored).map(|(claim, stored)| KeyFigures {
                standing: stored.counters.standing(claim),
                activity: stored.activity,
            }));
        }
        Ok(figures)
    }

    /// What is stored of these scopes, few of them, brought to this moment; as of a new one where there
    /// is nothing.
    pub(super) async fn refreshed(&self, claims: &[ScopeClaim]) -> StoreResult<Vec<Stored>> {
        let Some(first) = claims.first() else {
            return Ok(Vec::new());
        };
        let (_, _, now) = self.look_at(first.scope).await?;
        let places = self.places(claims).await?;
        let mut all = Vec::with_capacity(claims.len());
        for (claim, stored) in claims.iter().zip(self.stored_at(&places).await?) {
            let stored = match stored {
                Some(stored) => Some(stored),
                // They moved in between, or there are none.
                None => self.look_at(claim.scope).await?.1,
            };
            let mut stored = stored.unwrap_or_default();
            stored.counters.refresh(claim, now);
            all.push(stored);
        }
        Ok(all)
    }

    /// Where the counters are now.
    async fn places(&self, claims: &[ScopeClaim]) -> StoreResult<Vec<(Shard, Scope)>> {
        let keys = claims.iter().filter_map(|claim| match claim.scope {
            Scope::Key(id) => Some(id),
            Scope::Group(_) => None,
        });
        let records = self.directory.records(keys.collect()).await?;
        let homes: HashMap<KeyId, Shard> = records
            .iter()
            .map(|record| (record.id, Home::of(record.id, record.group).shard))
            .collect();
        let places = claims.iter().map(|claim| {
            let shard = match claim.scope {
                Scope::Key(id) => homes.get(&id).copied().unwrap_or_else(|| Shard::of_key(id)),
                Scope::Group(id) => Shard::of_group(id),
            };
            (shard, claim.scope)
        });
        Ok(places.collect())
    }

    /// What is stored of these scopes' counters; `None` where they are not, or have left.
    pub(super) async fn stored_at(
        &self,
        places: &[(Shard, Scope)],
    ) -> StoreResult<Vec<Option<Stored>>> {
        let reads = places.iter().map(|(shard, scope)| {
            let mut read = redis::cmd("GET");
            read.arg(shard.counters(*scope));
            read
        });
        let answers = self.link.ask_all(reads.collect()).await?;
        let stored = answers.into_iter().map(|answer| {
            let blob = bytes(answer)?;
            let stored = blob.map(|blob| Stored::read(&mut Figures(&blob)));
            Ok(stored.transpose()?.filter(|stored| stored.version >= 0))
        });
        stored.collect()
    }
}
