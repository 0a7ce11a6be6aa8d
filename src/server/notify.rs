//! Tells the service manager how the process fares: sd_notify(3), one datagram for each state, to the
//! socket that `$NOTIFY_SOCKET` names. Without that variable nobody is told, and nothing else changes.
//!
//! ```text
//! start ── ready ──┬── stopping ── end
//!            ▲     │
//!            └─ reloading
//! ```
//!
//! A service manager that hears nothing waits and gives up by its own rules, so no fault here ends
//! anything: each is a line in the log.

use std::ffi::OsStr;
use std::io;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Longest wait for a service manager that does not empty its socket.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who started this process and wants to know how it fares; or nobody.
#[derive(Debug, Default)]
pub struct ServiceManager {
    told: Option<(UnixDatagram, SocketAddr)>,
}

impl ServiceManager {
    /// The one that `$NOTIFY_SOCKET` names.
    pub fn of_this_process() -> Self {
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(name) if !name.is_empty() => ServiceManager::at(&name).unwrap_or_else(|fault| {
                log::warn!(
                    "the service manager at {} is not told: {fault}",
                    name.display()
                );
                ServiceManager::default()
            }),
            _ => ServiceManager::default(),
        }
    }

    /// `name` is a path, or `@` and an abstract name.
    fn at(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes().split_first() {
            #[cfg(target_os = "linux")]
            Some((b'@', rest)) => SocketAddr::from_abstract_name(rest)?,
            Some((b'/', _)) => SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::from(io::ErrorKind::Unsupported)),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(ServiceManager {
            told: Some((socket, address)),
        })
    }

    /// It listens. Names the process too, for one that takes over from another.
    pub fn ready(&self) {
        let pid = std::process::id();
        self.tell(&format!("READY=1\nMAINPID={pid}\nSTATUS=serving"));
    }

    /// The configuration is being read again, until [`ServiceManager::reloaded`].
    pub fn reloading(&self) {
        // By this time a `Type=notify-reload` unit knows that the reload it asked for has begun.
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// It serves on: with the new configuration, or with the old one where the new one is refused.
    pub fn reloaded(&self, taken: bool) {
        let status = if taken {
            "serving"
        } else {
            "serving; the last configuration was refused, the one before it holds"
        };
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// It takes nothing more, and ends when what runs has ended, `within` that time: it asks for as
    /// much, whatever the unit's own time-out.
    pub fn stopping(&self, within: Duration) {
        let micros = within.as_micros();
        self.tell(&format!(
            "STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}\nSTATUS=draining"
        ));
    }

    fn tell(&self, state: &str) {
        if let Some((socket, address)) = &self.told
            && let Err(fault) = socket.send_to_addr(state.as_bytes(), address)
        {
            log::warn!("the service manager was not told {state:?}: {fault}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut text = [0; 512];
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    }

    #[test]
    fn each_state_is_one_datagram() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::at(path.as_os_str()).unwrap();
        manager.ready();
        let pid = std::process::id();
        assert_eq!(
            heard(&socket),
            format!("READY=1\nMAINPID={pid}\nSTATUS=serving")
        );
        manager.reloading();
        let reloading = heard(&socket);
        let micros = reloading
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap();
        assert!(micros.parse::<u64>().unwrap() > 0, "{reloading}");
        manager.reloaded(true);
        assert_eq!(heard(&socket), "READY=1\nSTATUS=serving");
        manager.reloaded(false);
        assert!(heard(&socket).contains("refused"));
        manager.stopping(Duration::from_secs(2));
        assert_eq!(
            heard(&socket),
            "STOPPING=1\nEXTEND_TIMEOUT_USEC=2000000\nSTATUS=draining"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_abstract_name_begins_with_an_at_sign() {
        let name = format!("quota-proxy-test-{}", uuid::Uuid::new_v4());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let manager = ServiceManager::at(OsStr::new(&format!("@{name}"))).unwrap();
        manager.stopping(Duration::from_secs(2));
        assert!(heard(&socket).starts_with("STOPPING=1\n"));
    }

    #[test]
    fn nobody_there_is_no_reason_to_fail() {
        ServiceManager::default().ready();
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        ServiceManager::at(gone.as_os_str()).unwrap().ready();
        assert!(ServiceManager::at(OsStr::new("vsock:2:1234")).is_err());
    }

    #[test]
    fn a_manager_that_does_not_listen_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _socket = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::at(path.as_os_str()).unwrap();
        let (socket, _) = manager.told.as_ref().unwrap();
        socket
            .set_write_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        // Far more than a queue holds: each beyond it is given up, none hangs.
        for _ in 0..700 {
            manager.stopping(Duration::from_secs(2));
        }
    }
}
