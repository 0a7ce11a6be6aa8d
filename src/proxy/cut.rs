//! Ending a stream whose quota bears no more: the dialect's error event, then nothing.
//!
//! The filter that sees the chunks cannot end a stream. It puts the event in a chunk's place and
//! swallows what follows; an error then closes the upstream. Pingora filters up to five queued
//! chunks before it writes any, and an error throws that batch away, so the error waits until the
//! event is surely out.

use bytes::Bytes;
use pingora::{Error, ErrorType, Result};

use super::reply::Reply;
use crate::exchange::{Exchange, Refusal};
use crate::language::Language;
use crate::quota::{LimitKind, Shortage};

/// More than Pingora filters in one batch.
const SURELY_WRITTEN: u32 = 6;

/// The custom error that closes the upstream of a cut stream.
const CUT: &str = "quota cut";

/// The custom error that breaks a cut stream off without a word.
const BROKEN: &str = "quota cut inside a content coding";

/// Whether and how far a stream is cut.
#[derive(Debug, Default)]
pub struct Cutting {
    swallowed: Option<u32>,
}

impl Cutting {
    pub fn is_cut(&self) -> bool {
        self.swallowed.is_some()
    }

    /// Cuts: the event that goes out in the chunk's place. Inside a content coding it could not be
    /// read, so there the answer breaks off, by the error.
    pub fn cut(&mut self, exchange: &Exchange) -> Result<Bytes> {
        self.swallowed = Some(0);
        if exchange.answer_is_encoded() {
            return Error::e_explain(ErrorType::Custom(BROKEN), "the quota bears no more");
        }
        let standing = exchange
            .grant
            .standings
            .iter()
            .find(|s| !s.quotas.tokens.is_unlimited());
        let refusal = match standing.or(exchange.grant.standings.first()) {
            Some(standing) => Refusal::QuotaExceeded(Box::new(Shortage {
                kind: LimitKind::Tokens,
                limit: standing.quotas.tokens.limit,
                used: standing.used.tokens,
                held: 0,
                requested: 0,
                retry_after_ms: None,
                standing: *standing,
            })),
            None => Refusal::Internal,
        };
        let id = &exchange.subject.request_id;
        let reply = Reply::new(&refusal, exchange.dialect, id, Language::English);
        Ok(reply.stream_event(exchange.dialect))
    }

    /// Swallows one more chunk; an error once the event is surely written.
    pub fn swallow(&mut self) -> Result<()> {
        let swallowed = self.swallowed.get_or_insert(0);
        *swallowed += 1;
        if *swallowed >= SURELY_WRITTEN {
            Error::e_explain(ErrorType::Custom(CUT), "the quota bears no more")
        } else {
            Ok(())
        }
    }
}

/// Whether an error is the one that closes a cut stream.
pub fn is_cut(error: &Error) -> bool {
    *error.etype() == ErrorType::Custom(CUT)
}
