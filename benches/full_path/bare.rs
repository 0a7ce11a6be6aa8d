//! The reference: a Pingora proxy that forwards and does nothing else, set up as quota-proxy's edge is.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};

use async_trait::async_trait;
use pingora::Result;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::{Opt, ServerConf};
use pingora::upstreams::peer::HttpPeer;

use crate::Outcome;

/// The argument that makes this binary the forwarder.
pub const COMMAND: &str = "bare-forwarder";

struct Bare {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

/// Forwards to `upstream` until it is killed; says where it listens.
pub fn run(upstream: SocketAddr) -> Outcome<()> {
    let conf = ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: 1024,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None::<Opt>, conf);
    server.bootstrap();
    // Pingora does not tell which port it took; a port that was free a moment ago will do here.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut service = http_proxy_service(&server.configuration, Bare { upstream });
    service.add_tcp(&address.to_string());
    server.add_service(service);
    writeln!(std::io::stderr(), "listening on http://{address} (edge)")?;
    server.run_forever()
}
