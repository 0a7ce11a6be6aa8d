//! `pools[].peers`: one endpoint each, with its credential and how to reach it.

use super::authorities::authorities;
use super::scalar::{boolean, text, whole};
use super::secret::SecretText;
use super::section::{Field, Section};
use super::url::endpoint;
use super::{Balance, PeerConfig};

/// Reads `peers` of a pool.
pub fn peers(section: &mut Section<'_>, balance: Balance) -> Vec<PeerConfig> {
    let fields = section.items("peers");
    if section.lacks("peers") {
        section.missing(
            "peers",
            "at least one, such as [{url: https://api.openai.com}]",
        );
    }
    let made = fields
        .iter()
        .filter_map(|field| peer(field.section(), balance));
    made.collect()
}

fn peer(mut section: Section<'_>, balance: Balance) -> Option<PeerConfig> {
    let url = match section.field("url") {
        // What is wrong may be a password in the URL.
        Some(field) if may_hold_secret(&field) => field.hidden(endpoint),
        Some(field) => field.value(endpoint),
        None => {
            section.missing("url", "a URL such as https://api.openai.com");
            None
        }
    };
    let weight = section.or("weight", 1, whole(0, 1_000_000));
    let uses_weight = !matches!(balance, Balance::RoundRobin | Balance::Fallback);
    if let Some(field) = section
        .field("weight")
        .filter(|_| weight > 1 && !uses_weight)
    {
        field
            .at
            .fault("has no effect with this balance; set balance: weighted, or take it out");
    }
    let credential = section
        .field("credential")
        .and_then(|field| field.hidden(credential))
        .flatten();
    let headers = section.field("headers").map_or_else(Vec::new, headers);
    let http2 = section.or("http2", false, boolean);
    let sni = section.get("sni", server_name);
    let ca = section.field("ca").and_then(|field| authorities(&field));
    if url.as_ref().is_some_and(|url| !url.tls) {
        let useless = [section.field("sni"), section.field("ca")];
        for field in useless.into_iter().flatten() {
            field
                .at
                .fault("has no effect without TLS; give an https:// URL, or take it out");
        }
    }
    section.later("account");
    let account = section.get("account", text);
    section.finish();
    let url = url?;
    Some(PeerConfig {
        tls: url.tls,
        host: url.host,
        port: url.port,
        base_path: url.path,
        query: (!url.query.is_empty()).then(|| SecretText::new(url.query)),
        http2,
        sni,
        ca,
        credential,
        headers,
        weight,
        account,
    })
}

/// A name as a certificate has it.
fn server_name(name: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    (!name.is_empty() && name.chars().all(fits))
        .then(|| name.to_ascii_lowercase())
        .ok_or_else(|| String::from("expected a host's name such as api.example.com"))
}

fn may_hold_secret(field: &Field<'_>) -> bool {
    use super::document::Value;
    matches!(&field.node.value, Value::Scalar { text, .. } if text.contains(['@', '?', '#']))
}

/// A provider's secret, as it can stand in a header; an empty one is none.
fn credential(text: &str) -> Result<Option<SecretText>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(Some(SecretText::new(text)));
    }
    Err(String::from(
        "expected a credential without spaces, line breaks or letters beyond ASCII",
    ))
}

fn headers(field: Field<'_>) -> Vec<(String, SecretText)> {
    let mut headers = Vec::new();
    for (name, field) in field.named() {
        if let Err(expected) = header_name(name) {
            field.at.fault(expected);
            continue;
        }
        if let Some(value) = field.hidden(header_value) {
            headers.push((name.to_ascii_lowercase(), value));
        }
    }
    headers
}

fn header_name(name: &str) -> Result<(), &'static str> {
    // RFC 9110, section 7.6.1: these belong to one connection, and the proxy writes them itself.
    const OWN: [&str; 9] = [
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "proxy-connection",
    ];
    if OWN.contains(&name.to_ascii_lowercase().as_str()) {
        return Err("is written by the proxy itself; take it out");
    }
    match name.parse::<http::HeaderName>() {
        Ok(_) => Ok(()),
        Err(_) => Err("is no name of a header, expected one such as x-org"),
    }
}

fn header_value(text: &str) -> Result<SecretText, String> {
    match http::HeaderValue::from_str(text) {
        Ok(_) => Ok(SecretText::new(text)),
        Err(_) => Err(String::from("expected one line of visible text")),
    }
}
