//! Refusals on the wire: the only place that maps a cause to a status, a code, a shape and words.
//!
//! Shapes follow the dialect of the path that was called, so that each SDK raises its own typed
//! error (SPEC section 3, "Errors").

use bytes::Bytes;
use http::HeaderValue;
use pingora::Result;
use pingora::proxy::Session;
use serde_json::{Value, json};

use super::headers::Named;
use super::local::send_json;
use super::{Ctx, Edge, body, headers, local};
use crate::admin::EdgePort;
use crate::admin::paths::is_ours;
use crate::exchange::Refusal;
use crate::language::Language;
use crate::metering::Dialect;
use crate::time::UnixMs;

/// A `Retry-After` above this is not sent: SDKs would sleep through it (SPEC section 3, "Headers").
const LONGEST_RETRY_MS: i64 = 60_000;

/// A refusal made ready for one client.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub status: u16,
    pub body: Value,
    /// Milliseconds after which the same request may pass; `None` where time does not help.
    pub retry_after_ms: Option<i64>,
    /// SDKs obey `x-should-retry: false`.
    pub should_not_retry: bool,
}

/// How a cause looks: status, OpenAI type and code, Anthropic type.
struct Row {
    status: u16,
    openai: (&'static str, Option<&'static str>),
    anthropic: &'static str,
}

fn row(refusal: &Refusal) -> Row {
    let row = |status, kind, code, anthropic| Row {
        status,
        openai: (kind, code),
        anthropic,
    };
    let bad = "invalid_request_error";
    let denied = "permission_error";
    match refusal {
        Refusal::NoKey | Refusal::UnknownKey => {
            row(401, bad, Some("invalid_api_key"), "authentication_error")
        }
        Refusal::KeyExpired => row(401, bad, Some("key_expired"), "authentication_error"),
        Refusal::KeyDisabled => row(403, denied, Some("key_disabled"), denied),
        Refusal::IpNotAllowed => row(403, denied, Some("ip_not_allowed"), denied),
        Refusal::OriginNotAllowed => row(403, denied, Some("origin_not_allowed"), denied),
        Refusal::ModelNotAllowed { .. } => row(403, denied, Some("model_not_allowed"), denied),
        Refusal::Unmetered => row(403, denied, Some("unmetered_endpoint"), denied),
        Refusal::QuotaExceeded(_) => row(
            429,
            "insufficient_quota",
            Some("insufficient_quota"),
            "rate_limit_error",
        ),
        Refusal::RateLimited(_) => row(
            429,
            "rate_limit_error",
            Some("rate_limit_exceeded"),
            "rate_limit_error",
        ),
        Refusal::BadRequest { .. } | Refusal::TwoKeys => row(400, bad, None, bad),
        Refusal::NoPoolForModel { .. } => row(404, bad, Some("model_not_found"), "not_found_error"),
        Refusal::OtherDialect { .. } => row(404, bad, Some("model_not_found"), "not_found_error"),
        Refusal::NotFound => row(404, bad, Some("not_found"), "not_found_error"),
        Refusal::BodyTooLarge { .. } => row(413, bad, None, "request_too_large"),
        Refusal::UpstreamUnavailable => {
            row(502, "api_error", Some("upstream_unavailable"), "api_error")
        }
        Refusal::Overloaded | Refusal::KeyOverloaded => row(
            503,
            "api_error",
            Some("upstream_unavailable"),
            "overloaded_error",
        ),
        Refusal::UpstreamTimeout => row(504, "api_error", Some("upstream_timeout"), "api_error"),
        Refusal::StoreUnavailable => row(503, "api_error", Some("store_unavailable"), "api_error"),
        Refusal::Internal => row(500, "api_error", Some("internal_error"), "api_error"),
    }
}

impl Reply {
    pub fn new(refusal: &Refusal, dialect: Dialect, request_id: &str, language: Language) -> Reply {
        let row = row(refusal);
        let message = refusal.message(language);
        let param = match refusal {
            Refusal::BadRequest { param, .. } => param.as_deref(),
            Refusal::NoPoolForModel { .. } | Refusal::OtherDialect { .. } => Some("model"),
            _ => None,
        };
        let body = match dialect {
            Dialect::OpenAi => json!({"error": {
                "message": message, "type": row.openai.0, "param": param, "code": row.openai.1,
            }}),
            Dialect::Anthropic => json!({
                "type": "error",
                "error": {"type": row.anthropic, "message": message},
                "request_id": request_id,
            }),
            Dialect::Gemini => json!({"error": {
                "code": row.status, "message": message, "status": google_status(row.status),
            }}),
        };
        Reply::made(row.status, body, refusal)
    }

    /// The same on a path of the proxy's own, in the admin service's shapes.
    pub fn ours(refusal: &Refusal, path: &str, language: Language) -> Reply {
        let (status, body) = EdgePort::refusal(path, refusal, language);
        Reply::made(status, body, refusal)
    }

