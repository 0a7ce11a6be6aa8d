//! What the limits answer to an ask: the one decision, for whoever holds the counters.

use super::claim::{Ask, Shortage};
use super::counters::Counters;
use super::ledger::LedgerError;
use super::shortage;
use super::sizing::Size;
use crate::quota::amount::MAX_AMOUNT;
use crate::time::UnixMs;

/// Granted, and how much; or the first limit that cannot bear it.
#[derive(Debug)]
pub(crate) enum Decision {
    Fits(Size),
    Short(Box<Shortage>),
}

/// Decides by the counters of the ask's scopes, in their order, brought to now.
///
/// # Errors
/// `AmountOutOfRange` where the hold would be more than the books take.
pub(crate) fn decide<'a>(
    ask: &'a Ask,
    counters: impl Iterator<Item = &'a Counters> + Clone,
    now: UnixMs,
) -> Result<Decision, LedgerError> {
    let claimed = ask.scopes.iter().zip(counters);
    if let Some(shortage) = shortage::of_quotas(claimed.clone(), ask.least(), now) {
        return Ok(Decision::Short(Box::new(shortage)));
    }
    let size = ask.size(
        claimed
            .clone()
            .map(|(claim, counters)| counters.left(&claim.quotas)),
    );
    if size.held.to_array().iter().any(|&n| n > MAX_AMOUNT) {
        return Err(LedgerError::AmountOutOfRange);
    }
    if ask.rate_limited
        && let Some(shortage) = shortage::of_rates(claimed, size.held.tokens)
    {
        return Ok(Decision::Short(Box::new(shortage)));
    }
    Ok(Decision::Fits(size))
}
