//! A key as its owner sees it, and what an owner may say of it: one quota, of tokens or of USD.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::body::{Fields, Given};
use super::fault::Fault;
use super::key_item::{Figures, is_expired};
use super::usd;
use super::user_change::hidden;
use crate::keys::{KeyRecord, Secret};
use crate::quota::amount::MAX_AMOUNT;
use crate::quota::money::Decimal;
use crate::quota::{GroupId, Standing};
use crate::time::UnixMs;

/// What a quota counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum QuotaType {
    #[default]
    Tokens,
    Usd,
}

/// How a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyStatus {
    Active,
    /// Switched off.
    Disabled,
    /// Its time is over.
    Expired,
    /// A quota of it is used up.
    Exhausted,
}

/// A key as its owner sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserKey {
    id: i64,
    /// In full only in the answer that creates it.
    pub key: String,
    name: String,
    #[schema(value_type = Option<Uuid>)]
    group_id: Option<GroupId>,
    status: KeyStatus,
    /// Tokens or USD; 0 is unlimited.
    #[schema(value_type = f64)]
    quota: Value,
    /// Null where the quota is unlimited.
    #[schema(value_type = Option<f64>)]
    quota_used: Option<Value>,
    quota_type: QuotaType,
    /// Addresses and networks that may use the key; empty: all.
    ip_whitelist: Vec<String>,
    /// Addresses and networks that may not.
    ip_blacklist: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: UnixMs,
    #[schema(value_type = String, format = DateTime)]
    updated_at: UnixMs,
}

/// A key to be made or set anew.
#[derive(Debug, ToSchema)]
pub struct UserKeyBody {
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// Whole tokens, or USD with up to 9 decimals; 0, the default, is unlimited.
    #[schema(minimum = 0)]
    pub quota: Option<f64>,
    /// `tokens` where it is left out.
    #[schema(inline)]
    pub quota_type: Option<QuotaType>,
    /// The id or name of a group; null for none. Members may name the groups they were given.
    #[schema(min_length = 1, max_length = 255)]
    pub group_id: Option<String>,
    /// A secret of one's own: visible ASCII characters without spaces. Hard to guess, or it will be.
    #[schema(min_length = 16, max_length = 128, pattern = "^[!-~]+$")]
    pub custom_key: Option<String>,
    /// Addresses and networks such as `192.0.2.1` and `10.0.0.0/8`.
    #[schema(max_items = 1000)]
    pub ip_whitelist: Option<Vec<String>>,
    #[schema(max_items = 1000)]
    pub ip_blacklist: Option<Vec<String>>,
    /// `active` or `disabled`.
    pub status: Option<String>,
}

/// What to change of a key; what is left out stays.
#[derive(Debug, ToSchema)]
pub struct UserKeyPatch {
    #[schema(min_length = 1, max_length = 255)]
    pub name: Option<String>,
    /// Whole tokens, or USD with up to 9 decimals; 0 is unlimited. Required where `quota_type` changes.
    #[schema(minimum = 0)]
    pub quota: Option<f64>,
    #[schema(inline)]
    pub quota_type: Option<QuotaType>,
    /// The id or name of a group; null for none.
    #[schema(min_length = 1, max_length = 255)]
    pub group_id: Option<String>,
    /// A new secret; the old one ends at once.
    #[schema(min_length = 16, max_length = 128, pattern = "^[!-~]+$")]
    pub custom_key: Option<String>,
    #[schema(max_items = 1000)]
    pub ip_whitelist: Option<Vec<String>>,
    #[schema(max_items = 1000)]
    pub ip_blacklist: Option<Vec<String>>,
    /// `active` or `disabled`.
    pub status: Option<String>,
}

/// Where the type of a quota stands that is unlimited.
const TYPE_IN_METADATA: &str = "quota_type";

impl QuotaType {
    /// Of a key with both quotas it is the token quota.
    fn of(key: &KeyRecord) -> Self {
        let told = key.metadata.get(TYPE_IN_METADATA);
        let is_told = told.and_then(Value::as_str) == Some("usd");
        let quotas = &key.quotas;
        match quotas.tokens.limit == 0 && (quotas.usd.limit > 0 || is_told) {
            true => QuotaType::Usd,
            false => QuotaType::Tokens,
        }
    }

    /// Reads a quota of this type, in tokens or nano-USD.
    fn read(self, fields: &mut Fields) -> Given<i64> {
        match self {
            QuotaType::Usd => fields.usd("quota"),
            QuotaType::Tokens => fields.take("quota", &(0..=MAX_AMOUNT), |raw| {
                let tokens = Decimal::parse(raw)?.scaled(0)?;
                (0..=MAX_AMOUNT).contains(&tokens).then_some(tokens)
            }),
        }
    }
}

