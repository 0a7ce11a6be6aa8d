//! What the edge answers itself: health, preflights, a caller's own figures, the list of models.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Uri};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use serde_json::Value;
use uuid::Uuid;

use super::facts::{Facts, text};
use super::headers::Named;
use super::{Edge, models};
use crate::config::{Config, EdgeConfig};
use crate::exchange::{Identity, Live, Refusal};
use crate::keys::KeyRecord;

/// Paths that are ours on every port: never forwarded (SPEC section 2, `mount_admin`).
const OURS: [&str; 7] = [
    "/admin",
    "/api",
    "/metrics",
    "/openapi.json",
    "/usage",
    "/health",
    "/healthz",
];

/// Answers that the admin port gives too; whoever composes the process lends them to the edge.
#[async_trait]
pub trait LocalAnswers: Send + Sync + 'static {
    /// What needs no key (health, what this is); `None` where the path is none of these.
    async fn open(&self, path: &str) -> Option<(u16, Value)>;
    /// A caller's own figures (SPEC section 5); `None` where the path is none of these.
    async fn own(&self, key: &KeyRecord, uri: &Uri) -> Option<(u16, Value)>;
}

impl Edge {
    /// What needs no key. True where the request was answered.
    pub(super) async fn answer_openly(
        &self,
        session: &mut Session,
        facts: &Facts,
        config: &Config,
        id: Uuid,
    ) -> Result<bool, Refusal> {
        if facts.method == "OPTIONS"
            && session
                .req_header()
                .headers
                .contains_key("access-control-request-method")
        {
            return preflight(session, config, id).await.map(|()| true);
        }
        if facts.method != "GET" && facts.method != "HEAD" {
            return Ok(false);
        }
        let Some((status, body)) = self.answers.open(&facts.path).await else {
            return Ok(false);
        };
        send(
            session,
            status,
            &body,
            id,
            &cors_headers(&config.edge, facts.caller.origin.as_deref()),
        )
        .await?;
        Ok(true)
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
        if !is_ours(&facts.path) {
            return Ok(false);
        }
        if live.config.edge.self_service {
            let uri = session.req_header().uri.clone();
            if facts.method == "GET"
                && let Some((status, body)) = self.answers.own(&identity.key, &uri).await
            {
                send(session, status, &body, id, &cors).await?;
                return Ok(true);
            }
        }
        Err(Refusal::NotFound)
    }
}

/// Whether a path belongs to the proxy's own interfaces.
pub(super) fn is_ours(path: &str) -> bool {
    OURS.iter().any(|own| {
        path.strip_prefix(own)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
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
    session.write_response_header(Box::new(head), false).await?;
    session.write_response_body(Some(body), true).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_paths_are_never_forwarded() {
        for path in [
            "/admin",
            "/admin/api-keys",
            "/api/usage",
            "/usage",
            "/metrics",
        ] {
            assert!(is_ours(path), "{path}");
        }
        for path in [
            "/v1/chat/completions",
            "/administration",
            "/apis",
            "/v1/usage",
        ] {
            assert!(!is_ours(path), "{path}");
        }
    }
}
