//! The front door: from a head to an open exchange, or to an answer given here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};

use super::body::{self, Body, Bounds};
use super::budget::{Most, Share};
use super::ctx::Upload;
use super::edit::{Edited, edit};
use super::facts::Facts;
use super::form::{Form, is_multipart};
use super::{Ctx, Edge, late};
use crate::admin::paths::is_ours;
use crate::config::{Config, OnClientGone};
use crate::exchange::plan::Demand;
use crate::exchange::{Exchange, Identity, OpenRequest, Refusal};
use crate::metering::{Dialect, Endpoint, RequestFacts, model_of_path, read_request};
use crate::time::UnixMs;

/// Longest time one piece of an answer may take to be taken by the client.
const LONGEST_WRITE: Duration = Duration::from_secs(60);

/// What becomes of a request that was not refused.
#[derive(Debug)]
pub enum Next {
    Forward,
    /// It was answered here.
    Answered,
    /// It goes on in an inner request; `drain`: to its end, whoever listens.
    Relay {
        drain: bool,
    },
}

/// A body as far as it was read.
struct Read {
    request: Option<RequestFacts>,
    model: Option<String>,
    form: Option<Form>,
    /// The whole body, where it is here.
    whole: Option<Bytes>,
    replays: bool,
}

impl Read {
    fn endpoint(&self, facts: &Facts) -> Endpoint {
        match &self.request {
            Some(request) if request.background => Endpoint::Unmetered,
            _ => facts.endpoint,
        }
    }
}

impl Edge {
    /// Reads the head and the body, opens the exchange, edits the body. Not cancel safe.
    pub(super) async fn enter(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
    ) -> Result<Next, Refusal> {
        let live = self.desk.live.load_full();
        let config = &live.config;
        let facts = &*read_head(session, config, ctx)?;
        if self
            .answer_preflight(session, facts, config, ctx.id)
            .await?
        {
            return Ok(Next::Answered);
        }
        if is_ours(&facts.path) {
            self.answer_ours(session, ctx, facts, config).await?;
            return Ok(Next::Answered);
        }
        let now = UnixMs::now();
        // Nothing is reserved for a list of models.
        let identity = if facts.endpoint == Endpoint::Models {
            self.desk.identify_now(&facts.caller, None, now).await?
        } else {
            self.desk.identify(&facts.caller, now).await?
        };
        ctx.key = Some(identity.key.clone());
        if self
            .answer_caller(session, facts, &identity, &live, ctx.id)
            .await?
        {
            return Ok(Next::Answered);
        }
        let most = Most {
            all: config.edge.max_buffered,
            body: config.edge.max_request_body,
        };
        let mut share = Share::none(&self.budget, Some(identity.key.id), most);
        let bounds = Bounds {
            max_body: config.edge.max_request_body,
            max_upload: config.edge.max_upload,
            patience: config.edge.body_timeout,
            last: ctx.deadline,
        };
        let read = read_body(session, facts, bounds, &mut share, &mut ctx.body).await?;
        ctx.request_size = read.whole.as_ref().map_or(0, Bytes::len);
        ctx.model.clone_from(&read.model);
        let endpoint = read.endpoint(facts);
        let mut exchange = self
            .desk
            .open(open_request(ctx, facts, identity, endpoint, &read))
            .await?;
        ctx.form = read.form;
        if let Some(whole) = read.whole {
            let kept = (whole, read.request);
            hold(ctx, kept, &mut exchange, &mut share);
        }
        ctx.share = Some(share);
        upload_begins(session, ctx, config.edge.body_timeout);
        let drain = config.quota.on_client_gone == OnClientGone::Drain && exchange.is_metered();
        let needs_relay = drain || exchange.waits_differ();
        let replays = read.replays && !(needs_relay && matches!(ctx.body, Body::Held(_)));
        ctx.exchange = Some(exchange);
        self.metrics.exchange_began();
        Ok(if replays {
            Next::Forward
        } else {
            Next::Relay { drain }
        })
    }

    /// A piece of a streamed upload passes.
    pub(super) fn upload_passes(
        &self,
        session: &Session,
        ctx: &mut Ctx,
        bytes: usize,
        end: bool,
    ) -> pingora::Result<()> {
        ctx.request_size += bytes;
        if ctx.request_size > self.desk.live.load().config.edge.max_upload {
            let why = "the upload is too large";
            return Error::e_explain(ErrorType::HTTPStatus(413), why).map_err(Error::into_down);
        }
        if end
            && ctx.upload == Upload::Comes
            && let Some(exchange) = &mut ctx.exchange
        {
            ctx.upload = Upload::Sent;
            exchange.uploaded();
            let first_byte = exchange.route().pool.config.timeouts.first_byte;
            late::expect_answer(session, ctx.deadline, first_byte);
        }
        Ok(())
    }
}

/// From here on a body that is streamed has its time, and the whole request where all is here.
fn upload_begins(session: &mut Session, ctx: &mut Ctx, patience: Duration) {
    if matches!(ctx.body, Body::Held(_)) || session.as_mut().is_body_done() {
        late::begin(session, ctx);
    } else {
        ctx.upload = Upload::Comes;
        late::expect_body(session, patience, ctx.deadline);
    }
}

/// Holds a body that was read whole, with its edits.
fn hold(
    ctx: &mut Ctx,
    (mut whole, request): (Bytes, Option<RequestFacts>),
    exchange: &mut Exchange,
    share: &mut Share,
) {
    if let Some(request) = request {
        let Edited {
            bytes,
            injected,
            original,
        } = edit(whole, request, exchange, share);
        ctx.strip_usage_chunk = injected;
        ctx.original = original;
        whole = bytes;
    }
    ctx.body = if whole.is_empty() {
        Body::Passing
    } else {
        Body::Held(whole)
    };
}