impl UserKey {
    /// The key as it stands.
    pub fn new(key: &KeyRecord, standing: &Standing, now: UnixMs) -> Self {
        let quotas = &standing.quotas;
        let (used, held) = (standing.used, standing.held);
        let requests = Figures::new(quotas.requests.limit, used.requests, held.requests);
        let tokens = Figures::new(quotas.tokens.limit, used.tokens, held.tokens);
        let nano = Figures::new(quotas.usd.limit, used.nano_usd, held.nano_usd);
        let status = if !key.active {
            KeyStatus::Disabled
        } else if is_expired(key, now) {
            KeyStatus::Expired
        } else if [requests, tokens, nano].iter().any(Figures::is_exceeded) {
            KeyStatus::Exhausted
        } else {
            KeyStatus::Active
        };
        let quota_type = QuotaType::of(key);
        let (quota, quota_used) = match quota_type {
            QuotaType::Tokens => (Value::from(tokens.limit), tokens.used.map(Value::from)),
            QuotaType::Usd => (usd::show(nano.limit), nano.used.map(usd::show)),
        };
        UserKey {
            id: key.seq,
            key: key.masked.clone(),
            name: key.name.clone(),
            group_id: key.group,
            status,
            quota,
            quota_used,
            quota_type,
            ip_whitelist: shown(&key.allowed_ips),
            ip_blacklist: shown(&key.denied_ips),
            created_at: key.created_at,
            updated_at: key.updated_at,
        }
    }
}

/// A network of one address is shown as that address, as it was probably given.
fn shown(nets: &[IpNet]) -> Vec<String> {
    let show = |net: &IpNet| match net.prefix_len() == net.max_prefix_len() {
        true => net.addr().to_string(),
        false => net.to_string(),
    };
    nets.iter().map(show).collect()
}

/// What an owner says of a key.
#[derive(Debug)]
pub(super) struct KeyWish {
    name: Given<String>,
    quota_type: QuotaType,
    /// Tokens or nano-USD.
    quota: Given<i64>,
    /// The id or name of a group, to be looked up.
    pub group: Given<String>,
    pub secret: Option<Secret>,
    allowed_ips: Given<Vec<IpNet>>,
    denied_ips: Given<Vec<IpNet>>,
    active: Given<bool>,
}

impl KeyWish {
    /// What is left out stays. Faults stay with `fields`.
    pub fn read_part(fields: &mut Fields, key: &KeyRecord) -> Self {
        let present = QuotaType::of(key);
        let wish = KeyWish::read(fields, present);
        if wish.name.is_null() {
            fields.require("name");
        }
        if wish.quota_type != present && !matches!(wish.quota, Given::Value(_)) {
            let words = "say the quota along with a new quota_type";
            fields.fault(Fault::words("quota", words));
        }
        wish
    }

    /// What is left out gets its default, but for the secret.
    pub fn read_whole(fields: &mut Fields) -> Self {
        let wish = KeyWish::read(fields, QuotaType::default());
        if !matches!(wish.name, Given::Value(_)) {
            fields.require("name");
        }
        let or_null = |given: Given<Vec<IpNet>>| match given {
            Given::Absent => Given::Null,
            given => given,
        };
        KeyWish {
            quota: Given::Value(wish.quota.value().unwrap_or(0)),
            group: wish.group.value().map_or(Given::Null, Given::Value),
            allowed_ips: or_null(wish.allowed_ips),
            denied_ips: or_null(wish.denied_ips),
            active: Given::Value(wish.active.value().unwrap_or(true)),
            ..wish
        }
    }

    fn read(fields: &mut Fields, present: QuotaType) -> Self {
        let quota_type = fields.take("quota_type", "tokens or usd", |raw| {
            serde_json::from_str(raw).ok()
        });
        let quota_type: QuotaType = quota_type.value().unwrap_or(present);
        let allowed = "16 to 128 visible ASCII characters without spaces";
        let secret = hidden(fields, "custom_key", allowed, |text| {
            let fits = text.bytes().all(|b| b.is_ascii_graphic());
            ((16..=128).contains(&text.len()) && fits).then_some(text)
        });
        KeyWish {
            name: fields.text("name", 1..=255),
            quota_type,
            quota: quota_type.read(fields),
            group: fields.text("group_id", 1..=255),
            secret: secret.value().map(Secret::new),
            allowed_ips: fields.nets("ip_whitelist"),
            denied_ips: fields.nets("ip_blacklist"),
            active: fields.take("status", "active or disabled", |raw| match raw {
                r#""active""# => Some(true),
                r#""disabled""# => Some(false),
                _ => None,
            }),
        }
    }

    /// Puts what is given into a record. A quota of one type lifts that of the other.
    pub fn apply(&self, key: &mut KeyRecord, group: &Given<GroupId>) {
        if let Given::Value(name) = &self.name {
            key.name.clone_from(name);
        }
        if let Given::Value(quota) = self.quota {
            let (tokens, nano_usd) = match self.quota_type {
                QuotaType::Tokens => (quota, 0),
                QuotaType::Usd => (0, quota),
            };
            key.quotas.tokens.limit = tokens;
            key.quotas.usd.limit = nano_usd;
            if let Some(metadata) = key.metadata.as_object_mut() {
                match self.quota_type {
                    QuotaType::Tokens => metadata.remove(TYPE_IN_METADATA),
                    QuotaType::Usd => metadata.insert(TYPE_IN_METADATA.into(), "usd".into()),
                };
            }
        }
        match group {
            Given::Absent => {}
            Given::Null => key.group = None,
            Given::Value(id) => key.group = Some(*id),
        }
        if let Some(secret) = &self.secret {
            key.hash = secret.hash();
            key.masked = secret.masked();
            key.previous = None;
        }
        for (nets, given) in [
            (&mut key.allowed_ips, &self.allowed_ips),
            (&mut key.denied_ips, &self.denied_ips),
        ] {
            match given {
                Given::Absent => {}
                Given::Null => nets.clear(),
                Given::Value(list) => nets.clone_from(list),
            }
        }
        if let Given::Value(active) = self.active {
            key.active = active;
        }
    }
}