    fn made(status: u16, body: Value, refusal: &Refusal) -> Reply {
        let wait = refusal.retry_after_ms();
        Reply {
            status,
            body,
            retry_after_ms: wait.filter(|&ms| ms <= LONGEST_RETRY_MS),
            should_not_retry: status == 429 && wait.is_none_or(|ms| ms > LONGEST_RETRY_MS),
        }
    }

    /// What is shown in place of an upstream's refusal that speaks of our account.
    pub fn busy_upstream(dialect: Dialect, request_id: &str) -> Reply {
        let kind = "rate_limit_error";
        let message = "The upstream is busy; try again later.";
        let body = match dialect {
            Dialect::OpenAi => json!({"error": {
                "message": message, "type": kind, "param": null, "code": "rate_limit_exceeded",
            }}),
            Dialect::Anthropic => json!({
                "type": "error",
                "error": {"type": kind, "message": message},
                "request_id": request_id,
            }),
            Dialect::Gemini => json!({"error": {
                "code": 429, "message": message, "status": google_status(429),
            }}),
        };
        Reply {
            status: 429,
            body,
            retry_after_ms: None,
            should_not_retry: false,
        }
    }

    /// The event that ends a stream which had begun (its status is sent already).
    pub fn stream_event(&self, dialect: Dialect) -> Bytes {
        let text = match dialect {
            Dialect::Anthropic => format!("event: error\ndata: {}\n\n", self.body),
            Dialect::OpenAi | Dialect::Gemini => format!("data: {}\n\n", self.body),
        };
        Bytes::from(text)
    }

    /// Writes head and body. The connection stays usable.
    pub async fn send(
        &self,
        session: &mut Session,
        request_id: &str,
        mut extra: Vec<Named>,
    ) -> Result<()> {
        if let Some(ms) = self.retry_after_ms {
            extra.push(("retry-after", HeaderValue::from(((ms + 999) / 1000).max(1))));
            extra.push(("retry-after-ms", HeaderValue::from(ms.max(1))));
        }
        if self.should_not_retry {
            extra.push(("x-should-retry", HeaderValue::from_static("false")));
        }
        send_json(session, self.status, &self.body, request_id, &extra).await
    }
}

impl Edge {
    /// Answers a refusal in the dialect of the path, then takes what the client still sends.
    pub(super) async fn refuse(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        refusal: &Refusal,
    ) -> Result<()> {
        let id = ctx.request_id();
        let facts = ctx.facts.as_deref();
        let language = facts.map_or(Language::English, |facts| facts.language);
        let reply = match facts {
            Some(facts) if is_ours(&facts.path) => Reply::ours(refusal, &facts.path, language),
            _ => Reply::new(refusal, ctx.dialect(), &id, language),
        };
        ctx.refused = Some((reply.status, refusal.code()));
        let extra = self.extra_headers(ctx, refusal);
        if !session.as_mut().is_body_done() {
            session.set_keepalive(None);
        }
        reply.send(session, &id, extra).await?;
        body::drain(session).await;
        Ok(())
    }

    fn extra_headers(&self, ctx: &Ctx, refusal: &Refusal) -> Vec<Named> {
        let mut extra = match refusal {
            Refusal::QuotaExceeded(shortage) | Refusal::RateLimited(shortage) => {
                headers::quota_headers(&[shortage.standing], ctx.dialect(), UnixMs::now())
            }
            _ => Vec::new(),
        };
        if ctx.dialect() == Dialect::Anthropic {
            let id = HeaderValue::from_str(&ctx.request_id());
            extra.extend(id.ok().map(|id| ("request-id", id)));
        }
        let origin = ctx.facts.as_ref().and_then(|f| f.caller.origin.as_deref());
        extra.extend(local::cors_headers(
            &self.desk.live.load().config.edge,
            origin,
        ));
        extra
    }
}

fn google_status(status: u16) -> &'static str {
    match status {
        400 | 413 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "INTERNAL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_has_its_own_shape() {
        let openai = Reply::new(
            &Refusal::UnknownKey,
            Dialect::OpenAi,
            "r",
            Language::English,
        );
        assert_eq!(openai.status, 401);
        assert_eq!(openai.body["error"]["code"], "invalid_api_key");
        assert!(openai.body["error"]["param"].is_null());
        let anthropic = Reply::new(
            &Refusal::UnknownKey,
            Dialect::Anthropic,
            "r",
            Language::English,
        );
        assert_eq!(anthropic.body["type"], "error");
        assert_eq!(anthropic.body["error"]["type"], "authentication_error");
        assert_eq!(anthropic.body["request_id"], "r");
    }

    #[test]
    fn chinese_where_it_is_preferred() {
        let reply = Reply::new(
            &Refusal::KeyDisabled,
            Dialect::OpenAi,
            "r",
            Language::Chinese,
        );
        assert!(
            reply.body["error"]["message"]
                .as_str()
                .unwrap()
                .contains("禁用")
        );
    }
}
