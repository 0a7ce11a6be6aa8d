//! A key to be made, as every foreign format is read into.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::keys::{KeyHash, Secret};
use crate::quota::money::dollars;

/// What a file says, and what of it cannot be said here.
#[derive(Debug, Default, PartialEq)]
pub struct Read {
    pub keys: Vec<NewKey>,
    pub notes: Vec<String>,
}

/// By what a key is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Credential {
    Secret(Secret),
    Hash(KeyHash),
}

/// One resource: its limit, 0 where there is none, and what was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    pub limit: i64,
    pub used: i64,
}

impl Budget {
    pub fn show(self, amount: impl Fn(i64) -> String) -> String {
        match (self.limit, self.used) {
            (0, 0) => String::from("-"),
            (0, used) => format!("{}/-", amount(used)),
            (limit, used) => format!("{}/{}", amount(used), amount(limit)),
        }
    }
}

/// A key to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewKey {
    pub name: String,
    pub credential: Credential,
    /// How the key is shown where its secret is not known.
    pub mask: Option<String>,
    pub description: Option<String>,
    pub tokens: Budget,
    pub requests: Budget,
    /// Nano-USD.
    pub usd: Budget,
    pub period: Option<&'static str>,
    pub expires: Option<String>,
    pub tier: Option<String>,
    pub group: Option<String>,
    pub allowed_ips: Vec<String>,
    pub allowed_models: Vec<String>,
    pub metadata: Option<Value>,
    pub active: bool,
}

impl NewKey {
    /// A key with nothing but its name and credential.
    pub fn new(name: impl Into<String>, credential: Credential) -> Self {
        NewKey {
            name: name.into(),
            credential,
            mask: None,
            description: None,
            tokens: Budget::default(),
            requests: Budget::default(),
            usd: Budget::default(),
            period: None,
            expires: None,
            tier: None,
            group: None,
            allowed_ips: Vec::new(),
            allowed_models: Vec::new(),
            metadata: None,
            active: true,
        }
    }

    /// What may be shown of its credential.
    pub fn shown(&self) -> String {
        match (&self.credential, &self.mask) {
            (_, Some(mask)) => mask.clone(),
            (Credential::Secret(secret), None) => secret.masked(),
            (Credential::Hash(_), None) => String::from("…"),
        }
    }

    /// An item of the request that has it made.
    pub fn body(&self) -> Value {
        let mut body = Map::new();
        let mut put = |name: &str, value: Value| {
            body.insert(name.to_owned(), value);
        };
        put("name", json!(self.name));
        match &self.credential {
            Credential::Secret(secret) => put("api_key", json!(secret.reveal())),
            Credential::Hash(hash) => put("api_key_sha256", json!(hash.to_hex())),
        }
        put("token_limit", json!(self.tokens.limit));
        put("request_limit", json!(self.requests.limit));
        put("usd_limit", json!(dollars(self.usd.limit)));
        put("used_tokens", json!(self.tokens.used));
        put("used_requests", json!(self.requests.used));
        put("used_usd", json!(dollars(self.usd.used)));
        put("is_active", json!(self.active));
        let texts = [
            ("key_prefix", self.mask.as_deref()),
            ("description", self.description.as_deref()),
            ("period", self.period),
            ("expires_at", self.expires.as_deref()),
            ("rate_limit_tier", self.tier.as_deref()),
            ("group", self.group.as_deref()),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                put(name, json!(text));
            }
        }
        let lists = [
            ("allowed_ips", &self.allowed_ips),
            ("allowed_models", &self.allowed_models),
        ];
        for (name, list) in lists {
            if !list.is_empty() {
                put(name, json!(list));
            }
        }
        if let Some(metadata) = &self.metadata {
            put("metadata", metadata.clone());
        }
        Value::Object(body)
    }
}

/// Names of keys that one remark shows.
const NAMED: usize = 5;

impl Read {
    /// Reads every row by `key`, which answers `None` for a key that is of no use any more.
    ///
    /// # Errors
    /// Every fault, by the row's place in the file; `what` is the format's word for a row.
    pub fn each<T>(
        rows: &[T],
        what: &str,
        key: impl Fn(&T, &mut Remarks) -> Result<Option<NewKey>, String>,
    ) -> Result<Read, Vec<String>> {
        let (mut keys, mut remarks, mut faults) = (Vec::new(), Remarks::default(), Vec::new());
        for (at, row) in rows.iter().enumerate() {
            match key(row, &mut remarks) {
                Ok(key) => keys.extend(key),
                Err(fault) => faults.push(format!("{what} {}: {fault}", at + 1)),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let notes = remarks.into_notes();
        Ok(Read { keys, notes })
    }
}

/// What cannot be said here, by remark, with the keys that it is about.
#[derive(Debug, Default)]
pub struct Remarks(BTreeMap<&'static str, Vec<String>>);

impl Remarks {
    pub fn add(&mut self, remark: &'static str, name: &str) {
        self.0.entry(remark).or_default().push(name.to_owned());
    }

    /// One line each.
    pub fn into_notes(self) -> Vec<String> {
        let told = |(remark, names): (&str, Vec<String>)| {
            let first: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
            let more = match names.len() - first.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("{remark} ({}{more})", first.join(", "))
        };
        self.0.into_iter().map(told).collect()
    }
}
