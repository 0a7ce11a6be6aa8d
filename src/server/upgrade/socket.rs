//! The upgrade socket: where it lies, who may speak over it, and sockets that travel through it.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::geteuid;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Sockets that can travel together: the kernel's bound (`SCM_MAX_FD`).
pub const MOST: usize = 253;

/// Connects to a running process and makes sure that it is one of this user's.
///
/// # Errors
/// Nobody listens there, or somebody else does.
pub async fn knock(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path).await?;
    let user = stream.peer_cred()?.uid();
    // Root may ask anybody's process to upgrade itself.
    if user != own_user() && own_user() != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("the process that listens there is user {user}'s"),
        ));
    }
    Ok(stream)
}

pub fn own_user() -> u32 {
    geteuid().as_raw()
}

/// Listens at `path`, in place of the process that listened there before.
///
/// # Errors
/// The folder cannot be made, or is not this user's alone; a process answers at the path and
/// `replace` is false.
pub fn listen(path: &Path, replace: bool) -> io::Result<UnixListener> {
    own_folder(path)?;
    if !replace && std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process answers there; give this one a server.upgrade_sock of its own",
        ));
    }
    // Renaming leaves no moment in which nobody answers, and none in which anybody may connect.
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Whoever can write to the folder can put a socket of their own in place of ours.
fn own_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.exists() {
        DirBuilder::new().mode(0o700).create(folder)?;
    }
    let found = fs::metadata(folder)?;
    let others_write = found.mode() & 0o022 != 0;
    if found.uid() != own_user() || others_write {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "{} belongs to user {} and has mode {:o}; it must belong to user {} and be writable by \
                 nobody else",
                folder.display(),
                found.uid(),
                found.mode() & 0o7777,
                own_user()
            ),
        ));
    }
    Ok(())
}

/// Sends duplicates of sockets, at most [`MOST`], with one byte to carry them.
///
/// # Errors
/// Those of the connection.
pub async fn send(stream: &UnixStream, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
            let mut carried = SendAncillaryBuffer::new(&mut space);
            if !carried.push(SendAncillaryMessage::ScmRights(sockets)) {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            let byte = [IoSlice::new(b"s")];
            sendmsg(stream.as_fd(), &byte, &mut carried, SendFlags::NOSIGNAL)?;
            Ok(())
        })
        .await
}

/// The sockets that were sent, in their order.
///
/// # Errors
/// Those of the connection.
pub async fn receive(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    stream
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
            let mut carried = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0; 1];
            let mut into = [IoSliceMut::new(&mut byte)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            if recvmsg(stream.as_fd(), &mut into, &mut carried, flags)?.bytes == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            let mut sockets = Vec::new();
            for message in carried.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    sockets.extend(received);
                }
            }
            Ok(sockets)
        })
        .await
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_socket_that_travels_is_the_same_socket() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sockets: Vec<_> = (0..3)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let borrowed: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
        send(&ours, &borrowed).await.unwrap();
        let received = receive(&theirs).await.unwrap();
        assert_eq!(received.len(), 3);
        for (sent, received) in sockets.into_iter().zip(received) {
            let address = sent.local_addr().unwrap();
            drop(sent);
            // It listens for as long as one of them lives.
            let mut client = TcpStream::connect(address).unwrap();
            let (mut accepted, _) = TcpListener::from(received).accept().unwrap();
            accepted.write_all(b"!").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        drop(ours);
        let end = receive(&theirs).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn the_folder_must_be_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own");
        let socket = own.join("upgrade.sock");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        let listener = listen(&socket, false).unwrap();
        assert_eq!((mode(&own), mode(&socket)), (0o700, 0o600));
        // Where a process answers it is left alone, unless it has given its place.
        let taken = listen(&socket, false).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let next = listen(&socket, true).unwrap();
        drop(listener);
        assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok());
        drop(next);
        // What a dead process left is in nobody's way.
        drop(listen(&socket, false).unwrap());
        for open in [0o722, 0o777, 0o1777, 0o720] {
            fs::set_permissions(&own, Permissions::from_mode(open)).unwrap();
            let refused = listen(&socket, false).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
            assert!(
                refused.to_string().contains("writable by nobody else"),
                "{refused}"
            );
        }
        let nowhere = folder.path().join("no/such/folder/upgrade.sock");
        assert_eq!(
            listen(&nowhere, false).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
