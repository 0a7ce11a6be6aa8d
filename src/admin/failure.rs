//! What goes wrong in the admin service, and the one place that makes HTTP of it.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde_json::json;

use crate::store::StoreError;

/// Why a request is not answered with what it asked for.
#[derive(Debug)]
pub enum Failure {
    /// Who calls is not known. The second is the scheme that would do.
    Unauthorized(&'static str, &'static str),
    Forbidden(&'static str),
    /// What was not found: `API key`, `Group`.
    NotFound(&'static str),
    /// Fields, values and what is allowed; several faults in one text.
    Invalid(String),
    TooLarge,
    TooSlow,
    Conflict(String),
    /// Too many attempts, one after the other or at once; seconds to wait.
    TooMany(u64),
    Store(StoreError),
    /// Our fault. The text is for the log only.
    Internal(String),
    MethodNotAllowed,
    /// Two API keys that differ.
    Ambiguous,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::Store(error)
    }
}

impl Failure {
    /// Status and message as the caller sees them. What the store or the process says of itself goes
    /// to the log, not to the caller.
    pub(super) fn shown(&self) -> (StatusCode, String) {
        match self {
            Failure::Unauthorized(why, _) => (StatusCode::UNAUTHORIZED, (*why).to_owned()),
            Failure::Forbidden(why) => (StatusCode::FORBIDDEN, (*why).to_owned()),
            Failure::NotFound(what) => (StatusCode::NOT_FOUND, format!("{what} not found")),
            Failure::Invalid(why) => (StatusCode::UNPROCESSABLE_ENTITY, why.clone()),
            Failure::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {} bytes", super::body::MAX_BODY),
            ),
            Failure::TooSlow => (
                StatusCode::REQUEST_TIMEOUT,
                String::from("the body did not arrive in time"),
            ),
            Failure::Conflict(why) | Failure::Store(StoreError::Conflict(why)) => {
                (StatusCode::CONFLICT, why.clone())
            }
            Failure::TooMany(seconds) => (
                StatusCode::TOO_MANY_REQUESTS,
                format!("too many attempts, try again in {seconds} s"),
            ),
            Failure::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                String::from("method not allowed"),
            ),
            Failure::Ambiguous => (
                StatusCode::BAD_REQUEST,
                String::from("two API keys that differ were sent"),
            ),
            Failure::Store(StoreError::NotFound) => {
                (StatusCode::NOT_FOUND, String::from("not found"))
            }
            Failure::Store(StoreError::Unavailable(_)) => (
                StatusCode::SERVICE_UNAVAILABLE,
                String::from("the store is unavailable, try again"),
            ),
            Failure::Store(StoreError::Fault(_)) | Failure::Internal(_) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                String::from("internal error; the log says more"),
            ),
        }
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
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.log();
        let (status, detail) = self.shown();
        let mut response = (status, Json(json!({"detail": detail}))).into_response();
        let headers = response.headers_mut();
        match &self {
            Failure::Unauthorized(_, scheme) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
            }
            Failure::TooMany(seconds) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(*seconds));
            }
            Failure::Store(StoreError::Unavailable(_)) => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}
