//! What goes wrong in the admin service, and the one place that makes HTTP of it.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::chinese::chinese;
use super::fault::Fault;
use super::paths::Shape;
use crate::exchange::Refusal;
use crate::language::Language;
use crate::quota::{LimitKind, money};
use crate::store::StoreError;

/// A `Retry-After` above this is not sent (SPEC section 3, "Headers").
const LONGEST_RETRY_MS: i64 = 60_000;

/// What was asked for and is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    Key,
    Group,
    User,
    Path,
}

impl Missing {
    fn name(self) -> &'static str {
        match self {
            Missing::Key => "API key",
            Missing::Group => "Group",
            Missing::User => "User",
            Missing::Path => "path",
        }
    }
}

/// Why a request is not answered with what it asked for.
#[derive(Clone, Debug)]
pub enum Failure {
    /// Who calls is not known. The second is the scheme that would do.
    Unauthorized(&'static str, &'static str),
    Forbidden(&'static str),
    NotFound(Missing),
    /// Every fault of a body or a query.
    Invalid(Vec<Fault>),
    TooLarge,
    TooSlow,
    Conflict(String),
    /// Too many attempts, one after the other or at once; seconds to wait.
    TooMany(u64),
    Store(StoreError),
    /// Our fault. The text is for the log only.
    Internal(String),
    MethodNotAllowed,
    /// A caller is turned away as the edge would; the key as it may be shown, where it is known.
    Refused {
        refusal: Refusal,
        key: Option<String>,
    },
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::Store(error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::Refused { refusal, key: None }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Failure::Invalid(vec![fault])
    }
}

impl Failure {
    /// A fault of the whole body or query, in words.
    pub fn invalid(words: impl Into<String>) -> Failure {
        Fault::words("", words).into()
    }

