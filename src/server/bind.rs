//! Sockets that are bound before the server runs.
//!
//! Pingora binds late and panics where it cannot, and tells nobody which port a `:0` became. So we
//! bind first (a taken port is then an ordinary error, the port is known) and hand the socket over
//! by the table in which an old process leaves its sockets for a new one: Pingora takes from it what
//! it finds under the address of an endpoint.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{IntoRawFd as _, OwnedFd};

use async_trait::async_trait;
use pingora::server::{ListenFds, RuntimeOpts, ShutdownWatch};
use pingora::services::Service;

/// A listening socket on its way to a service.
#[derive(Debug)]
pub struct Bound {
    socket: OwnedFd,
    addr: SocketAddr,
}

impl Bound {
    /// Where it listens: the port is a real one though `:0` was asked for.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address as it must be given to `add_tcp` or `add_tls`, by which Pingora finds the socket.
    pub fn endpoint(&self) -> String {
        self.addr.to_string()
    }
}

/// Binds and listens. Not for a process that takes over from an old one: there the sockets come
/// from the old process, and the address is still taken.
///
/// # Errors
/// What the operating system says: the address is taken, is not this machine's, needs a privilege.
pub fn bind(addr: SocketAddr) -> io::Result<Bound> {
    let listener = TcpListener::bind(addr)?;
    // What the runtime requires of a socket that it is given.
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    Ok(Bound {
        socket: listener.into(),
        addr,
    })
}

/// A service together with sockets bound for it; its endpoints must be those of the sockets.
#[derive(Debug)]
pub struct WithSockets<S> {
    service: S,
    sockets: Vec<Bound>,
    until: Option<ShutdownWatch>,
}

impl<S: Service> WithSockets<S> {
    pub fn new(service: S, sockets: Vec<Bound>) -> Self {
        WithSockets {
            service,
            sockets,
            until: None,
        }
    }

    /// Serves until `end` says so, instead of until the server begins to drain.
    pub fn until(mut self, end: ShutdownWatch) -> Self {
        self.until = Some(end);
        self
    }
}

#[async_trait]
impl<S: Service> Service for WithSockets<S> {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        listeners_per_fd: usize,
    ) {
        if let Some(table) = &fds {
            let mut table = table.lock();
            for bound in self.sockets.drain(..) {
                let endpoint = bound.endpoint();
                // A socket of an old process comes first: connections wait in its queue.
                if table.get(&endpoint).is_none() {
                    table.add(endpoint, bound.socket.into_raw_fd());
                }
            }
        }
        let shutdown = self.until.take().unwrap_or(shutdown);
        self.service
            .start_service(fds, shutdown, listeners_per_fd)
            .await;
    }

    fn name(&self) -> &str {
        self.service.name()
    }

    fn threads(&self) -> Option<usize> {
        self.service.threads()
    }

    fn runtime_opts_override(&self, global: &RuntimeOpts) -> Option<RuntimeOpts> {
        self.service.runtime_opts_override(global)
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        self.service.listen_addresses()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_zero_becomes_a_known_port() {
        let bound = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(bound.addr().port(), 0);
        assert_eq!(bound.endpoint(), bound.addr().to_string());
        // It listens already: a client may connect before the service runs.
        std::net::TcpStream::connect(bound.addr()).unwrap();
    }

    #[test]
    fn a_taken_port_is_an_error() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let second = bind(first.addr()).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    }
}
