//! Making and reading a usage event.

use uuid::Uuid;

use super::UsageEvent;
use crate::keys::KeyId;
use crate::quota::{Amounts, Subject};
use crate::time::UnixMs;

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
