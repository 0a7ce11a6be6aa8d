//! The one decision whether a key may proceed with a request. Quotas are not asked here: they are
//! taken by the store's atomic step, which also refuses a record that changed after this decision.

use std::net::IpAddr;

use super::allow::{ip_allowed, model_allowed, origin_allowed};
use super::record::KeyRecord;
use crate::time::UnixMs;

/// What is known of a caller besides the key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller<'a> {
    /// The client's address, forwarded ones from trusted proxies only.
    pub ip: Option<IpAddr>,
    /// The `Origin` header as it was sent.
    pub origin: Option<&'a str>,
    /// The model as the client named it, before aliases.
    pub model: Option<&'a str>,
}

/// Why a key may not proceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denied {
    Expired,
    Disabled,
    /// Softly deleted: shown to the caller as an unknown key.
    Deleted,
    IpNotAllowed,
    OriginNotAllowed,
    ModelNotAllowed,
}

/// Decides by the record alone. `group_models` is the allow list of the key's group (empty: any):
/// a model must pass both lists. The key's standing is judged before its lists, so that a caller
/// with a dead key learns nothing about them.
pub fn admit(
    key: &KeyRecord,
    group_models: &[String],
    caller: &Caller<'_>,
    now: UnixMs,
) -> Result<(), Denied> {
    if key.deleted {
        return Err(Denied::Deleted);
    }
    if !key.active {
        return Err(Denied::Disabled);
    }
    if key.expires_at.is_some_and(|end| end <= now) {
        return Err(Denied::Expired);
    }
    if !ip_allowed(&key.allowed_ips, &key.denied_ips, caller.ip) {
        return Err(Denied::IpNotAllowed);
    }
    if !origin_allowed(&key.allowed_origins, caller.origin) {
        return Err(Denied::OriginNotAllowed);
    }
    let model_fits = model_allowed(&key.allowed_models, caller.model)
        && model_allowed(group_models, caller.model);
    if !model_fits {
        return Err(Denied::ModelNotAllowed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::keys::{KeyHash, KeyId};
    use crate::quota::Quotas;

    const NOW: UnixMs = UnixMs(1_000_000);

    fn key() -> KeyRecord {
        KeyRecord {
            id: KeyId(Uuid::nil()),
            seq: 1,
            version: 1,
            name: String::from("k"),
            description: None,
            hash: KeyHash([0; 32]),
            masked: String::new(),
            prefix: String::from("sk-proxy"),
            previous: None,
            owner: None,
            group: None,
            tier: String::from("basic"),
            quotas: Quotas::default(),
            allowed_ips: vec!["10.0.0.0/8".parse().unwrap()],
            denied_ips: Vec::new(),
            allowed_origins: vec![String::from("example.com")],
            allowed_models: vec![String::from("gpt-*")],
            metadata: serde_json::Value::Null,
            active: true,
            deleted: false,
            expires_at: Some(NOW.plus_ms(1)),
            created_at: NOW,
            updated_at: NOW,
        }
    }

    fn caller() -> Caller<'static> {
        Caller {
            ip: Some("10.1.1.1".parse().unwrap()),
            origin: Some("https://example.com"),
            model: Some("gpt-4o"),
        }
    }

    #[test]
    fn a_fitting_caller_proceeds() {
        assert_eq!(admit(&key(), &[], &caller(), NOW), Ok(()));
    }

    #[test]
    fn each_fault_has_its_own_denial() {
        type Change = fn(&mut KeyRecord);
        let broken: [(Denied, Change); 6] = [
            (Denied::Deleted, |k| k.deleted = true),
            (Denied::Disabled, |k| k.active = false),
            (Denied::Expired, |k| k.expires_at = Some(NOW)),
            (Denied::IpNotAllowed, |k| {
                k.denied_ips = vec!["10.1.0.0/16".parse().unwrap()];
            }),
            (Denied::OriginNotAllowed, |k| {
                k.allowed_origins = vec![String::from("*.example.com")];
            }),
            (Denied::ModelNotAllowed, |k| {
                k.allowed_models = vec![String::from("claude-*")];
            }),
        ];
        for (denial, change) in broken {
            let mut key = key();
            change(&mut key);
            assert_eq!(admit(&key, &[], &caller(), NOW), Err(denial));
        }
    }

    #[test]
    fn a_model_must_pass_the_group_too() {
        let group = [String::from("o*")];
        let denied = admit(&key(), &group, &caller(), NOW);
        assert_eq!(denied, Err(Denied::ModelNotAllowed));
    }

    #[test]
    fn a_dead_key_says_nothing_of_its_lists() {
        let mut key = key();
        key.active = false;
        key.allowed_ips = vec!["192.0.2.0/24".parse().unwrap()];
        assert_eq!(admit(&key, &[], &caller(), NOW), Err(Denied::Disabled));
    }
}
