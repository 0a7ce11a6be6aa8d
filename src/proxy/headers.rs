//! Headers of both directions: credentials swapped on the way up, quota figures added on the way down.

use http::header::{self, HeaderName, HeaderValue};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;

use super::socket::{KEY_PROTOCOL, offered_protocols};
use super::{Ctx, Edge, local, target};
use crate::exchange::Exchange;
use crate::metering::Dialect;
use crate::quota::money::dollars;
use crate::quota::{Resource, Standing};
use crate::time::UnixMs;
use crate::upstream::Peer;

/// What a client may send that is no business of a provider: its key, and where it came from.
/// The organization and project would choose which of the operator's accounts pays. Who shows a
/// browser's origin is a page to Anthropic, and gets 401: pages are answered for here, by `edge.cors`.
const NOT_FORWARDED: [&str; 17] = [
    "authorization",
    "x-api-key",
    "x-goog-api-key",
    "api-key",
    "openai-organization",
    "openai-project",
    "proxy-authorization",
    "cookie",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "expect",
    "origin",
    "referer",
    // What a WebSocket compresses could not be read for its usage.
    "sec-websocket-extensions",
];

/// The same: what a browser says of the page (Fetch Metadata).
const NOT_FORWARDED_PREFIX: &str = "sec-fetch-";

/// The same, as names of WebSocket protocols.
const HIDDEN_PROTOCOLS: [&str; 3] = [KEY_PROTOCOL, "openai-organization.", "openai-project."];

/// What a provider sends that speaks of the operator's account, not of the caller's key; and which
/// browsers may read an answer is said here, by `edge.cors`.
const NOT_RETURNED_PREFIXES: [&str; 3] =
    ["x-ratelimit-", "anthropic-ratelimit-", "access-control-"];
const NOT_RETURNED: [&str; 3] = [
    "set-cookie",
    "openai-organization",
    "anthropic-organization-id",
];

impl Edge {
    /// The head of the answer is about to leave: the exchange takes note, our headers go in.
    pub(super) fn answer_begins(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let Some(exchange) = ctx.exchange.as_mut() else {
            return Ok(());
        };
        let strip = ctx.strip_usage_chunk && head.status.is_success();
        let text = |name| {
            head.headers
                .get(name)
                .and_then(|v: &http::HeaderValue| v.to_str().ok())
                .unwrap_or_default()
        };
        let (kind, encoding) = (
            text(header::CONTENT_TYPE).to_owned(),
            text(header::CONTENT_ENCODING).to_owned(),
        );
        exchange.answered(head.status.as_u16(), &kind, &encoding, strip);
        if strip && head.headers.contains_key(header::CONTENT_LENGTH) {
            // The body will be shorter than the upstream said.
            head.remove_header(&header::CONTENT_LENGTH);
            if session.req_header().version == http::Version::HTTP_11 {
                head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
            }
        }
        match head.status.as_u16() {
            // A WebSocket may last for hours: that it is open is the answer.
            101 => self.book_success(exchange),
            500.. => self.book_failure(exchange),
            // The rest shows at its end.
            _ => {}
        }
        if let Some(peer) = exchange.peer() {
            scrub_answer(head, peer);
        }
        let origin = ctx
            .facts
            .as_ref()
            .and_then(|facts| facts.caller.origin.as_deref());
        for (name, value) in local::cors_headers(&self.desk.live.load().config.edge, origin) {
            // An upstream's own `Vary` stays beside ours.
            head.append_header(name, value)?;
        }
        mark_answer(head, exchange)?;
        Self::withhold(session, head, ctx);
        Ok(())
    }
}

