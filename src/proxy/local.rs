//! What the edge answers itself: health, preflights, a caller's own figures, the list of models.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::HeaderValue;
use pingora::http::ResponseHeader;
use pingora::protocols::http::HttpTask;
use pingora::proxy::Session;
use serde_json::Value;
use uuid::Uuid;

use super::body::{self, Bounds};
use super::budget::{Most, Share};
use super::facts::{Facts, text};
use super::headers::Named;
use super::{Ctx, Edge, entry, late, models};
use crate::admin::auth::OwnKey;
use crate::admin::body::{BODY_TIMEOUT, MAX_BODY};
use crate::config::{Config, EdgeConfig};
use crate::exchange::{Identity, Live, Refusal};

impl Edge {
    /// Answers a browser's preflight. True where it was one.
    pub(super) async fn answer_preflight(
        &self,
        session: &mut Session,
        facts: &Facts,
        config: &Config,
        id: Uuid,
    ) -> Result<bool, Refusal> {
        let asks_method = "access-control-request-method";
        let headers = &session.req_header().headers;
        if facts.method != "OPTIONS" || !headers.contains_key(asks_method) {
            return Ok(false);
        }
        preflight(session, config, id).await.map(|()| true)
    }

    /// Answers a path of ours, whoever asks: the admin service knows who may. Not cancel safe.
    pub(super) async fn answer_ours(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        facts: &Facts,
        config: &Config,
    ) -> Result<(), Refusal> {
        if !self.port.serves(&facts.path) {
            return Err(Refusal::NotFound);
        }
        let bounds = Bounds {
            max_body: MAX_BODY,
            max_upload: MAX_BODY,
            patience: config.edge.body_timeout,
            last: ctx.deadline.min(ctx.started + BODY_TIMEOUT),
        };
        let most = Most {
            all: config.edge.max_buffered,
            body: MAX_BODY,
        };
        let mut share = Share::none(&self.budget, None, most);
        let read = body::read_whole(session, &bounds, &mut share, facts.expects_continue);
        let whole = read
            .await
            .map_err(|refusal| entry::broken_off(session, refusal))?;
        late::begin(session, ctx);
        let head = session.req_header();
        let mut request = http::Request::builder()
            .method(head.method.clone())
            .uri(head.uri.clone())
            .body(whole.bytes)
            .map_err(|_| Refusal::Internal)?;
        request.headers_mut().clone_from(&head.headers);
        let mut response = self.port.answer(request, facts.caller.ip).await;
        if let Some(own) = response.extensions_mut().remove::<OwnKey>() {
            ctx.key = Some(own.identity.key);
        }
        let cors = cors_headers(&config.edge, facts.caller.origin.as_deref());
        let sent = pass_on(session, response, ctx.id, &cors).await;
        sent.map_err(|_| Refusal::Internal)
    }

    /// What a known caller asks of us and not of a provider. True where it was answered.
    pub(super) async fn answer_caller(
        &self,
        session: &mut Session,
        facts: &Facts,
        identity: &Identity,
        live: &Arc<Live>,
        id: Uuid,
    ) -> Result<bool, Refusal> {
        let cors = cors_headers(&live.config.edge, facts.caller.origin.as_deref());
        if facts.endpoint == crate::metering::Endpoint::Models && facts.method == "GET" {
            let anthropic = text(session.req_header(), "anthropic-version").is_some();
            let found = models::answer(&self.models, live, identity, &facts.path, anthropic).await;
            let Some(body) = found else {
                let model = facts.path.rsplit('/').next().unwrap_or_default().to_owned();
                return Err(Refusal::NoPoolForModel { model });
            };
            send(session, 200, &body, id, &cors).await?;
            return Ok(true);
        }
        Ok(false)
    }
}

