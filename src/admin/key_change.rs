//! What a create or a change request says of a key, and the record that comes of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::body::{Fields, Given};
use super::fault::{Allowed, Fault};
use super::query::day;
use crate::keys::allow::is_origin_entry;
use crate::keys::{KeyId, KeyRecord, Secret};
use crate::quota::{GroupId, Limit, Period, Quotas, Rates};
use crate::time::{DAY_MS, UnixMs};

pub const DEFAULT_PREFIX: &str = "sk-proxy";
const DEFAULT_TOKEN_LIMIT: i64 = 1_000_000;
const DEFAULT_TIER: &str = "basic";
/// A year, the last day included.
const MAX_DAYS: i64 = 365;

/// The fields of a key that an operator may set.
#[derive(Debug)]
pub struct KeyChange {
    pub name: Given<String>,
    description: Given<String>,
    token_limit: Given<i64>,
    request_limit: Given<i64>,
    usd_limit: Given<i64>,
    period: Given<Period>,
    tier: Given<String>,
    expires_at: Given<UnixMs>,
    allowed_ips: Given<Vec<ipnet::IpNet>>,
    denied_ips: Given<Vec<ipnet::IpNet>>,
    allowed_origins: Given<Vec<String>>,
    allowed_models: Given<Vec<String>>,
    metadata: Given<Value>,
    pub active: Given<bool>,
    /// The id or the name of a group, to be looked up.
    pub group: Given<String>,
}

impl KeyChange {
    /// Takes the fields that create and change requests share. Faults stay with `fields`.
    pub fn read(fields: &mut Fields, tiers: &BTreeMap<String, Rates>, now: UnixMs) -> Self {
        KeyChange {
            name: fields.text("name", 1..=255),
            description: fields.text("description", 0..=1_000),
            token_limit: fields.limit("token_limit"),
            request_limit: fields.limit("request_limit"),
            usd_limit: fields.usd("usd_limit"),
            period: fields.take("period", "total, daily, weekly or monthly", |raw| {
                serde_json::from_str(raw).ok()
            }),
            tier: tier(fields, tiers),
            expires_at: expiry(fields, now),
            allowed_ips: fields.nets("allowed_ips"),
            denied_ips: fields.nets("denied_ips"),
            allowed_origins: fields.list(
                "allowed_origins",
                "origins such as example.com, https://example.com, *.example.com",
                is_origin_entry,
            ),
            allowed_models: fields.list(
                "allowed_models",
                "model names or globs such as gpt-4o*",
                |m| !m.is_empty() && !m.chars().any(char::is_control),
            ),
            metadata: fields.object("metadata"),
            active: fields.flag("is_active"),
            group: fields.text("group", 1..=255),
        }
    }

    /// Puts what is given into a record. Null empties what may be empty; elsewhere it says nothing.
    pub fn apply(self, key: &mut KeyRecord, group: Given<GroupId>) {
        set(&mut key.name, self.name);
        set_option(&mut key.description, self.description);
        set(&mut key.quotas.tokens.limit, self.token_limit);
        set(&mut key.quotas.requests.limit, self.request_limit);
        set(&mut key.quotas.usd.limit, self.usd_limit);
        if let Given::Value(period) = self.period {
            key.quotas.tokens.period = period;
            key.quotas.requests.period = period;
            key.quotas.usd.period = period;
        }
        set(&mut key.tier, self.tier);
        set_option(&mut key.expires_at, self.expires_at);
        set_or_empty(&mut key.allowed_ips, self.allowed_ips);
        set_or_empty(&mut key.denied_ips, self.denied_ips);
        set_or_empty(&mut key.allowed_origins, self.allowed_origins);
        set_or_empty(&mut key.allowed_models, self.allowed_models);
        match self.metadata {
            Given::Absent => {}
            Given::Null => key.metadata = json!({}),
            Given::Value(metadata) => key.metadata = metadata,
        }
        set(&mut key.active, self.active);
        set_option(&mut key.group, group);
    }
}

/// A key with the defaults of the contract, before a change is applied to it.
pub fn new_key(id: KeyId, secret: &Secret, prefix: String, now: UnixMs) -> KeyRecord {
    KeyRecord {
        id,
        seq: 0,
        version: 1,
        name: String::new(),
        description: None,
        hash: secret.hash(),
        masked: secret.masked(),
        prefix,
        previous: None,
        owner: None,
        group: None,
        tier: String::from(DEFAULT_TIER),
        quotas: Quotas {
            tokens: Limit {
                limit: DEFAULT_TOKEN_LIMIT,
                period: Period::Total,
            },
            ..Quotas::default()
        },
        allowed_ips: Vec::new(),
        denied_ips: Vec::new(),
        allowed_origins: Vec::new(),
        allowed_models: Vec::new(),
        metadata: json!({}),
        active: true,
        deleted: false,
        expires_at: None,
        created_at: now,
        updated_at: now,
    }
}

/// What stands before the `_` of a secret.
pub fn prefix(fields: &mut Fields) -> Given<String> {
    let allowed = "1 to 32 letters, digits, - or _, beginning with a letter or digit";
    fields.take("prefix", allowed, |raw| {
        let text: String = serde_json::from_str(raw).ok()?;
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        let fits = text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        (begins && fits && text.len() <= 32).then_some(text)
    })
}

fn tier(fields: &mut Fields, tiers: &BTreeMap<String, Rates>) -> Given<String> {
    let allowed = Allowed::OneOf(tiers.keys().cloned().collect());
    fields.take("rate_limit_tier", allowed, |raw| {
        let name: String = serde_json::from_str(raw).ok()?;
        tiers.contains_key(&name).then_some(name)
    })
}

/// `expires_in_days` from now, or `expires_at`: a time, or a UTC day whose end is meant.
fn expiry(fields: &mut Fields, now: UnixMs) -> Given<UnixMs> {
    let days = fields.int("expires_in_days", 1..=MAX_DAYS);
    let allowed = "a time to come such as 2027-01-31T08:00:00Z, or a day such as 2027-01-31";
    let at = fields.take("expires_at", allowed, |raw| {
        let text: String = serde_json::from_str(raw).ok()?;
        let end_of_day = day(&text).map(|start| start.plus_ms(DAY_MS));
        let at = end_of_day.or_else(|| UnixMs::parse_rfc3339(&text));
        at.filter(|at| *at > now)
    });
    match (days, at) {
        (Given::Value(_), Given::Value(_)) => {
            let words = "give it or expires_in_days, not both";
            fields.fault(Fault::words("expires_at", words));
            Given::Absent
        }
        (Given::Value(days), _) => Given::Value(now.plus_ms(days * DAY_MS)),
        (Given::Null, Given::Absent) => Given::Null,
        (_, at) => at,
    }
}

fn set<T>(field: &mut T, given: Given<T>) {
    if let Given::Value(value) = given {
        *field = value;
    }
}

fn set_option<T>(field: &mut Option<T>, given: Given<T>) {
    match given {
        Given::Absent => {}
        Given::Null => *field = None,
        Given::Value(value) => *field = Some(value),
    }
}

fn set_or_empty<T>(field: &mut Vec<T>, given: Given<Vec<T>>) {
    match given {
        Given::Absent => {}
        Given::Null => field.clear(),
        Given::Value(value) => *field = value,
    }
}
