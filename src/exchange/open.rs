//! Opening an exchange: who is it, may they, where does it go, and one atomic reserve.

use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::identity::refuse_store;
use super::plan::{Demand, Plan};
use super::stream::Hold;
use super::{CallerFacts, Desk, Exchange, Identity, Live, Refusal};
use crate::config::{Config, OnOverrun, Prices};
use crate::keys::KeyRecord;
use crate::metering::price::Price;
use crate::metering::{Dialect, Endpoint};
use crate::quota::{Ask, LimitKind, ReservationId, Reserved, ScopeClaim, Shortage, Subject};
use crate::store::UsageEvent;
use crate::time::UnixMs;
use crate::upstream::{Failover, Route, RouteFault};

/// How often a key that changes under our hands is looked up anew before the store is called faulty.
pub(super) const KEY_CHANGES: usize = 4;

/// An exchange asked for.
#[derive(Debug)]
pub struct OpenRequest<'a> {
    pub id: Uuid,
    pub identity: Identity,
    pub caller: &'a CallerFacts,
    pub endpoint: Endpoint,
    pub dialect: Dialect,
    pub method: &'a str,
    /// Without its query.
    pub path: &'a str,
    pub model: Option<&'a str>,
    pub end_user: Option<&'a str>,
    pub demand: Demand,
    /// Bytes of the request body as far as known.
    pub request_size: i64,
    pub started: Instant,
}

/// What the books keep of a refused request.
#[derive(Debug)]
pub struct RefusedFacts<'a> {
    pub id: Uuid,
    pub method: &'a str,
    pub path: &'a str,
    pub model: Option<&'a str>,
    pub status: u16,
    pub code: &'a str,
    pub request_size: i64,
    pub took_ms: i64,
}

impl Desk {
    /// Admits, plans, and reserves in one atomic step of the store. Cancel safe: a reservation whose
    /// caller went away meanwhile is resolved by its lease.
    pub async fn open(self: &Arc<Self>, request: OpenRequest<'_>) -> Result<Exchange, Refusal> {
        let live = self.live.load();
        let mut identity = request.identity.clone();
        for attempt in 0..KEY_CHANGES {
            let routes = match admit_and_route(&live, &request, &identity) {
                Ok(routes) => routes,
                // Nobody is turned away by a record that may have changed since.
                Err(_) if attempt == 0 => {
                    identity = self
                        .identify_now(request.caller, request.model, UnixMs::now())
                        .await?;
                    admit_and_route(&live, &request, &identity)?
                }
                Err(refusal) => return Err(refusal),
            };
            let draft = Draft::new(&live, &request, &identity, routes, self);
            let ask = draft.ask(&live.config, &request);
            match self.store.reserve(ask).await.map_err(refuse_store)? {
                Reserved::Granted(grant) => {
                    return Ok(draft.granted(self, grant, &live.config, &request));
                }
                Reserved::Short(shortage) => return Err(refuse_shortage(shortage)),
                Reserved::KeyChanged => {
                    identity = self
                        .identify_now(request.caller, request.model, UnixMs::now())
                        .await?;
                }
            }
        }
        log::error!(
            "key {} changed {KEY_CHANGES} times during one admission",
            identity.key.id.0
        );
        Err(Refusal::StoreUnavailable)
    }

    /// Books a refused request of a known key. Its figures move error counts only.
    pub async fn book_refusal(&self, key: &KeyRecord, facts: RefusedFacts<'_>) {
        let mut event = UsageEvent::blank(facts.id, key.id, UnixMs::now());
        event.request_method = facts.method.to_owned();
        event.request_path = facts.path.to_owned();
        event.model = facts.model.map(str::to_owned);
        event.response_status = facts.status;
        event.request_size = facts.request_size;
        event.response_time_ms = facts.took_ms;
        event.is_error = true;
        event.error_code = Some(facts.code.to_owned());
        if let Err(fault) = self.store.book_refusal(event).await {
            log::debug!("a refusal was not booked: {fault}");
        }
    }
}

fn admit_and_route(
    live: &Live,
    request: &OpenRequest<'_>,
    identity: &Identity,
) -> Result<Failover, Refusal> {
    identity.admit(request.caller, request.model, UnixMs::now())?;
    route(live, request, identity)
}

fn route(live: &Live, request: &OpenRequest<'_>, identity: &Identity) -> Result<Failover, Refusal> {
    if request.endpoint == Endpoint::Unmetered
        && !live.config.edge.allow_unmetered
        && identity.has_spend_quota()
    {
        return Err(Refusal::Unmetered);
    }
    // A GET that spends opens a WebSocket, whose model is in its query.
    let is_socket = request.endpoint == Endpoint::Unmetered && request.method == "GET";
    let spends = request.endpoint.generates() || is_socket;
    // What no one can price is still ruled by the list of a key's models.
    let is_priced = spends && identity.has_usd_quota();
    let may_spend = spends || request.endpoint == Endpoint::Unmetered;
    let is_ruled = may_spend && identity.has_model_list();
    if request.model.is_none() && (is_priced || is_ruled) {
        return Err(Refusal::BadRequest {
            message: "the model rules this API key's rights and prices: name it, in a form before the file, for a WebSocket in its query"
                .to_owned(),
            param: Some("model".to_owned()),
        });
    }
    let allowed = |pool: &str| identity.may_use_pool(pool);
    let found = match request.model {
        Some(model) => live.pools.by_model(model, request.dialect, allowed),
        None => live
            .pools
            .by_path(request.path, request.dialect, allowed)
            .map(|route| vec![route]),
    };
    let found = found.and_then(|mut routes| {
        if routes.is_empty() {
            return Err(RouteFault::NoPoolForModel);
        }
        let first = routes.remove(0);
        Ok(Failover::new(first, routes))
    });
    let model = || request.model.unwrap_or_default().to_owned();
    found.map_err(|fault| match fault {
        RouteFault::NoPoolForModel => Refusal::NoPoolForModel { model: model() },
        RouteFault::OtherDialect(dialect) => Refusal::OtherDialect {
            model: model(),
            dialect,
        },
        RouteFault::NoPoolForPath => Refusal::NotFound,
    })
}

