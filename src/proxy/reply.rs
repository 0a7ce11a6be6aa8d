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
use crate::exchange::Refusal;
use crate::metering::Dialect;
use crate::quota::money::dollars;
use crate::quota::{LimitKind, Shortage};

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
        Refusal::Overloaded => row(
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
    pub fn new(refusal: &Refusal, dialect: Dialect, request_id: &str, chinese: bool) -> Reply {
        let row = row(refusal);
        let message = if chinese {
            chinese_message(refusal)
        } else {
            message(refusal)
        };
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
        let wait = retry_after(refusal);
        Reply {
            status: row.status,
            body,
            retry_after_ms: wait.filter(|&ms| ms <= LONGEST_RETRY_MS),
            should_not_retry: row.status == 429 && wait.is_none_or(|ms| ms > LONGEST_RETRY_MS),
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

/// When the same request may pass. A store or budget that is short of breath is asked again soon.
fn retry_after(refusal: &Refusal) -> Option<i64> {
    match refusal {
        Refusal::QuotaExceeded(shortage) | Refusal::RateLimited(shortage) => {
            shortage.retry_after_ms
        }
        Refusal::StoreUnavailable | Refusal::Overloaded => Some(1_000),
        _ => None,
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

/// A dialect's name and a path it is spoken on.
fn dialect_hint(dialect: Dialect) -> (&'static str, &'static str) {
    match dialect {
        Dialect::OpenAi => ("OpenAI", "/v1/chat/completions"),
        Dialect::Anthropic => ("Anthropic", "/v1/messages"),
        Dialect::Gemini => ("Gemini", "/v1beta/models/{model}:generateContent"),
    }
}

fn message(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NoKey => "No API key was given. Send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.".into(),
        Refusal::UnknownKey => "Incorrect API key provided.".into(),
        Refusal::TwoKeys => "Two different API keys were given; send one.".into(),
        Refusal::KeyExpired => "This API key has expired.".into(),
        Refusal::KeyDisabled => "This API key is disabled.".into(),
        Refusal::IpNotAllowed => "This API key may not be used from your address.".into(),
        Refusal::OriginNotAllowed => "This API key may not be used from this origin.".into(),
        Refusal::ModelNotAllowed { model } => format!("This API key may not use the model '{model}'."),
        Refusal::Unmetered => {
            "This endpoint spends without showing its usage here; keys with a token or USD quota may not use it.".into()
        }
        Refusal::QuotaExceeded(shortage) => {
            let (used, limit, unit) = figures(shortage);
            format!(
                "API_KEY_QUOTA_EXHAUSTED: the {unit} quota does not bear this request (used {used} of {limit}{}).",
                held_note(shortage, " is held by running requests")
            )
        }
        Refusal::RateLimited(shortage) => {
            let (name, limit) = (limit_name(shortage.kind), shortage.limit);
            format!("Rate limit reached: {name} {limit}.")
        }
        Refusal::BadRequest { message, .. } => message.clone(),
        Refusal::NoPoolForModel { model } => format!("The model '{model}' does not exist or is not served here."),
        Refusal::OtherDialect { model, dialect } => {
            let (name, path) = dialect_hint(*dialect);
            format!("The model '{model}' is served in the {name} dialect: call {path}.")
        }
        Refusal::NotFound => "Nothing is served at this path.".into(),
        Refusal::BodyTooLarge { limit } => format!("The request body is larger than {limit} bytes."),
        Refusal::Overloaded => "Too many large requests at once; try again in a moment.".into(),
        Refusal::UpstreamUnavailable => "The upstream is unavailable.".into(),
        Refusal::UpstreamTimeout => "The upstream did not answer in time.".into(),
        Refusal::StoreUnavailable => "The quota store is unavailable; the request was not forwarded.".into(),
        Refusal::Internal => "The proxy failed; the request was not charged.".into(),
    }
}

fn chinese_message(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NoKey => {
            "未提供 API 密钥。请使用 'Authorization: Bearer KEY' 或 'x-api-key: KEY'。".into()
        }
        Refusal::UnknownKey => "API 密钥不正确。".into(),
        Refusal::TwoKeys => "请求中有两个不同的 API 密钥，请只提供一个。".into(),
        Refusal::KeyExpired => "此 API 密钥已过期。".into(),
        Refusal::KeyDisabled => "此 API 密钥已被禁用。".into(),
        Refusal::IpNotAllowed => "此 API 密钥不允许从您的地址使用。".into(),
        Refusal::OriginNotAllowed => "此 API 密钥不允许从该来源使用。".into(),
        Refusal::ModelNotAllowed { model } => format!("此 API 密钥不允许使用模型 '{model}'。"),
        Refusal::Unmetered => {
            "此接口的用量无法在此计量，设有 token 或美元额度的密钥不能使用。".into()
        }
        Refusal::QuotaExceeded(shortage) => {
            let (used, limit, unit) = figures(shortage);
            let held = held_note(shortage, " 被进行中的请求占用");
            format!("API_KEY_QUOTA_EXHAUSTED：{unit} 额度不足（已用 {used} / {limit}{held}）。")
        }
        Refusal::RateLimited(shortage) => {
            let (name, limit) = (limit_name(shortage.kind), shortage.limit);
            format!("已达到速率限制：{name} {limit}。")
        }
        Refusal::BadRequest { message, .. } => format!("请求无效：{message}"),
        Refusal::NoPoolForModel { model } => format!("模型 '{model}' 不存在或未在此提供。"),
        Refusal::OtherDialect { model, dialect } => {
            let (name, path) = dialect_hint(*dialect);
            format!("模型 '{model}' 以 {name} 接口提供，请调用 {path}。")
        }
        Refusal::NotFound => "此路径没有提供任何服务。".into(),
        Refusal::BodyTooLarge { limit } => format!("请求体超过 {limit} 字节。"),
        Refusal::Overloaded => "同时的大请求过多，请稍后重试。".into(),
        Refusal::UpstreamUnavailable => "上游不可用。".into(),
        Refusal::UpstreamTimeout => "上游未在规定时间内响应。".into(),
        Refusal::StoreUnavailable => "额度存储不可用，请求未被转发。".into(),
        Refusal::Internal => "代理内部错误，请求未计费。".into(),
    }
}

/// `used`, `limit` and the unit as a person reads them: USD in dollars.
fn figures(shortage: &Shortage) -> (String, String, &'static str) {
    match shortage.kind {
        LimitKind::Usd => (dollars(shortage.used), dollars(shortage.limit), "USD"),
        LimitKind::Requests => (
            shortage.used.to_string(),
            shortage.limit.to_string(),
            "request",
        ),
        _ => (
            shortage.used.to_string(),
            shortage.limit.to_string(),
            "token",
        ),
    }
}

fn held_note(shortage: &Shortage, words: &str) -> String {
    if shortage.held <= 0 {
        return String::new();
    }
    let held = if shortage.kind == LimitKind::Usd {
        dollars(shortage.held)
    } else {
        shortage.held.to_string()
    };
    format!(", {held}{words}")
}

fn limit_name(kind: LimitKind) -> &'static str {
    match kind {
        LimitKind::RequestsPerMinute => "requests per minute",
        LimitKind::TokensPerMinute => "tokens per minute",
        LimitKind::Concurrency => "concurrent requests",
        LimitKind::Requests => "requests",
        LimitKind::Tokens => "tokens",
        LimitKind::Usd => "USD",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_has_its_own_shape() {
        let openai = Reply::new(&Refusal::UnknownKey, Dialect::OpenAi, "r", false);
        assert_eq!(openai.status, 401);
        assert_eq!(openai.body["error"]["code"], "invalid_api_key");
        assert!(openai.body["error"]["param"].is_null());
        let anthropic = Reply::new(&Refusal::UnknownKey, Dialect::Anthropic, "r", false);
        assert_eq!(anthropic.body["type"], "error");
        assert_eq!(anthropic.body["error"]["type"], "authentication_error");
        assert_eq!(anthropic.body["request_id"], "r");
    }

    #[test]
    fn chinese_where_it_is_preferred() {
        let reply = Reply::new(&Refusal::KeyDisabled, Dialect::OpenAi, "r", true);
        assert!(
            reply.body["error"]["message"]
                .as_str()
                .unwrap()
                .contains("禁用")
        );
    }
}