/// Writes an answer of the admin service, as it comes.
async fn pass_on(
    session: &mut Session,
    response: http::Response<axum::body::Body>,
    id: Uuid,
    extra: &[Named],
) -> pingora::Result<()> {
    let (parts, body) = response.into_parts();
    let mut head = ResponseHeader::build(parts.status, Some(parts.headers.len() + 3))?;
    for (name, value) in &parts.headers {
        head.append_header(name.clone(), value.clone())?;
    }
    head.insert_header("x-request-id", id.simple().to_string())?;
    for (name, value) in extra {
        head.insert_header(*name, value)?;
    }
    session.write_response_header(Box::new(head), false).await?;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|fault| {
            pingora::Error::because(
                pingora::ErrorType::InternalError,
                "an answer broke off",
                fault,
            )
        })?;
        session.write_response_body(Some(piece), false).await?;
    }
    session.write_response_body(None, true).await
}

async fn send(
    session: &mut Session,
    status: u16,
    body: &Value,
    id: Uuid,
    extra: &[Named],
) -> Result<(), Refusal> {
    let id = id.simple().to_string();
    send_json(session, status, body, &id, extra)
        .await
        .map_err(|_| Refusal::Internal)
}

/// Writes a whole answer of ours, head and body. The connection stays usable.
pub(super) async fn send_json(
    session: &mut Session,
    status: u16,
    body: &Value,
    request_id: &str,
    extra: &[Named],
) -> pingora::Result<()> {
    let body = Bytes::from(body.to_string());
    let mut head = ResponseHeader::build(status, Some(4 + extra.len()))?;
    head.insert_header("content-type", "application/json")?;
    head.insert_header("content-length", body.len().to_string())?;
    head.insert_header("x-request-id", request_id)?;
    for (name, value) in extra {
        head.insert_header(*name, value)?;
    }
    send_whole(session, Box::new(head), body).await
}

/// Writes an answer to its end, of which an inner request must tell the outer one.
pub(super) async fn send_whole(
    session: &mut Session,
    head: Box<ResponseHeader>,
    body: Bytes,
) -> pingora::Result<()> {
    let tasks = vec![
        HttpTask::Header(head, false),
        HttpTask::Body(Some(body), true),
    ];
    session.write_response_tasks(tasks).await.map(|_| ())
}

/// A preflight carries no key; what the key's own `allowed_origins` say rules the request that follows.
async fn preflight(session: &mut Session, config: &Config, id: Uuid) -> Result<(), Refusal> {
    let asked = |name| text(session.req_header(), name).map(str::to_owned);
    let origin = asked("origin");
    let headers = asked("access-control-request-headers")
        .unwrap_or_else(|| "authorization, content-type".to_owned());
    let cors = cors_headers(&config.edge, origin.as_deref());
    let write = async {
        let mut head = ResponseHeader::build(204, Some(8))?;
        head.insert_header("x-request-id", id.simple().to_string())?;
        if !cors.is_empty() {
            head.insert_header(
                "access-control-allow-methods",
                "GET, POST, PUT, PATCH, DELETE, OPTIONS",
            )?;
            head.insert_header("access-control-allow-headers", headers)?;
            head.insert_header("access-control-max-age", "600")?;
        }
        for (name, value) in &cors {
            head.insert_header(*name, value)?;
        }
        session.write_response_header(Box::new(head), true).await
    };
    write
        .await
        .map_err(|_: Box<pingora::Error>| Refusal::Internal)
}

/// What a browser needs to read an answer; nothing for requests without an `Origin`.
pub(super) fn cors_headers(config: &EdgeConfig, origin: Option<&str>) -> Vec<Named> {
    const EXPOSED: &str =
        "x-request-id, x-quota-limit, x-quota-used, x-quota-remaining, x-quota-type, retry-after";
    let Some(origin) = origin.and_then(|origin| HeaderValue::from_str(origin).ok()) else {
        return Vec::new();
    };
    let any = config.cors_origins.iter().any(|allowed| allowed == "*");
    let listed = config
        .cors_origins
        .iter()
        .any(|allowed| origin == allowed.as_str());
    if !any && !listed {
        return Vec::new();
    }
    let allowed = if any {
        HeaderValue::from_static("*")
    } else {
        origin
    };
    vec![
        ("access-control-allow-origin", allowed),
        (
            "access-control-expose-headers",
            HeaderValue::from_static(EXPOSED),
        ),
        ("vary", HeaderValue::from_static("origin")),
    ]
}