/// Makes a caller's head into the one that the peer sees. `alias` is what the peer calls the model,
/// where that is another name than the caller's.
pub fn to_upstream(
    head: &mut RequestHeader,
    peer: &Peer,
    dialect: Dialect,
    length: Option<usize>,
    alias: Option<&str>,
) -> Result<()> {
    let doomed: Vec<HeaderName> = head
        .headers
        .keys()
        .filter(|name| {
            NOT_FORWARDED.contains(&name.as_str())
                || name.as_str().starts_with(NOT_FORWARDED_PREFIX)
        })
        .cloned()
        .collect();
    for name in doomed {
        head.remove_header(&name);
    }
    let config = &peer.config;
    let host = match (config.tls, config.port) {
        (true, 443) | (false, 80) => config.host.clone(),
        (_, port) => format!("{}:{port}", config.host),
    };
    head.insert_header(header::HOST, host)?;
    target::rewrite(head, config, alias)?;
    hide_protocols(head)?;
    if let Some(credential) = &config.credential {
        match dialect {
            Dialect::OpenAi => head.insert_header(
                header::AUTHORIZATION,
                format!("Bearer {}", credential.reveal()),
            )?,
            Dialect::Anthropic => head.insert_header("x-api-key", credential.reveal())?,
            Dialect::Gemini => head.insert_header("x-goog-api-key", credential.reveal())?,
        }
    }
    for (name, value) in &config.headers {
        head.insert_header(name.clone(), value.reveal())?;
    }
    if let Some(length) = length {
        head.remove_header(&header::TRANSFER_ENCODING);
        if length > 0 || head.method != http::Method::GET {
            head.insert_header(header::CONTENT_LENGTH, length.to_string())?;
        }
    }
    Ok(())
}

/// A page's WebSocket says who calls by the names of protocols: they go no further than its key does.
fn hide_protocols(head: &mut RequestHeader) -> Result<()> {
    if !head.headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return Ok(());
    }
    let is_ours = |name: &&str| !HIDDEN_PROTOCOLS.iter().any(|own| name.starts_with(own));
    let kept: Vec<&str> = offered_protocols(head).filter(is_ours).collect();
    let kept = kept.join(", ");
    head.remove_header(&header::SEC_WEBSOCKET_PROTOCOL);
    if !kept.is_empty() {
        head.insert_header(header::SEC_WEBSOCKET_PROTOCOL, kept)?;
    }
    Ok(())
}

/// Takes out what speaks of the operator's account, and any header that carries our credential: an
/// upstream that echoes its request must not give it away.
pub fn scrub_answer(head: &mut ResponseHeader, peer: &Peer) {
    let secrets: Vec<&[u8]> = peer
        .config
        .credential
        .iter()
        .chain(peer.config.headers.iter().map(|(_, value)| value))
        .map(|secret| secret.reveal().as_bytes())
        .filter(|secret| secret.len() >= 8)
        .collect();
    let leaks = |value: &[u8]| {
        secrets
            .iter()
            .any(|secret| memchr::memmem::find(value, secret).is_some())
    };
    let doomed: Vec<HeaderName> = head
        .headers
        .iter()
        .filter(|(name, value)| {
            let name = name.as_str();
            NOT_RETURNED.contains(&name)
                || NOT_RETURNED_PREFIXES
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
                || leaks(value.as_bytes())
        })
        .map(|(name, _)| name.clone())
        .collect();
    for name in doomed {
        head.remove_header(&name);
    }
}

/// One quota as headers show it.
struct Gauge {
    name: &'static str,
    limit: i64,
    used: i64,
    remaining: i64,
}

impl Gauge {
    /// Remaining as a share of the limit, in millionths: the smallest is the tightest.
    fn share(&self) -> i128 {
        i128::from(self.remaining) * 1_000_000 / i128::from(self.limit.max(1))
    }

    fn figure(&self, amount: i64) -> HeaderValue {
        match self.name {
            "usd" => value(dollars(amount)),
            _ => HeaderValue::from(amount),
        }
    }
}

fn gauges(standing: &Standing) -> impl Iterator<Item = Gauge> {
    let (quotas, used, held) = (standing.quotas, standing.used, standing.held);
    [
        (
            Resource::Requests,
            "requests",
            quotas.requests,
            used.requests,
            held.requests,
        ),
        (
            Resource::Tokens,
            "tokens",
            quotas.tokens,
            used.tokens,
            held.tokens,
        ),
        (
            Resource::Usd,
            "usd",
            quotas.usd,
            used.nano_usd,
            held.nano_usd,
        ),
    ]
    .into_iter()
    .filter(|(_, _, limit, _, _)| !limit.is_unlimited())
    .map(|(_, name, limit, used, held)| Gauge {
        name,
        limit: limit.limit,
        used,
        remaining: (limit.limit - used - held).max(0),
    })
}

