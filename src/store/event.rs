//! The usage event: what the books keep of one request and its answer.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::keys::KeyId;
use crate::quota::{Amounts, Subject};
use crate::time::UnixMs;

/// One request and its answer, as the books keep it. `total_tokens` and `total_cost` are exactly what
/// was charged to the token and USD counters (invariant I5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsageEvent {
    pub id: Uuid,
    pub api_key_id: KeyId,
    pub request_id: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub request_method: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub request_path: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub request_size: i64,
    /// 0 where no answer was begun.
    #[serde(default, skip_serializing_if = "is_default")]
    pub response_status: u16,
    #[serde(default, skip_serializing_if = "is_default")]
    pub response_size: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub response_time_ms: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub first_byte_ms: Option<i64>,
    /// Requests charged to the request counter: 1, or 0 where it was void or refused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub requests: i64,
    /// What was left of the request quota when this was admitted; `None` where it is unlimited or was
    /// not asked.
    #[serde(default, skip_serializing_if = "is_default")]
    pub requests_remaining: Option<i64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub prompt_tokens: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub completion_tokens: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub cached_tokens: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub cache_write_tokens: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub reasoning_tokens: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub total_tokens: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub pool: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub peer: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_error: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub error_code: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub error_message: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub total_error_message: Option<String>,
    /// Nano-USD.
    #[serde(default, skip_serializing_if = "is_default")]
    pub total_cost_nano: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub estimated: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub end_user: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub client_disconnected: bool,
    /// Why the figures are what they are, where that is not plain: `capped`, `lease_expired`, `late` …
    #[serde(default, skip_serializing_if = "is_default")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub metadata: Option<Value>,
    pub created_at: UnixMs,
}

/// Left out where an event is written: most fields of most events say nothing.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl UsageEvent {
    /// An event of this key with nothing in it yet.
    pub fn blank(id: Uuid, key: KeyId, now: UnixMs) -> UsageEvent {
        UsageEvent {
            id,
            api_key_id: key,
            request_id: id.simple().to_string(),
            request_method: String::new(),
            request_path: String::new(),
            request_size: 0,
            response_status: 0,
            response_size: 0,
            response_time_ms: 0,
            first_byte_ms: None,
            requests: 0,
            requests_remaining: None,
            prompt_tokens: 0,
            completion_tokens: 0,
            cached_tokens: 0,
            cache_write_tokens: 0,
            reasoning_tokens: 0,
            total_tokens: 0,
            model: None,
            pool: None,
            peer: None,
            is_error: false,
            error_code: None,
            error_message: None,
            total_error_message: None,
            total_cost_nano: 0,
            estimated: false,
            end_user: None,
            client_disconnected: false,
            reason: None,
            metadata: None,
            created_at: now,
        }
    }

    /// Says which request it was.
    pub fn tell_of(&mut self, subject: &Subject) {
        self.request_id.clone_from(&subject.request_id);
        self.request_method.clone_from(&subject.method);
        self.request_path.clone_from(&subject.path);
        self.model.clone_from(&subject.model);
        self.pool.clone_from(&subject.pool);
        self.end_user.clone_from(&subject.end_user);
    }

    /// The reverse of `tell_of`.
    pub fn subject(&self) -> Subject {
        Subject {
            key: self.api_key_id,
            request_id: self.request_id.clone(),
            method: self.request_method.clone(),
            path: self.request_path.clone(),
            model: self.model.clone(),
            pool: self.pool.clone(),
            end_user: self.end_user.clone(),
            input_tokens: self.prompt_tokens,
        }
    }

    /// What this event charged.
    pub fn charged(&self) -> Amounts {
        Amounts {
            requests: self.requests,
            tokens: self.total_tokens,
            nano_usd: self.total_cost_nano,
        }
    }
}
