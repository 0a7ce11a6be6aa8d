//! The admin service on the edge's port: callers' own figures there always, the rest where it is mounted.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::Response;
use tower::ServiceExt as _;

use super::failure::Failure;
use super::listen::ClientAddr;
use super::paths::{Area, Shape};
use crate::exchange::{Desk, Refusal};
use crate::language::Language;

/// What the edge answers by itself.
#[derive(Debug)]
pub struct EdgePort {
    router: Router,
    desk: Arc<Desk>,
}

impl EdgePort {
    /// The router is the one of the side port.
    pub fn new(router: Router, desk: Arc<Desk>) -> Self {
        EdgePort { router, desk }
    }

    /// Whether a path of ours is answered on the edge, by the configuration as it is.
    pub fn serves(&self, path: &str) -> bool {
        let edge = &self.desk.live.load().config.edge;
        Area::on_edge(path, edge.self_service, edge.mount_admin)
    }

    /// Answers a request whose body was read; `client` is its address, forwarded ones from trusted
    /// proxies only. Cancel safe as far as the store is.
    pub async fn answer(
        &self,
        request: http::Request<Bytes>,
        client: Option<IpAddr>,
    ) -> Response<Body> {
        let mut request = request.map(Body::from);
        request.extensions_mut().insert(ClientAddr(client));
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// A refusal of the edge on a path of ours, in that path's shape.
    pub fn refusal(path: &str, refusal: &Refusal, language: Language) -> (u16, serde_json::Value) {
        let failure = Failure::from(refusal.clone());
        let (status, body) = failure.shown(Shape::of(path), language);
        (status.as_u16(), body)
    }
}