    /// Status and code. The relay's own endpoints call what is invalid 422 (SPEC section 3, "Errors").
    fn cause(&self, shape: Shape) -> (StatusCode, &'static str) {
        let invalid = match shape {
            Shape::Detail => StatusCode::UNPROCESSABLE_ENTITY,
            Shape::Coded => StatusCode::BAD_REQUEST,
        };
        match self {
            Failure::Unauthorized(..) => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
            Failure::Forbidden(_) => (StatusCode::FORBIDDEN, "FORBIDDEN"),
            Failure::NotFound(Missing::Key) => (StatusCode::NOT_FOUND, "KEY_NOT_FOUND"),
            Failure::NotFound(_) => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            Failure::Invalid(_) => (invalid, "INVALID_REQUEST"),
            Failure::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE"),
            Failure::TooSlow => (StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT"),
            Failure::Conflict(_) | Failure::Store(StoreError::Conflict(_)) => {
                (StatusCode::CONFLICT, "CONFLICT")
            }
            Failure::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"),
            Failure::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED"),
            Failure::Store(StoreError::NotFound) => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            Failure::Store(StoreError::Unavailable(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "STORE_UNAVAILABLE")
            }
            Failure::Store(StoreError::Fault(_)) | Failure::Internal(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR")
            }
            Failure::Refused { refusal, .. } => (status_of(refusal), refusal.code()),
        }
    }

    /// The message as the caller sees it. What the store or the process says of itself goes to the
    /// log, not to the caller.
    fn message(&self, language: Language) -> String {
        let zh = language == Language::Chinese;
        let say = |english: &'static str| if zh { chinese(english) } else { english }.to_owned();
        match self {
            Failure::Unauthorized(why, _) | Failure::Forbidden(why) => say(why),
            Failure::NotFound(what) if zh => format!("{}不存在", chinese(what.name())),
            Failure::NotFound(what) => format!("{} not found", what.name()),
            Failure::Invalid(faults) => Fault::say_all(faults, language),
            Failure::TooLarge if zh => format!("请求体超过 {} 字节", super::body::MAX_BODY),
            Failure::TooLarge => format!("the body is larger than {} bytes", super::body::MAX_BODY),
            Failure::TooSlow if zh => String::from("请求体未在规定时间内到达"),
            Failure::TooSlow => String::from("the body did not arrive in time"),
            Failure::Conflict(why) | Failure::Store(StoreError::Conflict(why)) if zh => {
                chinese(why).to_owned()
            }
            Failure::Conflict(why) | Failure::Store(StoreError::Conflict(why)) => why.clone(),
            Failure::TooMany(seconds) if zh => format!("尝试次数过多，请在 {seconds} 秒后重试"),
            Failure::TooMany(seconds) => format!("too many attempts, try again in {seconds} s"),
            Failure::MethodNotAllowed if zh => String::from("不支持此方法"),
            Failure::MethodNotAllowed => String::from("method not allowed"),
            Failure::Store(StoreError::NotFound) if zh => String::from("不存在"),
            Failure::Store(StoreError::NotFound) => String::from("not found"),
            Failure::Store(StoreError::Unavailable(_)) if zh => String::from("存储不可用，请重试"),
            Failure::Store(StoreError::Unavailable(_)) => {
                String::from("the store is unavailable, try again")
            }
            Failure::Store(StoreError::Fault(_)) | Failure::Internal(_) if zh => {
                String::from("内部错误，详见日志")
            }
            Failure::Store(StoreError::Fault(_)) | Failure::Internal(_) => {
                String::from("internal error; the log says more")
            }
            Failure::Refused { refusal, .. } => refusal.message(language),
        }
    }

    fn details(&self, language: Language) -> Value {
        match self {
            Failure::Invalid(faults) => json!({"fields": Fault::details(faults, language)}),
            Failure::Refused {
                refusal: Refusal::QuotaExceeded(shortage),
                key,
            } => {
                let left = shortage.limit - shortage.used - shortage.held;
                let shown = |amount: i64| match shortage.kind {
                    LimitKind::Usd => json!(money::dollars(amount)),
                    _ => json!(amount),
                };
                json!({
                    "key": key, "remaining": shown(left.max(0)), "requested": shown(shortage.requested),
                })
            }
            _ => json!({}),
        }
    }

    /// The answer's status and body in a shape and a language.
    pub fn shown(&self, shape: Shape, language: Language) -> (StatusCode, Value) {
        let (status, code) = self.cause(shape);
        let message = self.message(language);
        let body = match shape {
            Shape::Detail => json!({"detail": message}),
            Shape::Coded => json!({"error": {
                "code": code, "message": message, "details": self.details(language),
            }}),
        };
        (status, body)
    }

    /// Writes what is kept from the caller.
    pub(super) fn log(&self) {
        match self {
            Failure::Store(StoreError::Unavailable(why)) => {
                log::warn!("admin: store unavailable: {why}");
            }
            Failure::Store(StoreError::Fault(why)) | Failure::Internal(why) => {
                log::error!("admin: {why}");
            }
            _ => {}
        }
    }

    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        match self {
            Failure::Unauthorized(_, scheme) => {
                vec![(WWW_AUTHENTICATE, HeaderValue::from_static(scheme))]
            }
            Failure::TooMany(seconds) => vec![(RETRY_AFTER, HeaderValue::from(*seconds))],
            Failure::Store(StoreError::Unavailable(_)) => {
                vec![(RETRY_AFTER, HeaderValue::from_static("1"))]
            }
            Failure::Refused { refusal, .. } => {
                if status_of(refusal) == StatusCode::UNAUTHORIZED {
                    return vec![(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
                }
                match refusal
                    .retry_after_ms()
                    .filter(|&ms| ms <= LONGEST_RETRY_MS)
                {
                    Some(ms) => vec![(RETRY_AFTER, HeaderValue::from((ms + 999) / 1_000))],
                    None => Vec::new(),
                }
            }
            _ => Vec::new(),
        }
    }
}

/// How the edge's own refusals look on our endpoints.
fn status_of(refusal: &Refusal) -> StatusCode {
    match refusal.code() {
        "UNAUTHORIZED" | "KEY_EXPIRED" => StatusCode::UNAUTHORIZED,
        "KEY_DISABLED" | "FORBIDDEN" => StatusCode::FORBIDDEN,
        "QUOTA_EXCEEDED" | "RATE_LIMITED" => StatusCode::TOO_MANY_REQUESTS,
        "INVALID_REQUEST" => StatusCode::BAD_REQUEST,
        "MODEL_NOT_FOUND" | "NOT_FOUND" => StatusCode::NOT_FOUND,
        "PAYLOAD_TOO_LARGE" => StatusCode::PAYLOAD_TOO_LARGE,
        "STORE_UNAVAILABLE" | "UPSTREAM_UNAVAILABLE" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A failure on its way out: the layer around all routes gives it its shape and language.
#[derive(Clone, Debug)]
pub(super) struct Unshaped(Arc<Failure>);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.log();
        let (status, _) = self.cause(Shape::Detail);
        let mut response = status.into_response();
        response.headers_mut().extend(self.headers());
        response.extensions_mut().insert(Unshaped(Arc::new(self)));
        response
    }
}

/// Gives a failure its shape and language; any other answer passes.
pub(super) fn shaped(mut response: Response, shape: Shape, language: Language) -> Response {
    let Some(Unshaped(failure)) = response.extensions_mut().remove() else {
        return response;
    };
    let (status, body) = failure.shown(shape, language);
    let mut answer = (status, axum::Json(body)).into_response();
    answer.headers_mut().extend(failure.headers());
    *answer.extensions_mut() = std::mem::take(response.extensions_mut());
    answer
}
