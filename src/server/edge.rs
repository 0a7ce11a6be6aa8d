//! The edge as a service on the sockets that were bound for it.

use std::net::SocketAddr;
use std::sync::Arc;

use pingora::listeners::tls::TlsSettings;
use pingora::server::configuration::ServerConf;
use pingora::services::listening::Service;

use super::bind::Bound;
use super::{StartError, descriptors};
use crate::exchange::Desk;
use crate::proxy::door::{self, Door};
use crate::proxy::{Edge, tls};

/// The edge on its plain sockets and those with TLS, in the order of the configuration, with as many
/// connections as the process can have.
///
/// # Errors
/// A certificate that cannot be used.
pub fn service(
    conf: &Arc<ServerConf>,
    edge: Edge,
    desk: &Arc<Desk>,
    (plain, secured): (&[Bound], &[Bound]),
) -> Result<Service<Door>, StartError> {
    let plain: Vec<SocketAddr> = plain.iter().map(Bound::addr).collect();
    let secured = secured.iter().enumerate();
    let secured = secured.map(|(place, bound)| with_tls(desk, place, bound));
    let secured = secured.collect::<Result<_, _>>()?;
    let configured = desk.live.load().config.edge.max_connections;
    let most = descriptors::connections(configured, descriptors::raise());
    Ok(door::service(conf, edge, &plain, secured, most))
}

fn with_tls(
    desk: &Arc<Desk>,
    place: usize,
    bound: &Bound,
) -> Result<(SocketAddr, TlsSettings), StartError> {
    let settings = tls::settings(desk, place).map_err(|cause| StartError::Tls {
        address: bound.endpoint(),
        cause: cause.to_string(),
    })?;
    Ok((bound.addr(), settings))
}
