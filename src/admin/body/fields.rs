//! A JSON object, field by field. Every fault of it is found before any is answered, and each names the
//! field, what was found and what is allowed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde_json::Value;
use serde_json::value::RawValue;

use super::not_json;
use super::strict::Unique;
use crate::admin::failure::Failure;
use crate::admin::fault::{Allowed, Fault, Problem};
use crate::quota::amount::MAX_AMOUNT;
use crate::quota::money::nano_of;

/// Entries of a list at most.
const MAX_LIST: usize = 1_000;
/// Bytes of a JSON value that is kept as it is.
const MAX_KEPT: usize = 16 * 1024;
/// Unknown fields that are named in one answer.
const MAX_UNKNOWN: usize = 20;
/// Levels of such a value: well below what JSON readers bear, so that a record that holds it can
/// always be read back.
const MAX_DEPTH: usize = 16;

/// What a body says of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Given<T> {
    Absent,
    Null,
    Value(T),
}

impl<T> Given<T> {
    pub fn value(self) -> Option<T> {
        match self {
            Given::Value(value) => Some(value),
            Given::Absent | Given::Null => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Given::Null)
    }
}

/// A JSON object whose fields are taken one by one.
#[derive(Debug)]
pub struct Fields {
    values: BTreeMap<String, Box<RawValue>>,
    known: Vec<&'static str>,
    faults: Vec<Fault>,
}

impl Fields {
    /// # Errors
    /// When the body is no JSON object, or names a field twice.
    pub fn parse(body: &[u8]) -> Result<Self, Failure> {
        let values: Unique =
            serde_json::from_slice(body).map_err(|e| not_json("a JSON object", &e))?;
        Ok(Fields {
            values: values.0,
            known: Vec::new(),
            faults: Vec::new(),
        })
    }

    /// An empty body stands for an empty object, where every field may be left out.
    ///
    /// # Errors
    /// As [`Fields::parse`].
    pub fn parse_optional(body: &[u8]) -> Result<Self, Failure> {
        let blank = body.iter().all(u8::is_ascii_whitespace);
        Fields::parse(if blank { b"{}" } else { body })
    }

    /// The faults found, and a fault for each field that nothing asked for.
    ///
    /// # Errors
    /// When there is any.
    pub fn finish(mut self) -> Result<(), Failure> {
        for name in self.values.keys().take(MAX_UNKNOWN) {
            self.faults.push(unknown(name, &self.known));
        }
        if self.faults.is_empty() {
            return Ok(());
        }
        Err(Failure::Invalid(self.faults))
    }

    pub fn fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Whether a field was there and made no sense.
    pub fn is_faulty(&self, name: &str) -> bool {
        self.faults.iter().any(|fault| fault.field == name)
    }

    /// A field that must be there and is not, or is null.
    pub fn require(&mut self, name: &str) {
        if !self.is_faulty(name) {
            self.faults.push(Fault::new(name, Problem::Required));
        }
    }

    /// Takes a field and reads its JSON text by `read`; what that refuses is a fault.
    pub fn take<T>(
        &mut self,
        name: &'static str,
        allowed: impl Into<Allowed>,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Given<T> {
        self.known.push(name);
        let Some(raw) = self.values.remove(name) else {
            return Given::Absent;
        };
        if raw.get() == "null" {
            return Given::Null;
        }
        if let Some(value) = read(raw.get()) {
            return Given::Value(value);
        }
        let problem = Problem::Expected {
            found: cut(raw.get()),
            allowed: allowed.into(),
        };
        self.faults.push(Fault::new(name, problem));
        Given::Absent
    }

    /// Text of so many characters, none of them a control character, and not blank where at least
    /// one is required.
    pub fn text(&mut self, name: &'static str, length: RangeInclusive<usize>) -> Given<String> {
        let allowed = Allowed::Text(*length.start(), *length.end());
        self.take(name, allowed, |raw| {
            let text: String = serde_json::from_str(raw).ok()?;
            let blank = *length.start() > 0 && text.trim().is_empty();
            let control = text
                .chars()
                .any(|c| c.is_control() && c != '\n' && c != '\t');
            (length.contains(&text.chars().count()) && !blank && !control).then_some(text)
        })
    }

    pub fn int(&mut self, name: &'static str, range: RangeInclusive<i64>) -> Given<i64> {
        self.take(name, &range, |raw| {
            serde_json::from_str(raw).ok().filter(|n| range.contains(n))
        })
    }

    /// A limit: 0 is unlimited, negative ones are refused.
    pub fn limit(&mut self, name: &'static str) -> Given<i64> {
        self.int(name, 0..=MAX_AMOUNT)
    }

    /// USD as a number or as text, in nano-USD.
    pub fn usd(&mut self, name: &'static str) -> Given<i64> {
        let allowed = "USD from 0 to 9007199, at most 9 decimals (0 is unlimited)";
        self.take(name, allowed, |raw| {
            let text = raw.strip_prefix('"').and_then(|r| r.strip_suffix('"'));
            nano_of(text.unwrap_or(raw)).filter(|nano| *nano >= 0)
        })
    }

    pub fn flag(&mut self, name: &'static str) -> Given<bool> {
        self.take(name, "true or false", |raw| serde_json::from_str(raw).ok())
    }

    /// A list of texts each of which `fits`.
    pub fn list(
        &mut self,
        name: &'static str,
        allowed: &'static str,
        fits: impl Fn(&str) -> bool,
    ) -> Given<Vec<String>> {
        self.take(name, Allowed::List(MAX_LIST, allowed), |raw| {
            let list: Vec<String> = serde_json::from_str(raw).ok()?;
            let fit = list.len() <= MAX_LIST && list.iter().all(|e| e.len() <= 255 && fits(e));
            fit.then_some(list)
        })
    }

    /// Addresses and networks; an address is its own network.
    pub fn nets(&mut self, name: &'static str) -> Given<Vec<IpNet>> {
        let allowed =
            "a list of addresses and networks such as 10.0.0.0/8, 192.0.2.1, 2001:db8::/32";
        self.take(name, allowed, |raw| {
            let list: Vec<String> = serde_json::from_str(raw).ok()?;
            let nets: Option<Vec<IpNet>> = list.iter().map(|text| net(text.trim())).collect();
            nets.filter(|nets| nets.len() <= MAX_LIST)
        })
    }

    /// A JSON object that is kept as it is.
    pub fn object(&mut self, name: &'static str) -> Given<Value> {
        let allowed = "an object of at most 16384 bytes and 16 levels";
        self.take(name, allowed, |raw| {
            let value: Value = serde_json::from_str(raw).ok()?;
            (value.is_object() && raw.len() <= MAX_KEPT && depth(&value) <= MAX_DEPTH)
                .then_some(value)
        })
    }
}

fn net(text: &str) -> Option<IpNet> {
    let address = text.parse::<IpAddr>().ok().map(IpNet::from);
    address.or_else(|| text.parse::<IpNet>().ok().map(|net| net.trunc()))
}

/// Recursion is bounded: the reader that made `value` refuses more than 128 levels.
fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Array(list) => list.iter().map(depth).max(),
        Value::Object(map) => map.values().map(depth).max(),
        _ => return 0,
    };
    1 + below.unwrap_or(0)
}

