//! A table of keys as CSV, with a line of headings.

use super::item::{Budget, Credential, NewKey, Read};
use crate::cli::csv;
use crate::keys::{KeyHash, Secret};
use crate::quota::amount::MAX_AMOUNT;
use crate::quota::money::nano_of;

const COLUMNS: [&str; 13] = [
    "name",
    "key",
    "key_sha256",
    "token_limit",
    "request_limit",
    "usd_limit",
    "used_tokens",
    "used_requests",
    "used_usd",
    "period",
    "expires_at",
    "tier",
    "group",
];
const PERIODS: [&str; 4] = ["total", "daily", "weekly", "monthly"];

/// # Errors
/// Every fault, with its line.
pub fn read(text: &str) -> Result<Read, Vec<String>> {
    let mut records = csv::read(text).map_err(|fault| vec![fault])?.into_iter();
    let (_, head) = records
        .next()
        .ok_or_else(|| vec![String::from("is empty")])?;
    let head: Vec<String> = head.iter().map(|name| name.trim().to_lowercase()).collect();
    let mut faults = faults_of(&head);
    let mut read = Read::default();
    for (line, fields) in records.filter(|_| faults.is_empty()).collect::<Vec<_>>() {
        let row = Row {
            head: &head,
            fields: &fields,
        };
        match key(&row, fields.len()) {
            Ok(key) => read.keys.push(key),
            Err(fault) => faults.push(format!("line {line}: {fault}")),
        }
    }
    if faults.is_empty() {
        Ok(read)
    } else {
        Err(faults)
    }
}

fn faults_of(head: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    for (at, name) in head.iter().enumerate() {
        if !COLUMNS.contains(&name.as_str()) {
            let known = COLUMNS.join(", ");
            faults.push(format!(
                "line 1: unknown column {name:?}; known are {known}"
            ));
        } else if head.iter().take(at).any(|other| other == name) {
            faults.push(format!("line 1: the column {name} stands twice"));
        }
    }
    let has = |name: &str| head.iter().any(|other| other == name);
    if !has("name") || !(has("key") || has("key_sha256")) {
        faults.push(String::from(
            "line 1: expected headings, name and key or key_sha256 among them",
        ));
    }
    faults
}

struct Row<'a> {
    head: &'a [String],
    fields: &'a [String],
}

impl Row<'_> {
    /// A field that says something.
    fn text(&self, name: &str) -> Option<&str> {
        let at = self.head.iter().position(|column| column == name)?;
        let text = self.fields.get(at)?.trim();
        (!text.is_empty()).then_some(text)
    }

    fn read<T: Default>(
        &self,
        name: &str,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, String> {
        match self.text(name) {
            None => Ok(T::default()),
            Some(text) => {
                read(text).ok_or_else(|| format!("{name}: found {text:?}, expected {expected}"))
            }
        }
    }

    fn budget(&self, limit: &str, used: &str) -> Result<Budget, String> {
        let count = |text: &str| text.parse().ok().filter(|n| (0..=MAX_AMOUNT).contains(n));
        let expected = "a whole number from 0 (unlimited)";
        Ok(Budget {
            limit: self.read(limit, expected, count)?,
            used: self.read(used, expected, count)?,
        })
    }
}

fn key(row: &Row<'_>, fields: usize) -> Result<NewKey, String> {
    if fields > row.head.len() {
        return Err(format!("{fields} fields under {} headings", row.head.len()));
    }
    // What is wrong with a credential is not repeated: it may be one.
    let credential = match (row.text("key"), row.text("key_sha256")) {
        (Some(key), None) => Credential::Secret(Secret::new(key)),
        (None, Some(hex)) => {
            let no_hash = || String::from("key_sha256: expected 64 hexadecimal digits");
            Credential::Hash(KeyHash::from_hex(hex).ok_or_else(no_hash)?)
        }
        _ => {
            return Err(String::from(
                "expected a key or its key_sha256, and not both",
            ));
        }
    };
    let name = row.text("name").ok_or("has no name")?;
    let money = |text: &str| nano_of(text).filter(|nano| *nano >= 0);
    let dollars = "USD such as 25 or 0.5, 0 being unlimited";
    let period = |text: &str| PERIODS.into_iter().find(|period| *period == text).map(Some);
    let time = |text: &str| crate::cli::key::day_or_time(text).ok().map(Some);
    Ok(NewKey {
        tokens: row.budget("token_limit", "used_tokens")?,
        requests: row.budget("request_limit", "used_requests")?,
        usd: Budget {
            limit: row.read("usd_limit", dollars, money)?,
            used: row.read("used_usd", dollars, money)?,
        },
        period: row.read("period", &PERIODS.join(", "), period)?,
        expires: row.read("expires_at", "a day such as 2026-12-31 or a time", time)?,
        tier: row.text("tier").map(str::to_owned),
        group: row.text("group").map(str::to_owned),
        ..NewKey::new(name, credential)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_its_line_and_no_secret_is_repeated() {
        let text = "name,key,key_sha256,token_limit,usd_limit,period\n\
                    a,sk-secret-1,not-a-hash,,,\n\
                    b,,sk-secret-2,,,\n\
                    c,sk-secret-3,,-1,,\n\
                    ,sk-secret-4,,,,\n\
                    d,sk-secret-5,,,1.0000000001,\n\
                    e,sk-secret-6,,,,yearly\n\
                    f,sk-secret-7,,,,,x\n";
        let faults = read(text).unwrap_err();
        assert_eq!(faults.len(), 7, "{faults:#?}");
        for (at, fault) in faults.iter().enumerate() {
            assert!(fault.starts_with(&format!("line {}: ", at + 2)), "{fault}");
            assert!(!fault.contains("sk-secret"), "{fault}");
        }
        assert!(read("").is_err());
        assert!(read("name,quota\n").unwrap_err()[0].contains("unknown column \"quota\""));
        assert!(read("name,name,key\n").unwrap_err()[0].contains("twice"));
    }

    #[test]
    fn a_row_is_a_key() {
        let text =
            "Name,key,usd_limit,used_usd,expires_at,tier\nteam, sk-1 ,12.5,0.25,2027-01-31,basic\n";
        let read = read(text).unwrap();
        let key = &read.keys[0];
        assert_eq!(key.credential, Credential::Secret(Secret::new("sk-1")));
        assert_eq!(key.usd.limit, 12_500_000_000);
        assert_eq!(key.usd.used, 250_000_000);
        assert_eq!(key.body()["expires_at"], "2027-01-31");
        assert_eq!(key.body()["used_usd"], "0.25");
    }
}
