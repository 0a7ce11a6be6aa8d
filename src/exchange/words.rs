//! What is said of a refusal, in each language, whatever shape an answer gives it.

use super::Refusal;
use crate::language::Language;
use crate::metering::Dialect;
use crate::quota::money::dollars;
use crate::quota::{LimitKind, Shortage};

impl Refusal {
    pub fn message(&self, language: Language) -> String {
        match language {
            Language::English => english(self),
            Language::Chinese => chinese(self),
        }
    }

    /// When the same request may pass. A store or budget that is short of breath is asked again soon.
    pub fn retry_after_ms(&self) -> Option<i64> {
        match self {
            Refusal::QuotaExceeded(shortage) | Refusal::RateLimited(shortage) => {
                shortage.retry_after_ms
            }
            Refusal::StoreUnavailable | Refusal::Overloaded | Refusal::KeyOverloaded => Some(1_000),
            _ => None,
        }
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

fn english(refusal: &Refusal) -> String {
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
        Refusal::KeyOverloaded => "This API key has too many large requests running at once; try again in a moment.".into(),
        Refusal::UpstreamUnavailable => "The upstream is unavailable.".into(),
        Refusal::UpstreamTimeout => "The upstream did not answer in time.".into(),
        Refusal::StoreUnavailable => "The quota store is unavailable; the request was not forwarded.".into(),
        Refusal::Internal => "The proxy failed; the request was not charged.".into(),
    }
}

fn chinese(refusal: &Refusal) -> String {
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
        Refusal::KeyOverloaded => "此 API 密钥同时的大请求过多，请稍后重试。".into(),
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
