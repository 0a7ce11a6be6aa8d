//! What an answer, or the lack of one, says of its peer: told to its health, to log and metrics.

use std::time::{Duration, Instant};

use pingora::http::ResponseHeader;
use pingora::{Error, ErrorType, Result};

use super::Edge;
use super::retry::{kind, wants_another};
use crate::config::RetryOn;
use crate::exchange::{End, Exchange};
use crate::telemetry::access_log::NotServed;
use crate::telemetry::event::{AttemptEnded, PeerHealth, PeerSkipped};
use crate::telemetry::label::{RestCause, SkipReason, UpstreamOutcome};
use crate::time::UnixMs;
use crate::upstream::{Fitness, PassedOver, Room, rest};

/// A client that has waited so long without a head has not left on a whim.
const LONG: Duration = Duration::from_secs(10);

/// Answers that say when to come back: a rate limit, and an overloaded server (529: Anthropic's).
const BUSY: [u16; 3] = [429, 503, 529];

impl Edge {
    /// The last attempt has failed: its peer's health, its line and its metric, once. Both parts of a
    /// relayed request may find it late in the same instant.
    pub(super) fn attempt_failed(&self, exchange: &mut Exchange, e: &Error) {
        if exchange.is_attempt_told() {
            return;
        }
        let refused_us = turned_us_away(e);
        let outcome = match kind(e) {
            _ if refused_us && blames_credential(exchange, e) => UpstreamOutcome::Credential,
            _ if refused_us => UpstreamOutcome::Denied,
            Some(RetryOn::Connect) => UpstreamOutcome::Connect,
            Some(RetryOn::Timeout) => UpstreamOutcome::Timeout,
            Some(RetryOn::TooManyRequests) => UpstreamOutcome::TooManyRequests,
            Some(RetryOn::ServerError) => UpstreamOutcome::ServerError,
            None => UpstreamOutcome::Broken,
        };
        // What a caller can bring about must not take a peer from all the others.
        if outcome != UpstreamOutcome::Denied {
            self.book_failure(exchange);
        }
        self.attempt_ended(exchange, outcome, e.etype().as_str());
        exchange.failed(outcome.word());
    }

    /// The last attempt ended before its peer had read the request. That is nobody's failure: a server
    /// that goes away, or has enough to do, says so in this way.
    pub(super) fn attempt_unread(&self, exchange: &mut Exchange, e: &Error) {
        self.attempt_ended(exchange, UpstreamOutcome::Stale, e.etype().as_str());
        exchange.failed(UpstreamOutcome::Stale.word());
    }

    /// How the attempt that answered ended, or the one whose client did not wait for its answer. What
    /// broke off after its head has failed, too.
    pub(super) fn answer_ended(&self, exchange: &mut Exchange, end: End, overdue: bool) {
        if exchange.is_attempt_told() {
            return;
        }
        let status = exchange.status();
        let gave_up = end == End::ClientGone && status == 0 && hangs(exchange);
        let (outcome, when) = match last_outcome(end, status) {
            Some(outcome) => (outcome, "after its head"),
            None if gave_up => (UpstreamOutcome::ClientGone, "without a head"),
            None => return,
        };
        match outcome {
            // That a WebSocket opened was its success; how it ends says nothing of its peer.
            _ if exchange.is_socket() => {}
            UpstreamOutcome::Ok | UpstreamOutcome::Refused => self.book_success(exchange),
            UpstreamOutcome::TooManyRequests | UpstreamOutcome::ClientGone => {
                self.book_failure(exchange);
            }
            UpstreamOutcome::Broken if !overdue => self.book_failure(exchange),
            _ => {}
        }
        self.attempt_ended(exchange, outcome, when);
        if gave_up {
            exchange.failed(outcome.word());
        }
    }

    /// One attempt's line and metric.
    pub(super) fn attempt_ended(
        &self,
        exchange: &mut Exchange,
        outcome: UpstreamOutcome,
        detail: &str,
    ) {
        exchange.told_attempt();
        let Some(peer) = exchange.peer() else { return };
        let event = AttemptEnded {
            pool: &exchange.route().pool.config.name,
            peer: &peer.name,
            request_id: &exchange.subject.request_id,
            outcome,
            detail,
        };
        event.emit(&self.metrics);
    }

    /// Books a failure with the peer that served last.
    pub(super) fn book_failure(&self, exchange: &mut Exchange) {
        let pool = &exchange.route().pool.config;
        let (limit, cooldown) = (pool.cooldown_failures, pool.cooldown);
        let now = Instant::now();
        let attempt = exchange.at_peer();
        if attempt.is_some_and(|attempt| attempt.failed(now, limit, cooldown)) {
            let rest = Some((RestCause::Failures, cooldown));
            self.tell(exchange, false, "it failed too often in a row", rest);
        }
    }

    /// Books a success with the peer that served last.
    pub(super) fn book_success(&self, exchange: &mut Exchange) {
        if exchange
            .at_peer()
            .is_some_and(|attempt| attempt.succeeded())
        {
            self.tell(exchange, true, "it answers again", None);
        }
    }

    fn tell(
        &self,
        exchange: &Exchange,
        healthy: bool,
        because: &'static str,
        rest: Option<(RestCause, Duration)>,
    ) {
        let Some(peer) = exchange.peer() else { return };
        let event = PeerHealth {
            pool: &exchange.route().pool.config.name,
            peer: &peer.name,
            healthy,
            because,
            rest,
        };
        event.emit(&self.metrics);
    }

