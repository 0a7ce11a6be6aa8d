//! Messages between two processes: a length of four bytes, then JSON.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Bytes of one message at most: a page of a thousand usage events is a hundredth of it.
const MOST: usize = 64 * 1024 * 1024;

/// One message as it is sent.
///
/// # Errors
/// `InvalidData` where it is too long.
pub fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    match u32::try_from(length) {
        Ok(short) if length <= MOST => bytes[..4].copy_from_slice(&short.to_be_bytes()),
        _ => return Err(too_long(length)),
    }
    Ok(bytes)
}

/// Not cancel safe: half of it may have been sent.
///
/// # Errors
/// Those of [`encode`] and of the connection.
pub async fn send(
    connection: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> io::Result<()> {
    connection.write_all(&encode(message)?).await
}

/// Reads exactly one message and nothing behind it. Not cancel safe.
///
/// # Errors
/// `UnexpectedEof` where the other end has gone, `InvalidData` where it says what nobody expects.
pub async fn receive<T: DeserializeOwned>(
    connection: &mut (impl AsyncRead + Unpin),
) -> io::Result<T> {
    let length = connection.read_u32().await? as usize;
    if length > MOST {
        return Err(too_long(length));
    }
    let mut bytes = vec![0; length];
    connection.read_exact(&mut bytes).await?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn too_long(length: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a message of {length} bytes"),
    )
}
