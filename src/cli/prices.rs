//! `quota-proxy prices import`: LiteLLM's community price map to our price file.
//!
//! Numbers pass as the digits they are written in, so that no price is bent by a float. A price finer
//! than a nano-USD per million tokens is rounded, and counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::config::is_price_pattern;
use crate::quota::money::{Decimal, NANO_PLACES, dollars};

/// Nano-USD per million tokens from USD per token: 10^9 × 10^6.
const PER_TOKEN_PLACES: i32 = 15;
/// A million USD, beyond which the configuration takes no price.
const MAX_NANO: i64 = 1_000_000_000_000_000;

/// What became of a price map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportReport {
    /// Our price file.
    pub yaml: String,
    /// Models in it.
    pub models: usize,
    /// Entries without a price per token or request: images, audio by the second, free text.
    pub skipped: usize,
    /// Entries with `*`, `?` or brackets in their names: as patterns they would price other models too.
    pub patterns: usize,
    /// Names of entries whose prices make no sense (negative, no number, too large); left out.
    pub refused: Vec<String>,
    /// Prices that were finer than a nano-USD per million tokens.
    pub rounded: usize,
}

/// Why nothing could be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{path} cannot be read: {source}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} cannot be written: {source}")]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "this is no LiteLLM price map: {0}; expected a JSON object of model names, \
         as in model_prices_and_context_window.json"
    )]
    NoPriceMap(#[from] serde_json::Error),
    #[error("the price map holds no model with a price per token or request")]
    Empty,
}

/// Converts the file `from`; what it becomes is written to `to`, or is left to the caller to show.
///
/// # Errors
/// Where a file cannot be read or written, or holds no price map.
pub fn import_file(from: &Path, to: Option<&Path>) -> Result<ImportReport, ImportError> {
    let json = std::fs::read_to_string(from).map_err(|source| ImportError::Read {
        path: from.to_path_buf(),
        source,
    })?;
    let report = import(&json)?;
    if let Some(to) = to {
        std::fs::write(to, &report.yaml).map_err(|source| ImportError::Write {
            path: to.to_path_buf(),
            source,
        })?;
    }
    Ok(report)
}

/// Converts a price map. Provider prefixes (`azure/…`) stay as they are; models are in the order of
/// their names.
///
/// # Errors
/// Where the text is no price map, or has no price in it.
pub fn import(json: &str) -> Result<ImportReport, ImportError> {
    let map: BTreeMap<String, &RawValue> = serde_json::from_str(json)?;
    let mut report = ImportReport {
        yaml: String::from(HEADER),
        models: 0,
        skipped: 0,
        patterns: 0,
        refused: Vec::new(),
        rounded: 0,
    };
    for (name, raw) in &map {
        // The map explains itself in an entry of this name.
        if name == "sample_spec" {
            report.skipped += 1;
            continue;
        }
        if is_price_pattern(name) {
            report.patterns += 1;
            continue;
        }
        match line(raw, &mut report.rounded) {
            Ok(Some(fields)) => {
                // A JSON string is a YAML string too. Writing to a string cannot fail.
                let _ = writeln!(report.yaml, "  {}: {{{fields}}}", serde_json::json!(name));
                report.models += 1;
            }
            Ok(None) => report.skipped += 1,
            Err(NoPrice) => report.refused.push(name.clone()),
        }
    }
    if report.models == 0 {
        return Err(ImportError::Empty);
    }
    Ok(report)
}

const HEADER: &str = "\
# USD per million tokens, made by `quota-proxy prices import` of LiteLLM's community price map.
# Check what you bill by against your provider's own price list.
models:
";

/// The fields of an entry that we know. Others (audio, images, batches, long prompts) have no
/// counterpart here.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    input_cost_per_token: Option<&'a RawValue>,
    #[serde(borrow)]
    output_cost_per_token: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_read_input_token_cost: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_creation_input_token_cost: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_creation_input_token_cost_above_1hr: Option<&'a RawValue>,
    #[serde(borrow)]
    input_cost_per_request: Option<&'a RawValue>,
    #[serde(borrow)]
    max_input_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    max_output_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    max_tokens: Option<&'a RawValue>,
}

/// A price that is none.
struct NoPrice;

/// The fields of one model as YAML, or nothing where it has no price.
fn line(raw: &RawValue, rounded: &mut usize) -> Result<Option<String>, NoPrice> {
    let Ok(entry) = serde_json::from_str::<Entry<'_>>(raw.get()) else {
        return Err(NoPrice);
    };
    let mut per_token = |raw| price(raw, PER_TOKEN_PLACES, rounded);
    let input = per_token(entry.input_cost_per_token)?;
    let output = per_token(entry.output_cost_per_token)?;
    let optional = [
        ("cache_read", per_token(entry.cache_read_input_token_cost)?),
        (
            "cache_write_5m",
            per_token(entry.cache_creation_input_token_cost)?,
        ),
        (
            "cache_write_1h",
            per_token(entry.cache_creation_input_token_cost_above_1hr)?,
        ),
        (
            "per_request",
            price(entry.input_cost_per_request, NANO_PLACES, rounded)?,
        ),
    ];
    let per_request = optional
        .iter()
        .any(|(name, price)| *name == "per_request" && price.is_some());
    if input.is_none() && output.is_none() && !per_request {
        return Ok(None);
    }
    let mut fields = format!(
        "input: {}, output: {}",
        dollars(input.unwrap_or_default()),
        dollars(output.unwrap_or_default())
    );
    for (name, price) in optional {
        if let Some(nano) = price {
            let _ = write!(fields, ", {name}: {}", dollars(nano));
        }
    }
    if let Some(tokens) = context_window(&entry) {
        let _ = write!(fields, ", context_window: {tokens}");
    }
    Ok(Some(fields))
}

/// A price in nano-USD; `places` are the decimals between the two.
fn price(raw: Option<&RawValue>, places: i32, rounded: &mut usize) -> Result<Option<i64>, NoPrice> {
    let Some(text) = raw.map(unquoted).filter(|text| *text != "null") else {
        return Ok(None);
    };
    let decimal = Decimal::parse(text).ok_or(NoPrice)?;
    let nano = decimal.rounded(places).ok_or(NoPrice)?;
    if decimal.scaled(places).is_none() {
        *rounded += 1;
    }
    if (0..=MAX_NANO).contains(&nano) {
        Ok(Some(nano))
    } else {
        Err(NoPrice)
    }
}

/// Input and output together, which is the most that an answer may report. Where the map knows only
/// one figure that is it.
fn context_window(entry: &Entry<'_>) -> Option<i64> {
    let tokens = |raw: Option<&RawValue>| {
        let number = Decimal::parse(unquoted(raw?))?;
        number
            .rounded(0)
            .filter(|tokens| (1..=500_000_000).contains(tokens))
    };
    let input = tokens(entry.max_input_tokens);
    let output = tokens(entry.max_output_tokens);
    match (input, output) {
        (Some(input), Some(output)) => Some(input + output),
        (input, output) => input.or_else(|| tokens(entry.max_tokens)).or(output),
    }
}

/// The map writes some numbers as text.
fn unquoted(raw: &RawValue) -> &str {
    raw.get().trim().trim_matches('"').trim()
}