/// A field that is not known, and the one that was probably meant.
fn unknown(name: &str, known: &[&'static str]) -> Fault {
    let problem = Problem::Unknown {
        near: crate::config::nearest(name, known),
        known: known.to_vec(),
    };
    Fault::new(cut(name), problem)
}

/// A value as a message shows it.
pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::Language;

    fn faults(json: &str, read: impl FnOnce(&mut Fields)) -> String {
        let mut fields = match Fields::parse(json.as_bytes()) {
            Ok(fields) => fields,
            Err(Failure::Invalid(faults)) => return Fault::say_all(&faults, Language::English),
            Err(other) => panic!("{other:?}"),
        };
        read(&mut fields);
        match fields.finish() {
            Ok(()) => String::new(),
            Err(Failure::Invalid(faults)) => Fault::say_all(&faults, Language::English),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_fault_is_named_with_field_value_and_what_is_allowed() {
        let text = faults(
            r#"{"name":"","limit":-1,"nmae":1,"ips":["10.0.0.0/99"]}"#,
            |f| {
                f.text("name", 1..=255);
                f.limit("limit");
                f.nets("ips");
            },
        );
        for part in [
            "name: found \"\", expected text of 1 to 255 characters",
            "limit: found -1, expected a whole number from 0 to",
            "ips: found [\"10.0.0.0/99\"], expected a list of addresses",
            "nmae: unknown field, did you mean name?",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn an_unknown_field_far_from_all_lists_what_is_allowed() {
        let text = faults(r#"{"zzzzzz":1}"#, |f| {
            f.flag("active");
            f.usd("usd_limit");
        });
        assert_eq!(text, "zzzzzz: unknown field, allowed are active, usd_limit");
    }

    #[test]
    fn a_name_that_stands_twice_is_refused() {
        let text = faults(r#"{"a":1,"a":2}"#, |f| {
            f.limit("a");
        });
        assert!(text.contains("a stands twice"), "{text}");
    }

    #[test]
    fn a_deep_value_is_refused_and_not_followed() {
        let deep = format!(
            r#"{{"metadata":{}{}}}"#,
            "[".repeat(5_000),
            "]".repeat(5_000)
        );
        assert!(
            faults(&deep, |f| {
                f.object("metadata");
            })
            .contains("metadata: found [[[")
        );
        let deep = format!(
            r#"{{"metadata":{{"a":{}{}}}}}"#,
            "[".repeat(16),
            "]".repeat(16)
        );
        assert!(
            faults(&deep, |f| {
                f.object("metadata");
            })
            .contains("16 levels")
        );
        let fits = format!(
            r#"{{"metadata":{{"a":{}{}}}}}"#,
            "[".repeat(15),
            "]".repeat(15)
        );
        assert_eq!(
            faults(&fits, |f| {
                f.object("metadata");
            }),
            ""
        );
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for bad in ["1.5", "\"1\"", "1e3", "true", "99999999999999999999", "[]"] {
            let text = faults(&format!(r#"{{"n":{bad}}}"#), |f| {
                f.int("n", 0..=9);
            });
            assert!(text.starts_with("n: found"), "{bad}: {text}");
        }
    }

    #[test]
    fn usd_is_read_from_number_and_text() {
        let mut fields = Fields::parse(br#"{"a":12.5,"b":"0.000000001","c":null}"#).unwrap();
        assert_eq!(fields.usd("a"), Given::Value(12_500_000_000));
        assert_eq!(fields.usd("b"), Given::Value(1));
        assert_eq!(fields.usd("c"), Given::Null);
        assert_eq!(fields.usd("d"), Given::Absent);
        fields.finish().unwrap();
    }
}
