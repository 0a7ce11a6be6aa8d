//! How failures stand in the OpenAPI document: both shapes, and what each kind of endpoint may answer
//! beside what it was asked for.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::{ContentBuilder, Ref, RefOr};
use utoipa::{IntoResponses, ToSchema};

/// A failure in words.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it describes what failure.rs writes")]
pub struct Detail {
    /// English, or Chinese where `Accept-Language` prefers it.
    detail: String,
}

/// A failure with a code for programs.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it describes what failure.rs writes")]
pub struct Coded {
    error: CodedError,
}

/// Why a request failed.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it describes what failure.rs writes")]
pub struct CodedError {
    /// `INVALID_REQUEST`, `QUOTA_EXCEEDED`, `KEY_NOT_FOUND` and others.
    code: String,
    /// English, or Chinese where `Accept-Language` prefers it.
    message: String,
    /// `key`, `remaining` and `requested` of a `QUOTA_EXCEEDED`; `fields` of an `INVALID_REQUEST`:
    /// every fault, each with `field`, `message`, and mostly `found` and `expected`.
    details: Value,
}

type Row = (&'static str, &'static str);

const OF_KEYS: [Row; 2] = [
    ("401", "No key, or one that is unknown, expired or deleted"),
    (
        "403",
        "The key is disabled, or may not be used from this address or origin",
    ),
];
const OF_OPERATORS: [Row; 3] = [
    ("401", "Not signed in"),
    ("403", "Not an operator, or the admin service is locked"),
    (
        "429",
        "Too many failed sign-ins; Retry-After says how long to wait",
    ),
];
const AWAY: Row = ("503", "The store is away; try again");

fn rows(schema: &str, rows: &[Row]) -> BTreeMap<String, RefOr<Response>> {
    let response = |words: &str| {
        let schema = Ref::from_schema_name(schema);
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let response = ResponseBuilder::new().description(words);
        response.content("application/json", content).build().into()
    };
    let rows = rows.iter().chain([&AWAY]);
    rows.map(|(status, words)| ((*status).to_owned(), response(words)))
        .collect()
}

/// Of a caller's own endpoints with `{"detail"}`.
#[derive(Debug)]
pub struct OwnDetail;

impl IntoResponses for OwnDetail {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        rows("Detail", &OF_KEYS)
    }
}

/// Of a caller's own endpoints with `{"error"}`.
#[derive(Debug)]
pub struct OwnCoded;

impl IntoResponses for OwnCoded {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        rows("Coded", &OF_KEYS)
    }
}

/// Of operators' endpoints with `{"error"}`.
#[derive(Debug)]
pub struct OperatorCoded;

impl IntoResponses for OperatorCoded {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        rows("Coded", &OF_OPERATORS)
    }
}
