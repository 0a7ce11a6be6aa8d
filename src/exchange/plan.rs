//! What a request asks of the quotas, before anything is reserved. Pure.

use crate::config::{Estimate, QuotaConfig};
use crate::metering::price::Price;
use crate::metering::{Endpoint, Usage};
use crate::quota::{Admission, Grant};

/// What metering knows of a request body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    pub stream: bool,
    /// Estimated input tokens.
    pub input_tokens: i64,
    /// The largest output bound the client declared, times the choices it asked for.
    pub declared_output: Option<i64>,
    /// Answers asked for (`n`), at least 1.
    pub choices: i64,
    /// The body may ask for a cache that lives an hour.
    pub may_write_1h_cache: bool,
}

/// Tokens and money to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub input_tokens: i64,
    /// Output tokens to hold.
    pub hold_output: i64,
    /// Output tokens the answer may have at the most: declared, or the default.
    pub bound: i64,
    pub declared: bool,
    /// Output tokens below which nothing sensible can be answered: one a choice.
    pub least_output: i64,
    pub fixed_nano_usd: i64,
    pub output_nano_per_million: i64,
}

impl Plan {
    /// `usual_output` is what 95 % of this key's recent answers of this model stayed below.
    pub fn new(
        endpoint: Endpoint,
        demand: &Demand,
        price: &Price,
        quota: &QuotaConfig,
        usual_output: Option<i64>,
    ) -> Plan {
        if !endpoint.generates() {
            return Plan {
                input_tokens: 0,
                hold_output: 0,
                bound: 0,
                declared: false,
                least_output: 0,
                fixed_nano_usd: 0,
                output_nano_per_million: 0,
            };
        }
        let no_output = endpoint == Endpoint::Embeddings;
        let default = if no_output {
            0
        } else {
            quota
                .default_max_output_tokens
                .saturating_mul(demand.choices.max(1))
        };
        let bound = if no_output {
            0
        } else {
            demand.declared_output.unwrap_or(default)
        };
        let usual = usual_output.filter(|_| demand.stream && quota.estimate == Estimate::Auto);
        let input = dearest_input(demand, price);
        Plan {
            input_tokens: demand.input_tokens,
            hold_output: usual.map_or(bound, |usual| with_headroom(usual).clamp(1, bound.max(1))),
            bound,
            declared: demand.declared_output.is_some(),
            least_output: demand.choices.max(1).min(bound.max(1)),
            fixed_nano_usd: price.cost(&input),
            output_nano_per_million: price.output,
        }
    }

    /// At the higher of both prices; all else is the same whoever serves.
    pub fn dearer(self, other: Plan) -> Plan {
        Plan {
            fixed_nano_usd: self.fixed_nano_usd.max(other.fixed_nano_usd),
            output_nano_per_million: self
                .output_nano_per_million
                .max(other.output_nano_per_million),
            ..self
        }
    }

    /// The bound per choice to send upstream, where clamping shrank what the client may get.
    pub fn clamped_bound(&self, admission: Admission, grant: &Grant, choices: i64) -> Option<i64> {
        let bearable = grant.output_tokens.saturating_add(grant.output_left);
        let shrunk = admission == Admission::Clamp && self.bound > 0 && bearable < self.bound;
        shrunk.then(|| (bearable / choices.max(1)).max(1))
    }
}

/// The input at the dearest price it may turn out to have: what writes a cache costs more than what
/// does not, and only the answer will tell.
fn dearest_input(demand: &Demand, price: &Price) -> Usage {
    let mut input = Usage {
        input_tokens: demand.input_tokens,
        ..Usage::default()
    };
    if demand.may_write_1h_cache && price.cache_write_1h > price.input.max(price.cache_write_5m) {
        input.cache_write_1h_tokens = demand.input_tokens;
    } else if price.cache_write_5m > price.input {
        input.cache_write_5m_tokens = demand.input_tokens;
    }
    input
}

/// What is usual, and room for topping up in time: else every stream that ends as usual would ask
/// the store a second time.
fn with_headroom(usual: i64) -> i64 {
    usual.saturating_add((usual / 2).max(128))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{OnClientGone, OnOverrun};
    use crate::store::LostReservation;

    fn quota() -> QuotaConfig {
        QuotaConfig {
            reservation_ttl: std::time::Duration::from_secs(900),
            lost_reservation: LostReservation::Charge,
            default_max_output_tokens: 4096,
            estimate: Estimate::Auto,
            admission: Admission::Clamp,
            on_overrun: OnOverrun::TopUp,
            on_client_gone: OnClientGone::BillStreamed,
            local_slices: None,
        }
    }

    fn plan(stream: bool, declared: Option<i64>, usual: Option<i64>) -> Plan {
        let demand = Demand {
            stream,
            input_tokens: 10,
            declared_output: declared,
            choices: 1,
            may_write_1h_cache: false,
        };
        Plan::new(
            Endpoint::ChatCompletions,
            &demand,
            &Price::default(),
            &quota(),
            usual,
        )
    }

    #[test]
    fn a_plain_answer_holds_the_declared_bound_or_the_default() {
        assert_eq!(plan(false, Some(50), Some(7)).hold_output, 50);
        assert_eq!(plan(false, None, Some(7)).hold_output, 4096);
    }

    #[test]
    fn a_stream_holds_what_is_usual_but_never_above_its_bound() {
        assert_eq!(plan(true, Some(5_000), Some(70)).hold_output, 70 + 128);
        assert_eq!(plan(true, Some(5_000), Some(400)).hold_output, 600);
        assert_eq!(plan(true, Some(50), Some(70)).hold_output, 50);
        assert_eq!(plan(true, Some(50), None).hold_output, 50);
    }

    #[test]
    fn what_generates_nothing_holds_no_tokens() {
        let demand = Demand {
            input_tokens: 99,
            ..Demand::default()
        };
        let plan = Plan::new(
            Endpoint::CountTokens,
            &demand,
            &Price::default(),
            &quota(),
            None,
        );
        assert_eq!((plan.input_tokens, plan.hold_output), (0, 0));
    }
}
