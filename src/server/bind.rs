//! Sockets that are bound before the server runs.
//!
//! Pingora binds late and panics where it cannot, and tells nobody which port a `:0` became. So we
//! bind first (a taken port is then an ordinary error, the port is known) and give Pingora the socket
//! in the table that it has for sockets of an old process: it takes from it what it finds under the
//! address of an endpoint.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::sync::mpsc::Sender;

use async_trait::async_trait;
use pingora::server::{ListenFds, RuntimeOpts, ShutdownWatch};
use pingora::services::Service;
use tokio::sync::watch;

use super::StartError;
use super::upgrade::{Slot, Successor, Taker};
use crate::config::Config;

/// A listening socket on its way to a service.
#[derive(Debug)]
pub struct Bound {
    socket: OwnedFd,
    addr: SocketAddr,
    slot: Slot,
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

    /// The same socket once more, for a process that takes over one day.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn duplicate(&self) -> io::Result<(Slot, OwnedFd)> {
        Ok((self.slot.clone(), self.socket.try_clone()?))
    }
}

/// Binds and listens, for the setting `what`. `inherited`: the socket that an old process made for it;
/// connections wait in its queue.
///
/// # Errors
/// What the operating system says: the address is taken, is not this machine's, needs a privilege.
pub fn bind(what: &str, asked: SocketAddr, inherited: Option<OwnedFd>) -> io::Result<Bound> {
    let listener = match inherited {
        Some(socket) => TcpListener::from(socket),
        None => TcpListener::bind(asked)?,
    };
    // What the runtime requires of a socket that it is given.
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    Ok(Bound {
        socket: listener.into(),
        addr,
        slot: Slot {
            what: what.to_owned(),
            asked,
        },
    })
}

/// Binds every address of one setting. See [`bind_one`].
fn bind_all(
    what: &'static str,
    addresses: &[SocketAddr],
    taker: &mut Option<&mut Taker>,
) -> Result<Vec<Bound>, StartError> {
    let addresses = addresses.iter();
    addresses
        .map(|address| bind_one(what, *address, taker))
        .collect()
}

/// Binds an address of the setting `what`, or takes the socket that a running process has there.
fn bind_one(
    what: &'static str,
    address: SocketAddr,
    taker: &mut Option<&mut Taker>,
) -> Result<Bound, StartError> {
    let inherited = taker.as_mut().and_then(|taker| taker.socket(what, address));
    bind(what, address, inherited).map_err(|cause| StartError::Bind {
        what,
        address: address.to_string(),
        cause,
    })
}

/// All that a process listens at.
#[derive(Debug)]
pub struct Sockets {
    pub edge: Vec<Bound>,
    pub tls: Vec<Bound>,
    pub admin: Bound,
}

impl Sockets {
    /// # Errors
    /// Those of [`bind`], with the setting.
    pub(super) fn bind(config: &Config, mut taker: Option<&mut Taker>) -> Result<Self, StartError> {
        let tls: Vec<_> = config.edge.tls.iter().map(|tls| tls.listen).collect();
        Ok(Sockets {
            edge: bind_all("edge.listen", &config.edge.listen, &mut taker)?,
            tls: bind_all("edge.tls", &tls, &mut taker)?,
            admin: bind_one("admin.listen", config.admin.listen, &mut taker)?,
        })
    }

    /// For a process that takes over one day.
    pub(super) fn duplicates(&self) -> io::Result<Vec<(Slot, OwnedFd)>> {
        let all = self.edge.iter().chain(&self.tls).chain([&self.admin]);
        all.map(Bound::duplicate).collect()
    }

    /// Says where it listens. Where nobody reads it (a terminal that was closed, a pipe whose reader has
    /// ended) that is no reason not to serve.
    pub(super) fn announce(&self, out: &mut dyn Write) {
        if let Err(fault) = self.tell(out) {
            log::debug!("nobody was told where it listens: {fault}");
        }
    }

    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        for bound in &self.edge {
            writeln!(out, "listening on http://{} (edge)", bound.addr())?;
        }
        for bound in &self.tls {
            writeln!(out, "listening on https://{} (edge)", bound.addr())?;
        }
        writeln!(out, "listening on http://{} (admin)", self.admin.addr())?;
        out.flush()
    }
}

/// When services accept connections.
#[derive(Clone, Debug)]
pub struct Term {
    /// Is told when a service is ready to.
    pub ready: Sender<()>,
    /// True from the moment that no other process does. Should this process end before, no client has
    /// come to it.
    pub begin: watch::Receiver<bool>,
    /// Who does in this process's stead.
    pub taken: watch::Receiver<Option<Successor>>,
}

/// A service together with sockets bound for it; its endpoints must be those of the sockets.
#[derive(Debug)]
pub struct WithSockets<S> {
    service: S,
    sockets: Vec<Bound>,
    term: Option<Term>,
    until: Option<ShutdownWatch>,
}

impl<S: Service> WithSockets<S> {
    pub fn new(service: S, sockets: Vec<Bound>) -> Self {
        WithSockets {
            service,
            sockets,
            term: None,
            until: None,
        }
    }

    /// Lets another process take the sockets over.
    pub fn within(mut self, term: Term) -> Self {
        self.term = Some(term);
        self
    }

    /// Serves until `end` says so. Pingora says so to nobody: see `signals`.
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
                table.add(bound.endpoint(), bound.socket.into_raw_fd());
            }
        }
        let mut shutdown = self.until.take().unwrap_or(shutdown);
        let mut term = self.term.take();
        if let Some(term) = &mut term {
            if term.ready.send(()).is_err() {
                log::debug!("{} begins in a process that is the first", self.name());
            }
            when(&mut term.begin, |begin| *begin).await;
        }
        let taken = async {
            match &mut term {
                Some(term) => when(&mut term.taken, Option::is_some).await,
                None => std::future::pending().await,
            }
        };
        let (end, ends) = watch::channel(false);
        let mut serving = self.service.start_service(fds, ends, listeners_per_fd);
        tokio::select! {
            () = serving.as_mut() => return,
            () = when(&mut shutdown, |down| *down) => {
                end.send_replace(true);
                return serving.await;
            }
            () = taken => {}
        }
        // Pingora's own end of a service closes idle connections, on which a client may be sending just
        // now. So it does not come to that: nothing more is accepted, each connection has its next
        // answer and is told to close, and idle ones last as long as the process.
        drop(serving);
        end.send_replace(true);
        // Connections look at it.
        end.closed().await;
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

/// Never, where it cannot come to that any more.
async fn when<T>(watched: &mut watch::Receiver<T>, is_so: impl Fn(&T) -> bool) {
    if watched.wait_for(|value| is_so(value)).await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_zero_becomes_a_known_port() {
        let bound = bind("edge.listen", "127.0.0.1:0".parse().unwrap(), None).unwrap();
        assert_ne!(bound.addr().port(), 0);
        assert_eq!(bound.endpoint(), bound.addr().to_string());
        // It listens already: a client may connect before the service runs.
        std::net::TcpStream::connect(bound.addr()).unwrap();
    }

    #[test]
    fn a_taken_port_is_an_error() {
        let first = bind("edge.listen", "127.0.0.1:0".parse().unwrap(), None).unwrap();
        let second = bind("edge.listen", first.addr(), None).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    }
}
