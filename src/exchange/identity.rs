//! Who is it, and may they: the key and its group, before anything is asked of a quota.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Desk, Refusal};
use crate::config::Config;
use crate::keys::admit::{Caller, Denied, admit};
use crate::keys::{KeyHash, KeyRecord};
use crate::quota::{GroupId, Rates, Scope, ScopeClaim};
use crate::store::{Freshness, GroupRecord, StoreError};
use crate::time::UnixMs;

/// Who calls, as the shell read it from the request's head.
#[derive(Clone, Debug, Default)]
pub struct CallerFacts {
    pub hash: Option<KeyHash>,
    pub ip: Option<IpAddr>,
    pub origin: Option<String>,
}

/// A known caller whose key stands, and the group it belongs to.
#[derive(Clone, Debug)]
pub struct Identity {
    pub key: Arc<KeyRecord>,
    pub group: Option<Arc<GroupRecord>>,
}

impl Desk {
    /// Finds the key and checks everything that does not depend on the body, so that a stranger's
    /// body is never read. For a caller that goes on to `open`.
    pub async fn identify(&self, caller: &CallerFacts, now: UnixMs) -> Result<Identity, Refusal> {
        let identity = self.look_up(caller, Freshness::Checked).await?;
        match identity.admit(caller, None, now) {
            Ok(()) => Ok(identity),
            // Nobody is turned away by a record that may have changed since.
            Err(_) => self.identify_now(caller, None, now).await,
        }
    }

    /// The same by the records as they are now, for a caller that will not reserve, or whose
    /// records may have changed meanwhile.
    pub async fn identify_now(
        &self,
        caller: &CallerFacts,
        model: Option<&str>,
        now: UnixMs,
    ) -> Result<Identity, Refusal> {
        let identity = self.look_up(caller, Freshness::Now).await?;
        identity.admit(caller, model, now)?;
        Ok(identity)
    }

    async fn look_up(
        &self,
        caller: &CallerFacts,
        freshness: Freshness,
    ) -> Result<Identity, Refusal> {
        let hash = caller.hash.as_ref().ok_or(Refusal::NoKey)?;
        let found = self.store.key_by_hash(hash, freshness).await;
        let key = found.map_err(refuse_store)?.ok_or(Refusal::UnknownKey)?;
        let group = match key.group {
            Some(id) => Some(self.group(id, freshness).await?),
            None => None,
        };
        Ok(Identity { key, group })
    }

    async fn group(&self, id: GroupId, freshness: Freshness) -> Result<Arc<GroupRecord>, Refusal> {
        let found = self
            .store
            .group(id, freshness)
            .await
            .map_err(refuse_store)?;
        found.ok_or_else(|| {
            log::error!("a key names group {} which does not exist", id.0);
            Refusal::Internal
        })
    }
}

impl Identity {
    pub(super) fn admit(
        &self,
        caller: &CallerFacts,
        model: Option<&str>,
        now: UnixMs,
    ) -> Result<(), Refusal> {
        let group_models = self
            .group
            .as_ref()
            .map_or(&[][..], |group| &group.allowed_models);
        let asked = Caller {
            ip: caller.ip,
            origin: caller.origin.as_deref(),
            model,
        };
        admit(&self.key, group_models, &asked, now).map_err(|denied| match denied {
            Denied::Deleted => Refusal::UnknownKey,
            Denied::Expired => Refusal::KeyExpired,
            Denied::Disabled => Refusal::KeyDisabled,
            Denied::IpNotAllowed => Refusal::IpNotAllowed,
            Denied::OriginNotAllowed => Refusal::OriginNotAllowed,
            Denied::ModelNotAllowed => Refusal::ModelNotAllowed {
                model: model.unwrap_or_default().to_owned(),
            },
        })
    }

    pub(super) fn may_use_pool(&self, pool: &str) -> bool {
        let pools = self
            .group
            .as_ref()
            .map_or(&[][..], |group| &group.allowed_pools);
        pools.is_empty() || pools.iter().any(|allowed| allowed == pool)
    }

    /// A token or USD quota that spend without visible usage would escape.
    pub(super) fn has_spend_quota(&self) -> bool {
        let group = self.group.as_ref().map(|group| group.quotas);
        let quotas = std::iter::once(self.key.quotas).chain(group);
        quotas
            .into_iter()
            .any(|q| !q.tokens.is_unlimited() || !q.usd.is_unlimited())
    }

    /// What is spent counts in money, and only the model has a price.
    pub(super) fn has_usd_quota(&self) -> bool {
        let of_group = self.group.as_ref().map(|group| group.quotas.usd);
        !self.key.quotas.usd.is_unlimited() || of_group.is_some_and(|usd| !usd.is_unlimited())
    }

    pub(super) fn has_model_list(&self) -> bool {
        let of_group = self.group.as_ref().map(|group| &group.allowed_models);
        !self.key.allowed_models.is_empty() || of_group.is_some_and(|models| !models.is_empty())
    }

    /// The limits this caller draws on: the key's own, then its group's.
    pub fn scopes(&self, config: &Config) -> Vec<ScopeClaim> {
        let rates = config
            .tiers
            .get(&self.key.tier)
            .copied()
            .unwrap_or_else(|| {
                log::warn!(
                    "key {} has tier {:?}, which is not configured: no per-minute limits",
                    self.key.id.0,
                    self.key.tier
                );
                Rates::default()
            });
        let mut scopes = vec![ScopeClaim {
            scope: Scope::Key(self.key.id),
            quotas: self.key.quotas,
            rates,
        }];
        if let Some(group) = &self.group {
            scopes.push(ScopeClaim {
                scope: Scope::Group(group.id),
                quotas: group.quotas,
                rates: Rates::default(),
            });
        }
        scopes
    }
}

/// A store that is away is told apart from one that is at fault.
pub(super) fn refuse_store(error: StoreError) -> Refusal {
    match error {
        StoreError::Unavailable(why) => {
            // The store tells of its loss once; each refused request is in the access log.
            log::debug!("the store is away: {why}");
            Refusal::StoreUnavailable
        }
        other => {
            log::error!("the store refused a step of an admission: {other}");
            Refusal::Internal
        }
    }
}
