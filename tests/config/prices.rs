//! The compiled-in price table, and the import of LiteLLM's price map.
#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use quota_proxy::cli::prices::{ImportError, import, import_file};
use quota_proxy::config::{self, Prices};
use quota_proxy::metering::Usage;

const USD: i64 = 1_000_000_000;

fn built_in() -> std::sync::Arc<Prices> {
    let loaded = config::parse("", "none", Path::new("."), &|_| None);
    loaded
        .unwrap_or_else(|faults| panic!("{faults}"))
        .config
        .prices
}

fn imported(json: &str) -> (Prices, String) {
    let report = import(json).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("p.yaml"), &report.yaml).unwrap();
    let loaded = config::parse("pricing: {file: p.yaml}", "q", folder.path(), &|_| None);
    let prices = loaded
        .unwrap_or_else(|faults| panic!("{faults}\n{}", report.yaml))
        .config
        .prices;
    (Prices::clone(&prices), report.yaml)
}

#[test]
fn dated_names_have_the_price_of_their_model_and_not_of_its_siblings() {
    let prices = built_in();
    let input = |model: &str| {
        let (price, known) = prices.of(model);
        assert!(known, "{model} has no price");
        price.input
    };
    assert_eq!(input("gpt-4o-2024-08-06"), input("gpt-4o"));
    assert_eq!(input("gpt-4o-2024-05-13"), 5 * USD);
    assert_eq!(input("gpt-4o-mini-2024-07-18"), input("gpt-4o-mini"));
    assert_ne!(input("gpt-4o-mini"), input("gpt-4o"));
    assert_eq!(input("gpt-5-mini-2025-08-07"), 250_000_000);
    assert_eq!(input("gpt-5-2025-08-07"), input("gpt-5"));
    assert_eq!(input("claude-sonnet-4-20250514"), 3 * USD);
    assert_eq!(input("claude-sonnet-4-5-20250929"), 3 * USD);
    assert_eq!(input("claude-opus-4-1-20250805"), 15 * USD);
    assert_eq!(input("claude-opus-4-5-20251101"), 5 * USD);
    assert_eq!(input("claude-opus-5"), 5 * USD);
    assert_eq!(input("claude-opus-5-5"), 4 * USD);
    assert_eq!(input("claude-3-5-haiku-latest"), 800_000_000);
    assert_eq!(input("claude-haiku-4-5"), USD);
    assert!(
        !prices.of("gpt-4o-audio-preview").1,
        "audio has other prices"
    );
    assert!(!prices.of("my-own-model").1);
}

#[test]
fn a_cache_never_costs_less_to_write_than_to_read() {
    let prices = built_in();
    let all = prices
        .exact
        .values()
        .chain(prices.globs.iter().map(|(_, price)| price));
    for price in all {
        assert!(price.cache_read <= price.cache_write_5m, "{price:?}");
        assert!(price.cache_write_5m <= price.cache_write_1h, "{price:?}");
        assert!(price.cache_read <= price.input, "{price:?}");
    }
}

#[test]
fn a_claude_message_costs_what_its_parts_cost() {
    let (price, _) = built_in().of("claude-sonnet-4-5");
    let usage = Usage {
        input_tokens: 3_000_000,
        cached_tokens: 1_000_000,
        cache_write_1h_tokens: 1_000_000,
        output_tokens: 1_000_000,
        ..Usage::default()
    };
    // 3 (plain) + 0.30 (read) + 6 (written for an hour) + 15 (output)
    assert_eq!(price.cost(&usage), 24_300_000_000);
}

#[test]
fn litellm_prices_arrive_to_the_digit() {
    let (prices, yaml) = imported(include_str!("../config_corpus/litellm.json"));
    let (gpt, known) = prices.of("gpt-4o");
    assert!(known, "{yaml}");
    assert_eq!(
        (gpt.input, gpt.output, gpt.cache_read),
        (2_500_000_000, 10 * USD, 1_250_000_000)
    );
    assert_eq!(gpt.context_window, Some(128_000 + 16_384));
    let (claude, _) = prices.of("claude-sonnet-4-5");
    assert_eq!(
        (claude.cache_write_5m, claude.cache_write_1h),
        (3_750_000_000, 6 * USD)
    );
    let (azure, known) = prices.of("azure/gpt-4o");
    assert!(known);
    assert_eq!(
        azure.cache_read, azure.input,
        "what is not given is as input"
    );
    assert_eq!(prices.of("azure/gpt-4o: \"eu\"").0.input, 2_750_000_000);
    assert_eq!(prices.of("noisy").0.input, 300_000_000);
    assert_eq!(prices.of("as-text").0.input, 150_000_000);
    assert_eq!(prices.of("by-request").0.per_request, 5_000_000);
    assert_eq!(prices.of("embedding").0.output, 0);
}

#[test]
fn what_has_no_price_is_counted_and_what_makes_no_sense_is_named() {
    let report = import(include_str!("../config_corpus/litellm.json")).unwrap();
    assert_eq!(report.models, 8);
    assert_eq!(report.skipped, 2, "sample_spec, an image model");
    assert_eq!(report.patterns, 1);
    assert_eq!(report.refused, ["negative", "nonsense", "not-an-object"]);
    assert_eq!(report.rounded, 1);
}

#[test]
fn import_is_clear_about_what_it_cannot_read() {
    for wrong in ["", "[]", "{\"a\": ", "models:\n  a: 1\n"] {
        let message = import(wrong).unwrap_err().to_string();
        assert!(
            message.contains("expected a JSON object of model names"),
            "{message}"
        );
    }
    assert!(matches!(import("{}"), Err(ImportError::Empty)));
    let gone = import_file(Path::new("/nowhere/map.json"), None).unwrap_err();
    assert!(
        gone.to_string()
            .contains("/nowhere/map.json cannot be read"),
        "{gone}"
    );
}

#[test]
fn import_writes_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (
        folder.path().join("map.json"),
        folder.path().join("prices.yaml"),
    );
    std::fs::write(&from, include_str!("../config_corpus/litellm.json")).unwrap();
    let report = import_file(&from, Some(&to)).unwrap();
    assert_eq!(std::fs::read_to_string(&to).unwrap(), report.yaml);
}
