//! What a key had used before it came here. It is reserved and settled like anything else, so that the
//! counters stay the sum of the events.

use std::sync::Arc;

use uuid::Uuid;

use super::{Desk, Identity};
use crate::keys::KeyRecord;
use crate::quota::{Amounts, Charge, Reserved};
use crate::store::{Settlement, StoreError, StoreResult, UsageEvent};
use crate::time::UnixMs;

/// The reason that stands in such an event.
const IMPORTED: &str = "imported";

impl Desk {
    /// Books `used` as one event in the key's current windows, whatever its limits: beyond them it is
    /// debt. The key's group is not charged: call it before the key joins one. Cancel safe as a draw is.
    ///
    /// # Errors
    /// `Conflict` where the key has changed meanwhile, and the store's own; nothing is booked then.
    pub async fn book_past(
        &self,
        key: &Arc<KeyRecord>,
        used: Amounts,
        path: &str,
        now: UnixMs,
    ) -> StoreResult<()> {
        let alone = Identity {
            key: Arc::clone(key),
            group: None,
        };
        let id = Uuid::now_v7();
        // Nothing is held: the whole of it is an excess, which a settlement books always.
        let ask = self.draw_ask(id, &alone, 0, path);
        let grant = match self.store.reserve(ask).await? {
            Reserved::Granted(grant) => grant,
            Reserved::KeyChanged | Reserved::Short(_) => {
                let why = "the key is being changed by others, try again";
                return Err(StoreError::Conflict(why.to_owned()));
            }
        };
        let mut event = UsageEvent::blank(id, key.id, now);
        event.request_method = String::from("POST");
        event.request_path = path.to_owned();
        event.requests = used.requests;
        event.prompt_tokens = used.tokens;
        event.reason = Some(IMPORTED.to_owned());
        let settlement = Settlement::new(grant.id, Charge::Exact(used), event);
        self.settle_or_hand_over(settlement).await;
        Ok(())
    }
}
