//! A usage event as its key's caller sees it.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::usd;
use crate::keys::KeyId;
use crate::store::UsageEvent;
use crate::time::UnixMs;

/// One request and its answer, or one draw, under the names of SPEC section 4.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Event {
    #[schema(value_type = String, format = Uuid)]
    id: Uuid,
    #[schema(value_type = String, format = Uuid)]
    api_key_id: KeyId,
    request_id: String,
    request_method: String,
    request_path: String,
    /// Bytes.
    request_size: i64,
    /// 0 where no answer was begun.
    response_status: u16,
    /// Bytes.
    response_size: i64,
    response_time_ms: i64,
    first_byte_ms: Option<i64>,
    prompt_tokens: i64,
    completion_tokens: i64,
    /// Part of the prompt tokens.
    cached_tokens: i64,
    /// Part of the prompt tokens.
    cache_write_tokens: i64,
    /// Part of the completion tokens.
    reasoning_tokens: i64,
    total_tokens: i64,
    model: Option<String>,
    pool: Option<String>,
    peer: Option<String>,
    is_error: bool,
    error_code: Option<String>,
    error_message: Option<String>,
    total_error_message: Option<String>,
    /// USD.
    #[schema(value_type = f64)]
    total_cost: Value,
    /// No usage was reported: the tokens are estimates.
    estimated: bool,
    end_user: Option<String>,
    client_disconnected: bool,
    /// The reason given for a use; or why the figures are what they are, where that is not plain.
    reason: Option<String>,
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
    #[schema(value_type = String, format = DateTime)]
    created_at: UnixMs,
}

impl From<UsageEvent> for Event {
    fn from(event: UsageEvent) -> Self {
        Event {
            id: event.id,
            api_key_id: event.api_key_id,
            request_id: event.request_id,
            request_method: event.request_method,
            request_path: event.request_path,
            request_size: event.request_size,
            response_status: event.response_status,
            response_size: event.response_size,
            response_time_ms: event.response_time_ms,
            first_byte_ms: event.first_byte_ms,
            prompt_tokens: event.prompt_tokens,
            completion_tokens: event.completion_tokens,
            cached_tokens: event.cached_tokens,
            cache_write_tokens: event.cache_write_tokens,
            reasoning_tokens: event.reasoning_tokens,
            total_tokens: event.total_tokens,
            model: event.model,
            pool: event.pool,
            peer: event.peer,
            is_error: event.is_error,
            error_code: event.error_code,
            error_message: event.error_message,
            total_error_message: event.total_error_message,
            total_cost: usd::show(event.total_cost_nano),
            estimated: event.estimated,
            end_user: event.end_user,
            client_disconnected: event.client_disconnected,
            reason: event.reason,
            metadata: event.metadata,
            created_at: event.created_at,
        }
    }
}
