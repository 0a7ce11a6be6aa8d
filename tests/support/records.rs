//! What tests and benches of stores have in common: records with something in every field that a
//! store must bring back.

use std::sync::Arc;

use quota_proxy::keys::{KeyHash, KeyId, KeyRecord};
use quota_proxy::quota::{Admission, Ask, Quotas, ReservationId, ScopeClaim, Subject};
use quota_proxy::store::{AuditEntry, UsageEvent};
use quota_proxy::time::UnixMs;
use uuid::Uuid;

/// A key without limits. A store that is given it makes its version 1.
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
        tier: String::from("basic"),
        quotas: Quotas::default(),
        allowed_ips: Vec::new(),
        denied_ips: Vec::new(),
        allowed_origins: Vec::new(),
        allowed_models: Vec::new(),
        metadata: serde_json::json!({"team": "red"}),
        active: true,
        deleted: false,
        expires_at: None,
        created_at: UnixMs(0),
        updated_at: UnixMs(0),
    }
}

pub fn audit(what: &str) -> AuditEntry {
    AuditEntry {
        at: UnixMs(1_795_229_099_123),
        who: String::from("admin"),
        what: what.to_owned(),
        subject: String::from("a key"),
        before: None,
        after: Some(serde_json::json!({"name": "a key"})),
    }
}

/// 1 request, `input` + `output` tokens, at 1 nano-USD an output token, by version 1 of the key.
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
            request_id: format!("req_{id}"),
            method: String::from("POST"),
            path: String::from("/v1/chat/completions"),
            model: Some(String::from("gpt-x")),
            pool: Some(String::from("openai")),
            end_user: None,
            input_tokens: input,
        }),
    }
}

/// An answer of 3 + 4 tokens; what it is charged is the store's to fill in.
pub fn event(id: Uuid, key: KeyId, created_at: UnixMs) -> UsageEvent {
    UsageEvent {
        id,
        api_key_id: key,
        request_id: format!("req_{id}"),
        request_method: String::from("POST"),
        request_path: String::from("/v1/chat/completions"),
        request_size: 100,
        response_status: 200,
        response_size: 200,
        response_time_ms: 30,
        first_byte_ms: Some(10),
        requests: 0,
        requests_remaining: None,
        prompt_tokens: 3,
        completion_tokens: 4,
        cached_tokens: 1,
        cache_write_tokens: 0,
        reasoning_tokens: 2,
        total_tokens: 0,
        model: Some(String::from("gpt-x")),
        pool: Some(String::from("openai")),
        peer: Some(String::from("api.openai.com:443")),
        is_error: false,
        error_code: None,
        error_message: None,
        total_error_message: None,
        total_cost_nano: 0,
        estimated: false,
        end_user: Some(String::from("u1")),
        client_disconnected: false,
        reason: None,
        metadata: Some(serde_json::json!({"a": [1, 2]})),
        created_at,
    }
}