/// Everything decided before the reserve; becomes an exchange when it is granted.
struct Draft {
    key: Arc<KeyRecord>,
    failover: Failover,
    subject: Arc<Subject>,
    scopes: Vec<ScopeClaim>,
    group_version: Option<i64>,
    price: Price,
    price_known: bool,
    plan: Plan,
}

impl Draft {
    fn new(
        live: &Live,
        request: &OpenRequest<'_>,
        identity: &Identity,
        failover: Failover,
        desk: &Desk,
    ) -> Draft {
        let key = Arc::clone(&identity.key);
        let usual = request
            .model
            .and_then(|model| desk.store.usual_output(key.id, model));
        let plan_of = |route: &Route| {
            let (price, _) = price_as(&live.config.prices, route, request.model);
            let (demand, quota) = (&request.demand, &live.config.quota);
            Plan::new(request.endpoint, demand, &price, quota, usual)
        };
        let plan = plan_of(failover.route());
        // The hold must bear whichever pool serves in the end.
        let plan = failover.routes().map(plan_of).fold(plan, Plan::dearer);
        let (price, price_known) = price_as(&live.config.prices, failover.route(), request.model);
        let subject = Arc::new(Subject {
            key: key.id,
            request_id: request.id.simple().to_string(),
            method: request.method.to_owned(),
            path: request.path.to_owned(),
            model: request.model.map(str::to_owned),
            pool: Some(failover.route().pool.config.name.clone()),
            end_user: request.end_user.map(str::to_owned),
            input_tokens: plan.input_tokens,
        });
        Draft {
            key,
            failover,
            subject,
            scopes: identity.scopes(&live.config),
            group_version: identity.group.as_ref().map(|group| group.version),
            price,
            price_known,
            plan,
        }
    }

    fn ask(&self, config: &Config, request: &OpenRequest<'_>) -> Ask {
        Ask {
            id: ReservationId(request.id),
            key_version: self.key.version,
            group_version: self.group_version,
            scopes: self.scopes.clone(),
            admission: config.quota.admission,
            requests: 1,
            input_tokens: self.plan.input_tokens,
            output_tokens: self.plan.hold_output,
            least_output_tokens: self.plan.least_output,
            fixed_nano_usd: self.plan.fixed_nano_usd,
            output_nano_per_million: self.plan.output_nano_per_million,
            rate_limited: true,
            lease_ms: i64::try_from(config.quota.reservation_ttl.as_millis()).unwrap_or(i64::MAX),
            subject: Arc::clone(&self.subject),
        }
    }

    fn granted(
        self,
        desk: &Arc<Desk>,
        grant: crate::quota::Grant,
        config: &Config,
        request: &OpenRequest<'_>,
    ) -> Exchange {
        desk.settler.began(grant.id);
        let clamped_bound =
            self.plan
                .clamped_bound(config.quota.admission, &grant, request.demand.choices);
        // An upstream that obeys a bound within the hold cannot outgrow it.
        let bound = match clamped_bound {
            Some(_) => grant.output_tokens.saturating_add(grant.output_left),
            None if self.plan.declared => self.plan.bound,
            None => i64::MAX,
        };
        let tops_up = request.demand.stream
            && config.quota.on_overrun == OnOverrun::TopUp
            && request.endpoint.generates()
            && bound > grant.output_tokens;
        Exchange {
            desk: Arc::clone(desk),
            key: self.key,
            endpoint: request.endpoint,
            dialect: request.dialect,
            failover: self.failover,
            hold: Arc::new(Hold::new(grant.output_tokens)),
            grant,
            subject: self.subject,
            clamped_bound,
            scopes: self.scopes,
            prices: Arc::clone(&config.prices),
            price: self.price,
            price_known: self.price_known,
            tops_up,
            started: request.started,
            request_size: request.request_size,
            failures: Vec::new(),
            is_told: false,
            repeats: 0,
            sent: None,
            waits_since: None,
            status: 0,
            first_byte_ms: None,
            response_size: 0,
            body_begun: false,
            encoded: false,
            client_left: false,
            meter: None,
            socket: None,
            closed: false,
        }
    }
}

/// What a route's model costs, and whether that is known.
fn price_as(prices: &Prices, route: &Route, model: Option<&str>) -> (Price, bool) {
    let upstream = route.upstream_model.as_deref();
    prices.of(upstream.or(model).unwrap_or_default())
}

/// The same for an exchange that runs.
pub(super) fn price_of(prices: &Prices, route: &Route, subject: &Subject) -> (Price, bool) {
    price_as(prices, route, subject.model.as_deref())
}

fn refuse_shortage(shortage: Box<Shortage>) -> Refusal {
    match shortage.kind {
        LimitKind::Requests | LimitKind::Tokens | LimitKind::Usd => {
            Refusal::QuotaExceeded(shortage)
        }
        LimitKind::RequestsPerMinute | LimitKind::TokensPerMinute | LimitKind::Concurrency => {
            Refusal::RateLimited(shortage)
        }
    }
}
