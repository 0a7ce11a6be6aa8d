//! The end of an exchange: what happened, what it used, what that costs, and one settlement.

use super::Exchange;
use super::stream::SWITCHED;
use crate::config::OnClientGone;
use crate::metering::{Usage, cap, settle_usage};
use crate::quota::{Amounts, Charge, Settled, Standing};
use crate::store::{Settlement, StoreError, UsageEvent};
use crate::time::UnixMs;

/// How an exchange ended, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The answer passed whole.
    Answered,
    /// No usable answer: nothing reached the client of an upstream's body.
    Failed,
    /// The upstream broke off after its answer had begun.
    UpstreamBroke,
    /// The client left, before or during the answer.
    ClientGone,
    /// Cut here: the quota bore no more.
    Cut,
    /// The exchange was dropped without an end: a panic, or the process stops.
    Dropped,
}

/// What a closed exchange leaves for logs and metrics.
#[derive(Debug)]
pub struct Closed {
    pub event: UsageEvent,
    /// `None` where the settler took it over.
    pub settled: Option<Settled>,
    pub capped: bool,
    pub attempts: usize,
}

/// An exchange that has ended, and its settlement, which is due: dropped before it is settled, it
/// leaves that to the settler.
#[derive(Debug)]
pub struct Ended {
    pub exchange: Exchange,
    /// `None` once it is with the books or with the settler.
    due: Option<Settlement>,
    capped: bool,
}

/// Usage as charged, and how sure it is.
struct Reckoned {
    usage: Usage,
    estimated: bool,
    capped: bool,
    nano_usd: i64,
}

impl Exchange {
    /// Whether reckoning must count text with a tokenizer, which may take milliseconds: then the
    /// caller moves it off its event loop.
    pub fn must_count_text(&self) -> bool {
        self.meter.as_ref().is_some_and(|meter| {
            let seen = meter.observe();
            seen.output_bytes > 0 && (seen.usage.is_none() || !seen.complete)
        })
    }

    /// The client left, however the exchange ends: its event will say so.
    pub fn client_left(&mut self) {
        self.client_left = true;
    }

    /// Ends the exchange and reckons what to book for it. `error` is a code and its words.
    pub fn ended(mut self, end: End, error: Option<(&str, &str)>) -> Ended {
        let (settlement, capped) = self.settlement(end, error);
        Ended {
            exchange: self,
            due: Some(settlement),
            capped,
        }
    }

    /// Marks the exchange closed: `Drop` will not settle again.
    fn settlement(&mut self, end: End, error: Option<(&str, &str)>) -> (Settlement, bool) {
        self.closed = true;
        let reckoned = self.reckon(end);
        let charge = self.charge(end, &reckoned);
        let event = self.event(end, error, &reckoned, charge);
        (
            Settlement {
                id: self.grant.id,
                charge,
                event,
                further: Vec::new(),
            },
            reckoned.capped,
        )
    }

    fn is_success(&self) -> bool {
        (200..300).contains(&self.status) || self.status == SWITCHED
    }

    /// Whether anything is charged at all.
    fn counts(&self, end: End) -> bool {
        match end {
            End::Failed => false,
            End::Answered => self.is_success(),
            End::UpstreamBroke => self.is_success() && self.body_begun,
            // The provider has the request: it works, and bills, whether or not somebody listens.
            End::ClientGone | End::Dropped if self.status == 0 => self.sent.is_some(),
            End::ClientGone | End::Dropped | End::Cut => self.is_success(),
        }
    }

    fn reckon(&self, end: End) -> Reckoned {
        let input_estimate = self.subject.input_tokens;
        if let Some(socket) = self.socket.as_ref().filter(|_| self.counts(end)) {
            let usage = socket.usage();
            return Reckoned {
                usage,
                estimated: false,
                capped: false,
                nano_usd: self.price.cost(&usage),
            };
        }
        if !self.counts(end) || !self.endpoint.generates() {
            return Reckoned {
                usage: Usage::default(),
                estimated: false,
                capped: false,
                nano_usd: 0,
            };
        }
        let seen = self.meter.as_ref().map(|meter| meter.observe());
        let Some(seen) = seen else {
            // No answer yet: the input is spent, nothing was produced.
            let usage = Usage {
                input_tokens: input_estimate,
                ..Usage::default()
            };
            return Reckoned {
                usage,
                estimated: true,
                capped: false,
                nano_usd: self.price.cost(&usage),
            };
        };
        let model = self
            .route()
            .upstream_model
            .as_deref()
            .or(self.subject.model.as_deref());
        let (usage, estimated) = settle_usage(&seen, model, input_estimate);
        let (usage, capped) = cap(usage, self.price.context_window);
        let known = self.price.cost(&usage);
        let nano_usd = if self.price_known {
            known
        } else {
            seen.cost_nano.unwrap_or(known)
        };
        Reckoned {
            usage,
            estimated,
            capped,
            nano_usd,
        }
    }

