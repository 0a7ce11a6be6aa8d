//! The target of a request as a peer is to see it.

use std::fmt::Write as _;

use pingora::Result;
use pingora::http::RequestHeader;

use super::facts::query_without_key;

/// Puts the peer's base path before the path and takes the caller's key out of the query. A base that
/// ends in the version which the path begins with is not doubled (`…/v1` and `/v1/models`). `model` is
/// what the peer calls the model that the query names.
pub fn rewrite_target(
    head: &mut RequestHeader,
    base_path: &str,
    model: Option<&str>,
) -> Result<()> {
    let path = head.uri.path();
    let query = head.uri.query();
    let has_key = query.is_some_and(|q| q.split('&').any(|pair| pair.starts_with("key=")));
    if base_path.is_empty() && !has_key && model.is_none() {
        return Ok(());
    }
    let version = path.split('/').nth(1).unwrap_or_default();
    let doubled = !version.is_empty() && base_path.rsplit('/').next() == Some(version);
    let path = if doubled {
        &path[version.len() + 1..]
    } else {
        path
    };
    let mut target = format!("{base_path}{path}");
    let mut query = query.map(query_without_key).unwrap_or_default();
    if let Some(model) = model {
        query = query_with_model(&query, model);
    }
    if !query.is_empty() {
        target.push('?');
        target.push_str(&query);
    }
    head.set_raw_path(target.as_bytes())
}

/// The query with another model in the place of each that it names.
fn query_with_model(query: &str, model: &str) -> String {
    let named = format!("model={}", escaped(model));
    let pairs = query.split('&').map(|pair| {
        let names_it = pair.starts_with("model=");
        if names_it { named.as_str() } else { pair }
    });
    pairs.collect::<Vec<_>>().join("&")
}

/// As a part of a query (RFC 3986 section 2.1).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:@".contains(&byte) {
            out.push(char::from(byte));
        } else if write!(out, "%{byte:02X}").is_err() {
            // A string takes whatever is written to it.
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(base: &str, path: &str, model: Option<&str>) -> String {
        let mut head = RequestHeader::build("POST", path.as_bytes(), None).unwrap();
        rewrite_target(&mut head, base, model).unwrap();
        String::from_utf8(head.raw_path().to_vec()).unwrap()
    }

    #[test]
    fn the_base_path_goes_before_and_the_key_goes_out() {
        for (base, path, seen) in [
            ("/openai", "/v1/chat?a=1&key=secret", "/openai/v1/chat?a=1"),
            ("/api/v1", "/v1/chat", "/api/v1/chat"),
            ("", "/v1beta/models/x:y?key=secret", "/v1beta/models/x:y"),
            ("", "/v1/models", "/v1/models"),
        ] {
            assert_eq!(target(base, path, None), seen);
        }
    }

    #[test]
    fn an_alias_takes_the_place_of_every_model_in_the_query() {
        for (path, model, seen) in [
            ("/v1/realtime?model=a", "b", "/v1/realtime?model=b"),
            (
                "/r?x=1&model=a&y&model=c",
                "b/d",
                "/r?x=1&model=b/d&y&model=b/d",
            ),
            ("/r?model=a", "b c&d=", "/r?model=b%20c%26d%3D"),
        ] {
            assert_eq!(target("", path, Some(model)), seen);
        }
    }
}
