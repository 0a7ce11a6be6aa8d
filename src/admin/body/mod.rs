//! Reading a body: whole and bounded, as an object of fields or as a list of such objects.

mod fields;
mod strict;

use std::time::Duration;

use axum::body::{Body, Bytes};

use super::failure::Failure;
use super::fault::{Fault, Problem};

pub use fields::{Fields, Given};
use strict::Listed;

/// Bytes of a body at most.
pub const MAX_BODY: usize = 1024 * 1024;
/// How long a body may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Faults of a list's items that are told in one answer, but for the further ones of the last item.
const MAX_FAULTS: usize = 20;

/// Reads a body whole.
///
/// # Errors
/// When it is too large, too slow, or breaks off.
pub async fn read(body: Body) -> Result<Bytes, Failure> {
    let read = axum::body::to_bytes(body, MAX_BODY);
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Err(_) => Err(Failure::TooSlow),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_too_large(&error) => Err(Failure::TooLarge),
        Ok(Err(_)) => Err(Failure::invalid("the body broke off")),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    use std::error::Error as _;
    error.to_string().contains("length limit")
        || error
            .source()
            .is_some_and(|s| s.to_string().contains("length limit"))
}

/// A body that is no JSON, or another kind of it than `allowed`.
pub fn not_json(allowed: &'static str, error: &serde_json::Error) -> Failure {
    let why = error.to_string();
    Fault::new("", Problem::NotJson { allowed, why }).into()
}

/// Reads a body that is a list of 1 to 1000 objects, each by `read`.
///
/// # Errors
/// When it is none, or with the faults of its items, each of which names its item: `[2].amount`.
pub fn items<T>(body: &[u8], read: impl Fn(&mut Fields) -> T) -> Result<Vec<T>, Failure> {
    let allowed = "a JSON array of 1 to 1000 objects";
    let Listed(list) = serde_json::from_slice(body).map_err(|e| not_json(allowed, &e))?;
    let mut items = Vec::with_capacity(list.len());
    let mut faults = Vec::new();
    for (place, raw) in list.iter().enumerate() {
        let item = Fields::parse(raw.get().as_bytes()).and_then(|mut fields| {
            let item = read(&mut fields);
            fields.finish().map(|()| item)
        });
        match item {
            Ok(item) => items.push(item),
            Err(Failure::Invalid(found)) => {
                let name = format!("[{place}]");
                faults.extend(found.into_iter().map(|fault| fault.within(&name)));
            }
            Err(other) => return Err(other),
        }
        if faults.len() >= MAX_FAULTS {
            break;
        }
    }
    if faults.is_empty() {
        return Ok(items);
    }
    Err(Failure::Invalid(faults))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::Language;

    fn items_said(body: &str) -> String {
        match items(body.as_bytes(), |f| f.int("n", 1..=9)) {
            Ok(_) => String::new(),
            Err(Failure::Invalid(faults)) => Fault::say_all(&faults, Language::English),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn faults_of_a_list_name_the_item() {
        assert_eq!(items_said(r#"[{"n":1},{}]"#), "");
        let said = items_said(r#"[{"n":1},{"n":0},{"m":1},7]"#);
        for part in [
            "[1].n: found 0, expected a whole number from 1 to 9; ",
            "[2].m: unknown field, allowed are n; ",
            "[3]: must be a JSON object: invalid type",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }

    #[test]
    fn a_list_has_an_end_and_so_have_its_faults() {
        let list = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
        assert_eq!(items_said(&list(r#"{"n":1}"#, 1_000)), "");
        assert!(items_said(&list(r#"{"n":1}"#, 1_001)).contains("there are more"));
        for none in ["[]", "{}", "", "[{}"] {
            let said = items_said(none);
            let allowed = "the body must be a JSON array of 1 to 1000 objects: ";
            assert!(said.starts_with(allowed), "{none}: {said}");
        }
        let said = items_said(&list("1", 1_000));
        assert_eq!(said.matches("must be").count(), MAX_FAULTS);
    }
}