    fn charge(&self, end: End, reckoned: &Reckoned) -> Charge {
        if !self.counts(end) {
            return Charge::Void;
        }
        let used = Amounts {
            requests: 1,
            tokens: reckoned.usage.total_tokens(),
            nano_usd: reckoned.nano_usd,
        };
        let rule = self.desk.live.load().config.quota.on_client_gone;
        let keeps_hold =
            end == End::ClientGone && rule == OnClientGone::KeepHold && reckoned.estimated;
        if keeps_hold {
            Charge::AtLeast(used)
        } else {
            Charge::Exact(used)
        }
    }

    fn event(
        &self,
        end: End,
        error: Option<(&str, &str)>,
        reckoned: &Reckoned,
        charge: Charge,
    ) -> UsageEvent {
        let charged = match charge {
            Charge::Exact(amounts) => amounts,
            Charge::AtLeast(amounts) => amounts.max(self.grant.held),
            Charge::Void => Amounts::ZERO,
        };
        let usage = &reckoned.usage;
        let mut event = UsageEvent::blank(self.grant.id.0, self.key.id, UnixMs::now());
        event.request_method.clone_from(&self.subject.method);
        event.request_path.clone_from(&self.subject.path);
        event.model.clone_from(&self.subject.model);
        event.pool = Some(self.route().pool.config.name.clone());
        event.end_user.clone_from(&self.subject.end_user);
        event.peer = self.peer().map(|peer| peer.name.clone());
        let standing = self.grant.standings.first();
        event.requests_remaining = standing.and_then(Standing::requests_left);
        event.request_size = self.request_size;
        event.response_status = self.status;
        event.response_size = self.response_size;
        event.response_time_ms =
            i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        event.first_byte_ms = self.first_byte_ms;
        event.requests = charged.requests;
        event.prompt_tokens = usage.input_tokens;
        event.completion_tokens = usage.output_tokens;
        event.cached_tokens = usage.cached_tokens;
        event.cache_write_tokens = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens;
        event.reasoning_tokens = usage.reasoning_tokens;
        event.total_tokens = charged.tokens;
        event.total_cost_nano = charged.nano_usd;
        event.estimated = reckoned.estimated;
        event.client_disconnected = end == End::ClientGone || self.client_left;
        event.is_error = error.is_some() || (charge == Charge::Void && end != End::ClientGone);
        event.error_code = error.map(|(code, _)| code.to_owned());
        event.error_message = error.map(|(_, message)| message.to_owned());
        event.reason = self.reason(end, reckoned).map(str::to_owned);
        event
    }

    fn reason(&self, end: End, reckoned: &Reckoned) -> Option<&'static str> {
        if reckoned.capped {
            return Some("capped");
        }
        match end {
            End::Answered | End::Failed => None,
            End::UpstreamBroke => Some("upstream_broke"),
            End::ClientGone => Some("client_gone"),
            End::Cut => Some("quota_cut"),
            End::Dropped => Some("dropped"),
        }
    }
}

impl Ended {
    /// Settles now; hands over to the settler where the store does not answer. `None` where that was
    /// done before. Cancel safe: what is not settled then is handed over on drop, and settling is
    /// idempotent.
    pub async fn settle(&mut self) -> Option<Closed> {
        let settlement = self.due.clone()?;
        let desk = &self.exchange.desk;
        let event = settlement.event.clone();
        let settled = match desk.store.settle(settlement).await {
            Ok(settled) => Some(settled),
            // Left due: it is handed over below.
            Err(StoreError::Unavailable(_)) => None,
            Err(fault) => {
                let id = &self.exchange.subject.request_id;
                log::error!("exchange {id} could not be settled: {fault}");
                self.due = None;
                None
            }
        };
        match (settled, self.due.take()) {
            (None, Some(due)) => desk.settler.hand_over(due),
            _ => desk.settler.ended(self.exchange.grant.id),
        }
        Some(Closed {
            event,
            settled,
            capped: self.capped,
            attempts: self.exchange.attempts(),
        })
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(due) = self.due.take() {
            self.exchange.desk.settler.hand_over(due);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.closed {
            let error = Some(("INTERNAL_ERROR", "dropped before its end"));
            let (settlement, _) = self.settlement(End::Dropped, error);
            self.desk.settler.hand_over(settlement);
        }
    }
}
