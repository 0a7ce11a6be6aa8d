//! The edits of a request body (SPEC section 3, step 2), and a body made anew for another pool.

use std::sync::Arc;

use bytes::Bytes;

use super::budget::Share;
use crate::exchange::Exchange;
use crate::metering::{Edits, Endpoint, RequestFacts, include_usage_missing, splice};
use crate::upstream::Pool;

/// A body as its client sent it, for as long as another pool may need it, and the pool whose edits
/// the body on its way has.
#[derive(Debug)]
pub struct Original {
    bytes: Bytes,
    request: RequestFacts,
    made_for: Arc<Pool>,
}

/// A body for the pool that is in use.
#[derive(Debug)]
pub struct Edited {
    pub bytes: Bytes,
    /// `include_usage` was put in.
    pub injected: bool,
    pub original: Option<Original>,
}

/// Edits a body for the pool in use. The original is kept where another pool may come into use and
/// `share` bears both; where it does not, the exchange stays in its pool.
pub fn edit(
    whole: Bytes,
    request: RequestFacts,
    exchange: &mut Exchange,
    share: &mut Share,
) -> Edited {
    let injected = exchange.is_metered() && include_usage_missing(&request);
    let length = whole.len();
    let kept = exchange.may_change_pool().then(|| whole.clone());
    let bytes = spliced(whole, &request, exchange);
    let original = kept.and_then(|kept| {
        let is_shared = kept.as_ptr() == bytes.as_ptr();
        let both = if is_shared {
            length
        } else {
            length.saturating_add(bytes.len())
        };
        if share.grow_to(both).is_err() {
            exchange.stay_in_pool();
            return None;
        }
        Some(Original {
            bytes: kept,
            request,
            made_for: Arc::clone(&exchange.route().pool),
        })
    });
    Edited {
        bytes,
        injected,
        original,
    }
}

impl Original {
    /// The body for the pool that has come into use; `None` where it is still the one before.
    pub fn anew(&mut self, exchange: &Exchange) -> Option<Bytes> {
        let pool = &exchange.route().pool;
        if Arc::ptr_eq(pool, &self.made_for) {
            return None;
        }
        self.made_for = Arc::clone(pool);
        Some(spliced(self.bytes.clone(), &self.request, exchange))
    }
}

fn spliced(whole: Bytes, request: &RequestFacts, exchange: &Exchange) -> Bytes {
    let edits = Edits {
        include_usage: exchange.is_metered() && include_usage_missing(request),
        output_bound: bound_field(exchange).zip(exchange.clamped_bound),
        model: exchange.route().upstream_model.as_deref(),
    };
    splice(whole, request, &edits)
}

/// The field that a clamp adds where the client set no bound (SPEC section 2, `output_bound`); `None`
/// where no field rules the length of the answer.
fn bound_field(exchange: &Exchange) -> Option<&str> {
    match exchange.endpoint {
        Endpoint::ChatCompletions => Some(&exchange.route().pool.config.output_bound),
        Endpoint::Responses => Some("max_output_tokens"),
        Endpoint::Completions | Endpoint::Messages => Some("max_tokens"),
        Endpoint::GeminiGenerate => Some("maxOutputTokens"),
        _ => None,
    }
}