/// Names of the per-minute headers, in the order limit, remaining, reset.
struct BucketNames {
    openai: [&'static str; 3],
    anthropic: [&'static str; 3],
}

const REQUEST_NAMES: BucketNames = BucketNames {
    openai: [
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ],
    anthropic: [
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
    ],
};
const TOKEN_NAMES: BucketNames = BucketNames {
    openai: [
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    ],
    anthropic: [
        "anthropic-ratelimit-tokens-limit",
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-tokens-reset",
    ],
};

/// A header's name and value; the names are all ours and fixed.
pub type Named = (&'static str, HeaderValue);

/// The quota headers of every metered answer (SPEC section 3, "Headers"). The figures are those of
/// the reserve: they need no second look at the store.
pub fn quota_headers(standings: &[Standing], dialect: Dialect, now: UnixMs) -> Vec<Named> {
    let mut out = Vec::with_capacity(12);
    if let Some(tightest) = standings.iter().flat_map(gauges).min_by_key(Gauge::share) {
        out.push(("x-quota-limit", tightest.figure(tightest.limit)));
        out.push(("x-quota-used", tightest.figure(tightest.used)));
        out.push(("x-quota-remaining", tightest.figure(tightest.remaining)));
        out.push(("x-quota-type", HeaderValue::from_static(tightest.name)));
    }
    let Some(own) = standings.first() else {
        return out;
    };
    let mut policy = String::new();
    let mut levels = String::new();
    let buckets = [
        (
            "requests",
            own.rates.requests_per_minute,
            own.requests_in_bucket,
            &REQUEST_NAMES,
        ),
        (
            "tokens",
            own.rates.tokens_per_minute,
            own.tokens_in_bucket,
            &TOKEN_NAMES,
        ),
    ];
    for (name, limit, level, names) in buckets.into_iter().filter(|(_, limit, _, _)| *limit > 0) {
        let full_in_ms = (limit - level).max(0).saturating_mul(60_000) / limit;
        let level = level.max(0);
        let (names, reset) = match dialect {
            Dialect::Anthropic => (&names.anthropic, now.plus_ms(full_in_ms).to_rfc3339()),
            Dialect::OpenAi | Dialect::Gemini => (&names.openai, span(full_in_ms)),
        };
        out.push((names[0], HeaderValue::from(limit)));
        out.push((names[1], HeaderValue::from(level)));
        out.push((names[2], value(reset)));
        // draft-ietf-httpapi-ratelimit-headers-09: a policy's quota and window, and what is left.
        let comma = if policy.is_empty() { "" } else { ", " };
        policy.push_str(&format!("{comma}\"{name}\";q={limit};w=60"));
        levels.push_str(&format!(
            "{comma}\"{name}\";r={level};t={}",
            full_in_ms / 1_000
        ));
    }
    if !policy.is_empty() {
        out.push(("ratelimit-policy", value(policy)));
        out.push(("ratelimit", value(levels)));
    }
    out
}

/// Digits and plain words only: always a legal value.
fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A time span in OpenAI's form: `6m0s`, `1s`, `17ms`.
fn span(ms: i64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{}.{:03}s", ms / 1_000, ms % 1_000).replace(".000s", "s"),
        _ => format!("{}m{}s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

/// Puts our headers into an answer that is about to leave.
pub fn mark_answer(head: &mut ResponseHeader, exchange: &Exchange) -> Result<()> {
    let id = &exchange.subject.request_id;
    for name in ["x-request-id", "request-id"] {
        if let Some(theirs) = head.remove_header(name) {
            head.insert_header("x-upstream-request-id", theirs)?;
        }
    }
    head.insert_header("x-request-id", id.as_str())?;
    if exchange.dialect == Dialect::Anthropic {
        head.insert_header("request-id", id.as_str())?;
    }
    for (name, value) in quota_headers(&exchange.grant.standings, exchange.dialect, UnixMs::now()) {
        head.insert_header(name, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_openai_writes_them() {
        assert_eq!(span(17), "17ms");
        assert_eq!(span(1_000), "1s");
        assert_eq!(span(1_500), "1.500s");
        assert_eq!(span(360_000), "6m0s");
    }
}
