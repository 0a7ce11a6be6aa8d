//! A draw: requests taken from a caller's quota for something that is no exchange, by the caller's own
//! word. Reserved and settled like any other, so that all limits and promises hold of it.

use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use super::identity::refuse_store;
use super::open::{KEY_CHANGES, RefusedFacts};
use super::{CallerFacts, Desk, Identity, Refusal};
use crate::keys::KeyRecord;
use crate::quota::{
    Admission, Amounts, Ask, Charge, Grant, ReservationId, Reserved, Shortage, Standing, Subject,
};
use crate::store::{Settlement, StoreError, UsageEvent};
use crate::time::UnixMs;

/// One item of a draw.
#[derive(Clone, Debug)]
pub struct DrawItem {
    /// Requests, at least 1.
    pub amount: i64,
    pub reason: Option<String>,
    pub metadata: Option<Value>,
}

/// What a draw asks for: all of its items, or nothing.
#[derive(Debug)]
pub struct DrawRequest<'a> {
    pub identity: Identity,
    pub caller: &'a CallerFacts,
    pub path: &'a str,
    pub items: Vec<DrawItem>,
    pub now: UnixMs,
}

/// A draw that was granted and booked.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// The key as it was drawn on.
    pub key: Arc<KeyRecord>,
    pub amount: i64,
    /// What is left of the request quota after each item; `None` where it is unlimited.
    pub remaining: Vec<Option<i64>>,
}

impl Desk {
    /// Takes the items from the request quota in one atomic step, and books each. Per-minute limits do
    /// not apply. Cancel safe: a reservation whose caller went away meanwhile is resolved by its lease.
    pub async fn draw(&self, request: DrawRequest<'_>) -> Result<Drawn, Refusal> {
        let amount = request
            .items
            .iter()
            .fold(0_i64, |sum, item| sum.saturating_add(item.amount));
        let id = Uuid::now_v7();
        let mut identity = request.identity.clone();
        for _ in 0..KEY_CHANGES {
            let ask = self.draw_ask(id, &identity, amount, request.path);
            match self.store.reserve(ask).await.map_err(refuse_store)? {
                Reserved::Granted(grant) => {
                    let remaining = left_after(&grant, &request.items);
                    self.settle_draw(&grant, &identity.key, &request, &remaining)
                        .await;
                    return Ok(Drawn {
                        key: identity.key,
                        amount,
                        remaining,
                    });
                }
                Reserved::Short(shortage) => {
                    return Err(self
                        .refuse_draw(id, &identity.key, &request, shortage)
                        .await);
                }
                Reserved::KeyChanged => {
                    identity = self.identify_now(request.caller, None, request.now).await?;
                }
            }
        }
        log::error!(
            "key {} changed {KEY_CHANGES} times during one draw",
            identity.key.id.0
        );
        Err(Refusal::StoreUnavailable)
    }

    fn draw_ask(&self, id: Uuid, identity: &Identity, amount: i64, path: &str) -> Ask {
        let config = &self.live.load().config;
        Ask {
            id: ReservationId(id),
            key_version: identity.key.version,
            group_version: identity.group.as_ref().map(|group| group.version),
            scopes: identity.scopes(config),
            admission: Admission::Strict,
            requests: amount,
            input_tokens: 0,
            output_tokens: 0,
            least_output_tokens: 0,
            fixed_nano_usd: 0,
            output_nano_per_million: 0,
            rate_limited: false,
            lease_ms: i64::try_from(config.quota.reservation_ttl.as_millis()).unwrap_or(i64::MAX),
            subject: Arc::new(Subject {
                key: identity.key.id,
                request_id: id.simple().to_string(),
                method: String::from("POST"),
                path: path.to_owned(),
                model: None,
                pool: None,
                end_user: None,
                input_tokens: 0,
            }),
        }
    }

    /// Settles now, or leaves it to the settler where the store does not answer.
    async fn settle_draw(
        &self,
        grant: &Grant,
        key: &KeyRecord,
        request: &DrawRequest<'_>,
        remaining: &[Option<i64>],
    ) {
        let items = request.items.iter().zip(remaining).enumerate();
        let mut events = items.map(|(place, (item, left))| {
            let id = if place == 0 {
                grant.id.0
            } else {
                Uuid::now_v7()
            };
            let mut event = UsageEvent::blank(id, key.id, request.now);
            event.request_id = grant.id.0.simple().to_string();
            event.request_method = String::from("POST");
            event.request_path = request.path.to_owned();
            event.response_status = 200;
            event.requests = item.amount;
            event.requests_remaining = *left;
            event.reason.clone_from(&item.reason);
            event.metadata.clone_from(&item.metadata);
            event
        });
        let Some(event) = events.next() else { return };
        let charge = Charge::Exact(Amounts {
            requests: grant.held.requests,
            ..Amounts::ZERO
        });
        let settlement = Settlement {
            further: events.collect(),
            ..Settlement::new(grant.id, charge, event)
        };
        match self.store.settle(settlement.clone()).await {
            Ok(_) => {}
            Err(StoreError::Unavailable(_)) => self.settler.hand_over(settlement),
            Err(fault) => log::error!("a draw is left to its lease: {fault}"),
        }
    }

    async fn refuse_draw(
        &self,
        id: Uuid,
        key: &KeyRecord,
        request: &DrawRequest<'_>,
        shortage: Box<Shortage>,
    ) -> Refusal {
        let refusal = Refusal::QuotaExceeded(shortage);
        let facts = RefusedFacts {
            id,
            method: "POST",
            path: request.path,
            model: None,
            status: 429,
            code: refusal.code(),
            request_size: 0,
            took_ms: 0,
        };
        self.book_refusal(key, facts).await;
        refusal
    }
}

/// What is left of the key's request quota after each item, the last one's being what is left now.
fn left_after(grant: &Grant, items: &[DrawItem]) -> Vec<Option<i64>> {
    let left = grant.standings.first().and_then(Standing::requests_left);
    let mut after: i64 = items.iter().map(|item| item.amount).sum();
    let left = items.iter().map(|item| {
        after -= item.amount;
        left.map(|left| left.saturating_add(after))
    });
    left.collect()
}