    /// Judges an upstream's head while the answer can still be given by another peer. A refusal that
    /// may be about our credential is ours to answer for: its text never reaches a client (SPEC
    /// section 3, step 4).
    pub(super) fn judge(
        &self,
        exchange: &mut Exchange,
        head: &ResponseHeader,
        can_replay: bool,
    ) -> Result<()> {
        if head.status.is_informational() {
            return Ok(());
        }
        let status = head.status.as_u16();
        self.hear_of_limits(exchange, head);
        let wants = |kind| can_replay && wants_another(exchange, Some(kind));
        let another = match status {
            401..=403 => true,
            429 => wants(RetryOn::TooManyRequests),
            500..=599 => wants(RetryOn::ServerError),
            _ => false,
        };
        if another {
            let why = "the peer cannot serve";
            return Err(Error::explain(ErrorType::HTTPStatus(status), why).into_up());
        }
        Ok(())
    }

    /// What the provider says of its own limits steers the next exchanges.
    fn hear_of_limits(&self, exchange: &mut Exchange, head: &ResponseHeader) {
        // Dates are of the wall clock; what comes of them is a duration.
        let (wall, now) = (UnixMs::now(), Instant::now());
        let text = |name: &str| head.headers.get(name)?.to_str().ok();
        let room = Room::read(text, wall);
        let is_busy = BUSY.contains(&head.status.as_u16());
        let asked = is_busy.then(|| rest::asked(text, wall)).flatten();
        let Some(attempt) = exchange.at_peer() else {
            return;
        };
        if !room.says_nothing() {
            attempt.has_room(&room, now);
        }
        let Some(asked) = asked else { return };
        if attempt.asked_to_rest(now + asked, now) {
            let rest = Some((RestCause::Asked, asked));
            self.tell(exchange, false, "its provider asked for a rest", rest);
        }
    }

    /// Tells of the peers that the last choice passed over, and notes each once for the access log.
    pub(super) fn tell_passed_over(&self, exchange: &Exchange, noted: &mut Vec<NotServed>) {
        for passed in exchange.passed_over() {
            let (pool, peer) = (passed.pool.config.name.as_str(), passed.peer.name.as_str());
            let reason = skip_reason(passed);
            PeerSkipped { pool, peer, reason }.emit(&self.metrics);
            if !noted.iter().any(|one| one.pool == pool && one.peer == peer) {
                noted.push(NotServed {
                    pool: pool.to_owned(),
                    peer: peer.to_owned(),
                    reason: reason.word(),
                });
            }
        }
    }
}

fn skip_reason(passed: &PassedOver) -> SkipReason {
    match passed.fitness {
        Fitness::Tight => SkipReason::Tight,
        _ => SkipReason::Resting,
    }
}

/// How the attempt that answered ended; `None` where nobody saw its end.
fn last_outcome(end: End, status: u16) -> Option<UpstreamOutcome> {
    match (end, status) {
        (End::UpstreamBroke, _) => Some(UpstreamOutcome::Broken),
        // Its head came, and nothing of its body.
        (End::Failed, 1..) => Some(UpstreamOutcome::Broken),
        (End::Answered, 429) => Some(UpstreamOutcome::TooManyRequests),
        (End::Answered, 400..=499) => Some(UpstreamOutcome::Refused),
        (End::Answered, 500..) => Some(UpstreamOutcome::ServerError),
        (End::Answered | End::Cut, _) => Some(UpstreamOutcome::Ok),
        (End::ClientGone | End::Failed | End::Dropped, _) => None,
    }
}

/// After how long without a head a peer that its client has given up on is taken to hang. Who waits for
/// the rest of `first_byte` is told so by its time-out.
fn hangs(exchange: &Exchange) -> bool {
    let first_byte = exchange.route().pool.config.timeouts.first_byte;
    let long = LONG.min(first_byte / 2);
    exchange.waits().is_some_and(|waits| waits >= long)
}

/// Whether a peer turned *us* away: our credential, our account (402 is what DeepSeek and OpenRouter
/// answer where it is empty), or what it may do.
pub fn turned_us_away(error: &Error) -> bool {
    matches!(error.etype(), ErrorType::HTTPStatus(401..=403)) || is_our_account(error)
}

/// Whether that is the credential's fault, whoever asks: then the peer has failed (SPEC section 3,
/// step 4). A 403 may be about the caller's words or a model of its choice, and what a path without a
/// model wants may be beyond what the credential was made for.
fn blames_credential(exchange: &Exchange, error: &Error) -> bool {
    let is_status = matches!(error.etype(), ErrorType::HTTPStatus(401 | 402));
    is_our_account(error) || (exchange.is_metered() && is_status)
}

/// The custom error that the body of a refusal is turned into.
const OUR_ACCOUNT: ErrorType = ErrorType::Custom("OurAccount");

/// What a refusal is turned into whose body says that *our* account is empty or our key not valid: to
/// the client the upstream is unavailable.
pub fn our_account() -> Box<Error> {
    Error::explain(OUR_ACCOUNT, "the peer speaks of our account").into_up()
}

/// Whether it is that.
pub fn is_our_account(error: &Error) -> bool {
    *error.etype() == OUR_ACCOUNT
}
