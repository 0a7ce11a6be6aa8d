//! `edge`: where clients come in, and what they may bring.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::EdgeConfig;
use super::certificates::tls_listeners;
use super::scalar::{boolean, duration, listen_address, network, size, whole};
use super::section::{At, Section};

/// An address to listen on, and where it is written.
pub type Listener<'a> = (SocketAddr, At<'a>);

const MIB: usize = 1 << 20;

/// Reads `edge.*` and adds its addresses to `listeners`.
pub fn edge<'a>(mut section: Section<'a>, listeners: &mut Vec<Listener<'a>>) -> EdgeConfig {
    let listen = plain_listeners(&mut section, listeners);
    let tls = tls_listeners(&section.items("tls"), listeners);
    if section.field("listen").is_some() && section.lacks("listen") && section.lacks("tls") {
        section
            .place_of("listen")
            .fault("is empty, and so is edge.tls; give one of them an address");
    }
    let edge = EdgeConfig {
        listen,
        tls,
        trusted_proxies: section.list("trusted_proxies", Vec::new(), network),
        max_request_body: section.or("max_request_body", 32 * MIB, size),
        max_upload: section.or("max_upload", 512 * MIB, size),
        max_buffered: section.or("max_buffered", 512 * MIB, size),
        request_timeout: section.or("request_timeout", Duration::from_secs(600), duration),
        body_timeout: section.or("body_timeout", Duration::from_secs(30), duration),
        max_connections: section.or("max_connections", 0, whole(0, 10_000_000)),
        self_service: section.or("self_service", true, boolean),
        cors_origins: cors_origins(section.section("cors")),
        allow_unmetered: section.or("allow_unmetered", false, boolean),
        mount_admin: section.or("mount_admin", false, boolean),
    };
    if edge.max_buffered < edge.max_request_body {
        let written = section.field("max_buffered").is_some();
        let name = if written {
            "max_buffered"
        } else {
            "max_request_body"
        };
        section.place_of(name).fault(format!(
            "max_buffered ({} bytes) is less than max_request_body ({} bytes), expected at least as much",
            edge.max_buffered, edge.max_request_body
        ));
    }
    section.finish();
    edge
}

fn plain_listeners<'a>(
    section: &mut Section<'a>,
    listeners: &mut Vec<Listener<'a>>,
) -> Vec<SocketAddr> {
    let Some(field) = section.field("listen") else {
        let default = SocketAddr::from(([0, 0, 0, 0], 8787));
        listeners.push((default, section.at.clone()));
        return vec![default];
    };
    let mut addresses = Vec::new();
    for item in field.items() {
        if let Some(address) = item.value(listen_address) {
            addresses.push(address);
            listeners.push((address, item.at));
        }
    }
    addresses
}

fn cors_origins(mut section: Section<'_>) -> Vec<String> {
    let origins = section.list("origins", vec![String::from("*")], origin);
    section.finish();
    origins
}

fn origin(text: &str) -> Result<String, String> {
    let host = text.split_once("://").map_or(text, |(_, host)| host);
    let fits = !host.is_empty()
        && !host.contains(['/', '?', '#', '@'])
        && !text.contains(char::is_whitespace);
    fits.then(|| String::from(text)).ok_or_else(|| {
        String::from("expected *, an origin such as https://app.example.com, or *.example.com")
    })
}

/// Reports every address that an earlier listener has taken. Port 0 lets the system choose.
pub fn overlaps(listeners: &[Listener<'_>]) {
    for (at, (address, place)) in listeners.iter().enumerate() {
        let earlier = listeners.iter().take(at);
        let taken = earlier
            .rev()
            .find(|(other, _)| same_socket(*address, *other));
        if let Some((_, other)) = taken {
            place.fault(format!(
                "{address} is taken by {}; give one of them another port",
                other.path
            ));
        }
    }
}

fn same_socket(a: SocketAddr, b: SocketAddr) -> bool {
    let any = |ip: IpAddr| ip.is_unspecified();
    let same_address = a.ip() == b.ip() || any(a.ip()) || any(b.ip());
    a.port() != 0 && a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && same_address
}
