//! What the edge answers itself, in the admin service's words: both ports say the same.

use async_trait::async_trait;
use http::Uri;
use serde_json::Value;

use crate::admin::{AdminState, about, own};
use crate::keys::KeyRecord;
use crate::proxy::LocalAnswers;

/// Lends the admin service's answers to the edge.
#[derive(Debug)]
pub struct Answers(pub AdminState);

#[async_trait]
impl LocalAnswers for Answers {
    async fn open(&self, path: &str) -> Option<(u16, Value)> {
        match path {
            "/" => Some((200, about::root_json())),
            "/health" | "/healthz" => {
                let state = &self.0;
                let draining = state.draining.load(std::sync::atomic::Ordering::Relaxed);
                Some(about::health(&*state.store, &state.config.load(), draining).await)
            }
            _ => None,
        }
    }

    async fn own(&self, key: &KeyRecord, uri: &Uri) -> Option<(u16, Value)> {
        let state = &self.0;
        let rates = state
            .config
            .load()
            .tiers
            .get(&key.tier)
            .copied()
            .unwrap_or_default();
        own::self_service(&*state.store, key, rates, (state.clock)(), uri).await
    }
}
