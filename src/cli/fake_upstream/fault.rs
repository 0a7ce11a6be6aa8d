//! Errors in the form each provider gives them.
//!
//! Sources: OpenAI "Error codes", Anthropic "Errors", Google "Status codes".

use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::metering::Dialect;

use super::control::Control;

/// An error answer before it has a dialect.
#[derive(Clone, Debug)]
pub struct Fault {
    pub status: StatusCode,
    pub message: String,
    /// OpenAI's `code`.
    pub code: Option<String>,
    pub retry_after: Option<HeaderValue>,
}

impl Fault {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Fault {
            status,
            message: message.into(),
            code: None,
            retry_after: None,
        }
    }

    /// The error a request asked for by `status=…`, as a provider would send it.
    pub fn asked(status: u16, control: &Control) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let code = control
            .code
            .clone()
            .or_else(|| usual_code(status).map(str::to_owned));
        let message = match code.as_deref() {
            Some("insufficient_quota") => {
                "The quota of this account is used up; see its plan and billing."
            }
            Some("rate_limit_exceeded") => {
                "Rate limit reached for this organization: limit 3, used 3, requested 1."
            }
            _ => status.canonical_reason().unwrap_or("Overloaded"),
        };
        let mut fault = Fault::new(status, message);
        fault.retry_after = control
            .retry_after
            .as_ref()
            .and_then(|value| HeaderValue::from_str(value).ok());
        fault.code = code;
        fault
    }

    pub fn unknown_path(method: &http::Method, path: &str) -> Self {
        let message = format!("Invalid URL ({method} {path})");
        let mut fault = Fault::new(StatusCode::NOT_FOUND, message);
        fault.code = Some("unknown_url".to_owned());
        fault
    }

    pub fn wrong_credential() -> Self {
        let mut fault = Fault::new(StatusCode::UNAUTHORIZED, "Incorrect API key provided.");
        fault.code = Some("invalid_api_key".to_owned());
        fault
    }

    /// The body in the form of `dialect`.
    pub fn body(&self, dialect: Dialect, request_id: &str) -> Value {
        let status = self.status.as_u16();
        match dialect {
            Dialect::OpenAi => json!({"error": {
                "message": self.message,
                "type": openai_type(status, self.code.as_deref()),
                "param": null,
                "code": self.code,
            }}),
            Dialect::Anthropic => json!({
                "type": "error",
                "error": {"type": anthropic_type(status), "message": self.message},
                "request_id": request_id,
            }),
            Dialect::Gemini => json!({"error": {
                "code": status, "message": self.message, "status": google_status(status),
            }}),
        }
    }
}

fn usual_code(status: StatusCode) -> Option<&'static str> {
    match status.as_u16() {
        401 => Some("invalid_api_key"),
        404 => Some("model_not_found"),
        429 => Some("rate_limit_exceeded"),
        _ => None,
    }
}

fn openai_type(status: u16, code: Option<&str>) -> &'static str {
    match (status, code) {
        (429, Some("insufficient_quota")) => "insufficient_quota",
        (429, _) => "requests",
        (500.., _) => "server_error",
        _ => "invalid_request_error",
    }
}

fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

fn google_status(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        500.. => "INTERNAL",
        _ => "INVALID_ARGUMENT",
    }
}
