//! The answers of an interface, saved one after the other: its pages.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Every item of every page. `items_of` takes a page apart.
///
/// # Errors
/// What is no JSON, and what `items_of` says.
pub fn items<T: for<'de> Deserialize<'de>>(
    text: &str,
    items_of: impl Fn(T) -> Result<Vec<Box<RawValue>>, String>,
) -> Result<Vec<Box<RawValue>>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut items = Vec::new();
    for page in serde_json::Deserializer::from_str(text).into_iter::<Box<RawValue>>() {
        let page = page.map_err(|fault| format!("is no JSON: {fault}"))?;
        // An export of a table is an array.
        if let Ok(rows) = serde_json::from_str(page.get()) {
            let rows: Vec<Box<RawValue>> = rows;
            items.extend(rows);
            continue;
        }
        let page = serde_json::from_str(page.get()).map_err(|fault| unexpected(&fault))?;
        items.extend(items_of(page)?);
    }
    match items.is_empty() {
        true => Err(String::from("holds no keys")),
        false => Ok(items),
    }
}

/// What is wrong, without the value it is wrong about: that may be a secret.
pub fn unexpected(fault: &serde_json::Error) -> String {
    let text = fault.to_string();
    let what = match text.starts_with("missing field") {
        true => text.split(" at line").next().unwrap_or_default(),
        false => "a field is not what it should be",
    };
    format!(
        "{what} (line {}, column {} of it)",
        fault.line(),
        fault.column()
    )
}
