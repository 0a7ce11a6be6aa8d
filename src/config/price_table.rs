//! The price table: `models: {NAME-OR-GLOB: {input, output, …}}`, in USD per million tokens.

use std::collections::BTreeMap;

use super::Prices;
use super::document;
use super::scalar::whole;
use super::section::{Field, Report, Section};
use crate::metering::price::Price;
use crate::quota::money::nano_of;

/// The table that holds where no file is named.
pub const BUILT_IN: &str = include_str!("../../conf/prices.yaml");

/// Reads `pricing.*` and the table it names.
pub fn pricing(mut section: Section<'_>) -> Prices {
    let report = section.at.report;
    let mut prices = match section.field("file") {
        Some(field) => named_table(&field),
        None => table(report, BUILT_IN, "(built-in prices)"),
    };
    if let Some(field) = section.field("unknown_model") {
        prices.unknown_model = price(field.section());
    }
    section.finish();
    prices
}

fn named_table(field: &Field<'_>) -> Prices {
    let Some(path) = field.path() else {
        return Prices::default();
    };
    match field.at.report.read(&path) {
        Ok(text) => table(field.at.report, &text, &path.display().to_string()),
        Err(message) => {
            field.at.fault(format!("{} {message}", path.display()));
            Prices::default()
        }
    }
}

fn table(report: &Report<'_>, text: &str, file: &str) -> Prices {
    let mut prices = Prices::default();
    let root = match document::read(text, file) {
        Ok((root, twice)) => {
            report.faults.borrow_mut().extend(twice);
            root
        }
        Err(fault) => {
            report.faults.borrow_mut().push(fault);
            return prices;
        }
    };
    let mut section = Field::root(report, file, &root).section();
    let mut globs = BTreeMap::new();
    match section.field("models") {
        Some(models) => {
            for (name, field) in models.named() {
                add(&mut prices, &mut globs, name, &field);
            }
        }
        None => section.missing("models", "a mapping of model names to their prices"),
    }
    section.finish();
    let mut globs: Vec<_> = globs.into_iter().collect();
    globs.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    prices.globs = globs.into_iter().map(|(_, entry)| entry).collect();
    prices
}

fn add<'a>(
    prices: &mut Prices,
    globs: &mut BTreeMap<&'a str, (globset::GlobMatcher, Price)>,
    name: &'a str,
    field: &Field<'_>,
) {
    let price = price(field.section());
    if !is_pattern(name) {
        prices.exact.insert(String::from(name), price);
        return;
    }
    match globset::Glob::new(name) {
        Ok(glob) => {
            globs.insert(name, (glob.compile_matcher(), price));
        }
        Err(_) => field
            .at
            .fault("is no pattern, expected a name such as gpt-4o-20*"),
    }
}

/// Whether a name in a price table stands for several models.
pub fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '[', ']', '{', '}'])
}

/// One model's prices. What is not given is never cheaper than what is: reading from and writing to a
/// cache cost as plain input, and the 1-hour cache as the 5-minute one.
fn price(mut section: Section<'_>) -> Price {
    let per_request = section.get("per_request", usd);
    let free = per_request.map(|_| 0);
    let mut token_price = |name| match free.filter(|_| section.field(name).is_none()) {
        Some(free) => free,
        None => section
            .need(name, "USD per million tokens (0 where it is free)", usd)
            .unwrap_or_default(),
    };
    let (input, output) = (token_price("input"), token_price("output"));
    let cache_read = section.or("cache_read", input, usd);
    let cache_write_5m = section.or("cache_write_5m", input, usd);
    let price = Price {
        input,
        output,
        cache_read,
        cache_write_5m,
        cache_write_1h: section.or("cache_write_1h", cache_write_5m, usd),
        per_request: per_request.unwrap_or_default(),
        context_window: section.get("context_window", whole(1, 1_000_000_000)),
    };
    section.finish();
    price
}

/// USD as nano-USD, exactly.
fn usd(text: &str) -> Result<i64, String> {
    // A million USD: beyond any price, and far from where sums overflow.
    const MAX_NANO: i64 = 1_000_000_000_000_000;
    nano_of(text)
        .filter(|nano| (0..=MAX_NANO).contains(nano))
        .ok_or_else(|| {
            String::from("expected USD such as 2.50, not negative, with at most 9 decimals")
        })
}