/// The head's facts, which the request keeps whether it is sound or not; and its deadlines.
fn read_head(session: &mut Session, config: &Config, ctx: &mut Ctx) -> Result<Arc<Facts>, Refusal> {
    let (facts, sound) = Facts::read(session, &config.edge.trusted_proxies);
    let facts = Arc::new(facts);
    ctx.facts = Some(Arc::clone(&facts));
    ctx.give(config.edge.request_timeout);
    late::begin(session, ctx);
    // A client that does not read must not keep its reservation for ever.
    let write_timeout = config.edge.request_timeout.min(LONGEST_WRITE);
    session.as_mut().set_write_timeout(Some(write_timeout));
    // Reads are under the watch.
    session.as_mut().set_read_timeout(None);
    if sound.is_err() {
        // Where a head can be read in two ways, so can what follows it on this connection.
        session.set_keepalive(None);
    }
    sound.map(|()| facts)
}

fn open_request<'a>(
    ctx: &Ctx,
    facts: &'a Facts,
    identity: Identity,
    endpoint: Endpoint,
    read: &'a Read,
) -> OpenRequest<'a> {
    let request = read.request.as_ref();
    OpenRequest {
        id: ctx.id,
        identity,
        caller: &facts.caller,
        endpoint,
        dialect: facts.dialect,
        method: &facts.method,
        path: &facts.path,
        model: read.model.as_deref(),
        end_user: request.and_then(|r| r.end_user.as_deref()),
        demand: Demand {
            stream: request.is_some_and(|r| r.stream),
            input_tokens: request.map_or(0, |r| r.input_tokens),
            declared_output: request.and_then(|r| r.output_bound),
            choices: request.map_or(1, |r| r.choices.max(1)),
            may_write_1h_cache: facts.dialect == Dialect::Anthropic
                && read
                    .whole
                    .as_ref()
                    .is_some_and(|body| memchr::memmem::find(body, b"\"1h\"").is_some()),
        },
        request_size: i64::try_from(ctx.request_size).unwrap_or(i64::MAX),
        started: ctx.started,
    }
}

/// Whether the body is read whole, for the model and the bounds in it. A path that is always JSON is
/// read as JSON whatever its content type says: a label must not hide a model from its key's rules.
/// A WebSocket's model is in its query, whatever a body might say.
fn holds_json(facts: &Facts) -> bool {
    if facts.socket.is_some() {
        return false;
    }
    let is_form = is_multipart(&facts.content_type);
    facts.endpoint.is_json() || facts.has_json_type() || (facts.endpoint.generates() && !is_form)
}

/// JSON is held whole; anything else passes, and is looked into only for its model.
async fn read_body(
    session: &mut Session,
    facts: &Facts,
    bounds: Bounds,
    share: &mut Share,
    body: &mut Body,
) -> Result<Read, Refusal> {
    if !holds_json(facts) {
        let peeked = body::peek_upload(
            session,
            &bounds,
            &facts.content_type,
            facts.expects_continue,
        )
        .await
        .map_err(|refusal| broken_off(session, refusal))?;
        *body = peeked.body;
        let whole = match body {
            Body::Held(bytes) => Some(bytes.clone()),
            _ => peeked.whole.clone(),
        };
        let named = peeked.model.as_ref().map(|model| model.name.as_str());
        return Ok(Read {
            request: None,
            model: model_beside_body(facts, named)?,
            form: peeked
                .model
                .and_then(|model| Form::of(body, model, peeked.length)),
            whole,
            replays: peeked.whole.is_none(),
        });
    }
    if session
        .req_header()
        .headers
        .contains_key(http::header::CONTENT_ENCODING)
    {
        return Err(Refusal::bad(
            "compressed request bodies are not taken; send the JSON as it is",
        ));
    }
    let whole = body::read_whole(session, &bounds, share, facts.expects_continue)
        .await
        .map_err(|refusal| broken_off(session, refusal))?;
    let request = read_request(facts.endpoint, &facts.path, &whole.bytes).map_err(|fault| {
        Refusal::BadRequest {
            message: fault.message,
            param: fault.param,
        }
    })?;
    let model = request.model.clone();
    Ok(Read {
        request: Some(request),
        model,
        form: None,
        whole: Some(whole.bytes),
        replays: whole.replays,
    })
}

/// The model of a request without JSON: its form names it, its path (Azure), or a WebSocket's query.
fn model_beside_body(facts: &Facts, form: Option<&str>) -> Result<Option<String>, Refusal> {
    if let Some(socket) = &facts.socket {
        return Ok(socket.model.clone());
    }
    let path = model_of_path(&facts.path).filter(|_| facts.endpoint.generates());
    if let (Some(path), Some(form)) = (&path, form)
        && path != form
    {
        return Err(Refusal::BadRequest {
            message: format!("the path names the model {path:?}, the form another one"),
            param: Some(String::from("model")),
        });
    }
    Ok(form.map(str::to_owned).or(path))
}

/// Where a body broke off is unknown, and so where a next request would begin: the connection ends.
/// Pingora would keep it after a malformed chunk, which it counts as the body's end.
pub(super) fn broken_off(session: &mut Session, refusal: Refusal) -> Refusal {
    session.set_keepalive(None);
    refusal
}
