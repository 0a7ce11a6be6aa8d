//! The target of a request at a peer: its base path, the client's path, both queries.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

use pingora::Result;
use pingora::http::RequestHeader;

use super::facts::query_without_key;
use crate::config::PeerConfig;
use crate::metering::model_in_path;

/// Puts the peer's base path before the path, takes the caller's key out of the query and adds the
/// peer's own. `alias` is what the peer calls the model, in place of the name that path or query has.
pub fn rewrite(head: &mut RequestHeader, config: &PeerConfig, alias: Option<&str>) -> Result<()> {
    let own = config.query.as_ref().map_or("", |query| query.reveal());
    let query = head.uri.query();
    let has_key = query.is_some_and(|q| q.split('&').any(|pair| pair.starts_with("key=")));
    if config.base_path.is_empty() && own.is_empty() && !has_key && alias.is_none() {
        return Ok(());
    }
    let path = head.uri.path();
    let path = alias.map_or(Cow::Borrowed(path), |alias| path_with_model(path, alias));
    let mut target = path_below(&config.base_path, &path);
    let mut query = query.map(query_without_key).unwrap_or_default();
    if let Some(model) = alias {
        query = query_with_model(&query, model);
    }
    let query = joined(&query, own);
    if !query.is_empty() {
        target.push('?');
        target.push_str(&query);
    }
    head.set_raw_path(target.as_bytes())
}

/// The base path before the client's. A base that names its own version takes the place of the
/// client's (`/api/paas/v4` and `/v1/chat/completions` are `/api/paas/v4/chat/completions`), and one
/// that the client's path begins with is not sent twice.
fn path_below(base: &str, path: &str) -> String {
    let begins_with_base = path
        .strip_prefix(base)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if begins_with_base {
        return path.to_owned();
    }
    let first = path.split('/').nth(1).unwrap_or_default();
    let rest = match path.get(first.len() + 1..) {
        Some(rest) if is_version(first) && names_version(base) => rest,
        _ => path,
    };
    format!("{base}{rest}")
}

/// Whether a base path is where a provider's API of one version begins: it ends in a version
/// (`/api/v3`), in `/openai` below a version (`/v1beta/openai`), or in an Azure deployment
/// (`/openai/deployments/NAME`), whose version is in the query.
fn names_version(base: &str) -> bool {
    let mut segments = base.rsplit('/');
    let last = segments.next().unwrap_or_default();
    is_version(last)
        || segments.clone().next() == Some("deployments")
        || (last == "openai" && segments.any(is_version))
}

/// `v1`, `v4`, `v1beta`.
fn is_version(segment: &str) -> bool {
    let rest = segment.strip_prefix('v');
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// What the peer's own query names, the client's does not.
fn joined(client: &str, own: &str) -> String {
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let names: Vec<String> = own.split('&').map(name).collect();
    let kept = client
        .split('&')
        .filter(|pair| !names.contains(&name(pair)));
    let pairs = kept.chain(own.split('&')).filter(|pair| !pair.is_empty());
    pairs.collect::<Vec<_>>().join("&")
}

/// The path with another model in the place of the one that it names, if it does.
fn path_with_model<'a>(path: &'a str, model: &str) -> Cow<'a, str> {
    let put = |place: Range<usize>| {
        let (before, after) = (path.get(..place.start)?, path.get(place.end..)?);
        // It stays within its segment.
        let model = escaped(model).replace('/', "%2F");
        Some(Cow::Owned(format!("{before}{model}{after}")))
    };
    let named = model_in_path(path).and_then(put);
    named.unwrap_or(Cow::Borrowed(path))
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

/// As a part of a path or a query (RFC 3986 section 2.1).
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

    #[test]
    fn the_base_path_goes_before() {
        for (base, path, target) in [
            ("", "/v1/models", "/v1/models"),
            ("/openai", "/v1/chat", "/openai/v1/chat"),
            ("/api/v1", "/v1/chat", "/api/v1/chat"),
            ("/api/v1", "/v1", "/api/v1"),
            (
                "/api/paas/v4",
                "/v1/chat/completions",
                "/api/paas/v4/chat/completions",
            ),
            ("/api/v3", "/v1/embeddings", "/api/v3/embeddings"),
            ("/v1beta/openai", "/v1/models/x", "/v1beta/openai/models/x"),
            (
                "/v1beta/openai",
                "/v1beta/openai/models",
                "/v1beta/openai/models",
            ),
            ("/openai/v1", "/v1/responses", "/openai/v1/responses"),
            (
                "/openai/deployments/X",
                "/v1/embeddings",
                "/openai/deployments/X/embeddings",
            ),
            (
                "/openai",
                "/openai/deployments/X/embeddings",
                "/openai/deployments/X/embeddings",
            ),
            (
                "/v1/ACCOUNT/NAME/openai",
                "/v1/chat",
                "/v1/ACCOUNT/NAME/openai/chat",
            ),
            (
                "/v1/ACCOUNT/NAME/anthropic",
                "/v1/messages",
                "/v1/ACCOUNT/NAME/anthropic/v1/messages",
            ),
            ("/api/v3", "/chat/completions", "/api/v3/chat/completions"),
            ("/api/v3", "/v1beta/models/x:y", "/api/v3/models/x:y"),
            ("/vault", "/v1/chat", "/vault/v1/chat"),
            ("/v1", "/v10/chat", "/v1/chat"),
            ("/openai", "/openaix/chat", "/openai/openaix/chat"),
        ] {
            assert_eq!(path_below(base, path), target, "{base} + {path}");
        }
    }

    #[test]
    fn the_peers_own_query_rules() {
        assert_eq!(joined("", ""), "");
        assert_eq!(joined("a=1", ""), "a=1");
        assert_eq!(joined("", "api-version=2"), "api-version=2");
        assert_eq!(
            joined("a=1&api-version=1&b", "api-version=2"),
            "a=1&b&api-version=2"
        );
    }

    #[test]
    fn an_alias_takes_the_place_of_the_model_in_the_path() {
        for (path, model, seen) in [
            (
                "/v1beta/models/fast:generateContent",
                "gemini-x",
                "/v1beta/models/gemini-x:generateContent",
            ),
            (
                "/v1beta/models/f%61st%3AstreamGenerateContent",
                "a b/c",
                "/v1beta/models/a%20b%2Fc%3AstreamGenerateContent",
            ),
            (
                "/openai/deployments/fast/chat/completions",
                "4o",
                "/openai/deployments/4o/chat/completions",
            ),
            ("/v1/chat/completions", "4o", "/v1/chat/completions"),
        ] {
            assert_eq!(path_with_model(path, model), seen);
        }
    }

    #[test]
    fn an_alias_takes_the_place_of_every_model_in_the_query() {
        for (query, model, seen) in [
            ("model=a", "b", "model=b"),
            ("x=1&model=a&y&model=c", "b/d", "x=1&model=b/d&y&model=b/d"),
            ("model=a", "b c&d=", "model=b%20c%26d%3D"),
        ] {
            assert_eq!(query_with_model(query, model), seen);
        }
    }
}
