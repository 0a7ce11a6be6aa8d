//! An upstream's last 429: gathered whole before any of it is shown.
//!
//! A rate limit passes as the upstream told it. One that says *our* account is empty is our affair:
//! its text names the operator's organization and must not reach a client (SPEC section 3, step 4).
//! By then the status is out, so the client is told of a busy upstream instead.

use bytes::{Bytes, BytesMut};
use http::header;
use pingora::Result;
use pingora::http::ResponseHeader;

use super::reply::Reply;
use crate::metering::Dialect;

/// A refusal is short; a longer one is not shown.
const MOST: usize = 64 * 1024;

/// What an empty account is told apart by, in every dialect that tells it.
const TELLTALES: [&[u8]; 4] = [
    b"insufficient_quota",
    b"billing",
    b"credit balance",
    b"organization",
];

/// The body of a 429 so far.
#[derive(Debug, Default)]
pub struct Gathered {
    bytes: BytesMut,
    /// It cannot be read here, or is too long: it is not shown.
    opaque: bool,
}

impl Gathered {
    /// The head of a 429 leaves: what it says of its body may not hold any more.
    pub fn begin(head: &mut ResponseHeader, chunked: bool) -> Result<Gathered> {
        let opaque = head.remove_header(&header::CONTENT_ENCODING).is_some();
        head.remove_header(&header::CONTENT_LENGTH);
        if chunked {
            head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        }
        head.insert_header(header::CONTENT_TYPE, "application/json")?;
        Ok(Gathered {
            bytes: BytesMut::new(),
            opaque,
        })
    }

    /// Takes a piece; at the end, what the client gets.
    pub fn pass(&mut self, piece: &[u8], end: bool, dialect: Dialect, id: &str) -> Option<Bytes> {
        if self.bytes.len() + piece.len() > MOST {
            self.opaque = true;
        }
        if !self.opaque {
            self.bytes.extend_from_slice(piece);
        }
        if !end {
            return None;
        }
        let is_ours = |word: &&[u8]| memchr::memmem::find(&self.bytes, word).is_some();
        if self.opaque || TELLTALES.iter().any(is_ours) {
            return Some(Bytes::from(
                Reply::busy_upstream(dialect, id).body.to_string(),
            ));
        }
        Some(std::mem::take(&mut self.bytes).freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pieces: &[&[u8]], encoding: Option<&str>) -> String {
        let mut head = ResponseHeader::build(429, None).unwrap();
        if let Some(encoding) = encoding {
            head.insert_header("content-encoding", encoding).unwrap();
        }
        let mut gathered = Gathered::begin(&mut head, true).unwrap();
        assert!(!head.headers.contains_key("content-encoding"));
        for piece in pieces {
            assert_eq!(gathered.pass(piece, false, Dialect::OpenAi, "id"), None);
        }
        let body = gathered.pass(b"", true, Dialect::OpenAi, "id").unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[test]
    fn a_rate_limit_passes_as_it_was_told() {
        assert_eq!(
            told(&[b"{\"error\":", b"\"slow down\"}"], None),
            "{\"error\":\"slow down\"}"
        );
    }

    #[test]
    fn an_empty_account_is_not_told_however_it_is_cut_or_packed() {
        for told in [
            told(
                &[
                    b"{\"code\":\"insuff",
                    b"icient_quota\",\"of\":\"org-OPERATOR\"}",
                ],
                None,
            ),
            told(&[b"\x1f\x8b org-OPERATOR"], Some("gzip")),
            told(&[&[b'x'; 70_000]], None),
        ] {
            assert!(told.contains("rate_limit"), "{told}");
            assert!(!told.contains("OPERATOR"), "{told}");
        }
    }
}
