//! What the store's tests have in common: records as short as a test wants them.

use std::sync::Arc;

use quota_proxy::keys::{KeyHash, KeyId, KeyRecord};
use quota_proxy::quota::{Admission, Ask, Quotas, ReservationId, ScopeClaim, Subject};
use quota_proxy::store::{AuditEntry, UsageEvent};
use quota_proxy::time::UnixMs;
use uuid::Uuid;

pub fn key_record(id: Uuid) -> KeyRecord {
    KeyRecord {
        id: KeyId(id),
        seq: 0,
        version: 0,
        name: String::from("a key"),
        description: None,
        hash: KeyHash::of(id.as_bytes()),
        masked: String::from("sk-proxy_AbCd…wxyz"),
        prefix: String::from("sk-proxy"),
        previous: None,
        owner: None,
        group: None,
        tier: String::from("unlimited"),
        quotas: Quotas::default(),
        allowed_ips: Vec::new(),
        denied_ips: Vec::new(),
        allowed_origins: Vec::new(),
        allowed_models: Vec::new(),
        metadata: serde_json::Value::Null,
        active: true,
        deleted: false,
        expires_at: None,
        created_at: UnixMs(0),
        updated_at: UnixMs(0),
    }
}

pub fn audit() -> AuditEntry {
    AuditEntry {
        at: UnixMs(0),
        who: String::from("test"),
        what: String::from("change"),
        subject: String::new(),
        before: None,
        after: None,
    }
}

/// 1 request, at 1 nano-USD an output token.
pub fn ask(id: Uuid, key: KeyId, scopes: Vec<ScopeClaim>, input: i64, output: i64) -> Ask {
    Ask {
        id: ReservationId(id),
        key_version: 1,
        group_version: None,
        scopes,
        admission: Admission::Clamp,
        requests: 1,
        input_tokens: input,
        output_tokens: output,
        least_output_tokens: 1,
        fixed_nano_usd: 0,
        output_nano_per_million: 1_000_000,
        rate_limited: true,
        lease_ms: 60_000,
        subject: Arc::new(Subject {
            key,
            request_id: id.to_string(),
            method: String::from("POST"),
            path: String::from("/v1/chat/completions"),
            model: Some(String::from("m")),
            pool: None,
            end_user: None,
            input_tokens: input,
        }),
    }
}

pub fn event(id: Uuid, key: KeyId, created_at: UnixMs) -> UsageEvent {
    UsageEvent {
        id,
        api_key_id: key,
        request_id: id.to_string(),
        request_method: String::from("POST"),
        request_path: String::from("/v1/chat/completions"),
        request_size: 0,
        response_status: 200,
        response_size: 0,
        response_time_ms: 0,
        first_byte_ms: None,
        requests: 0,
        prompt_tokens: 0,
        completion_tokens: 0,
        cached_tokens: 0,
        cache_write_tokens: 0,
        reasoning_tokens: 0,
        total_tokens: 0,
        model: Some(String::from("m")),
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
        created_at,
    }
}
