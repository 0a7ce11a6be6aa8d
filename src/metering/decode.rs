//! Content encodings (RFC 9110 section 8.4.1), decoded as a stream into a writer.
//!
//! What is decoded goes on in pieces of at most 32 KiB and is never collected. A body that grows out
//! of all proportion stops being decoded. Truncation is no error here: what came is decoded.

use std::borrow::Cow;
use std::io::{self, Write};

use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// A content encoding that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
    /// Zlib by the RFC; raw deflate by habit.
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    /// The coding of a `Content-Encoding` header, or `None` where it is unknown or a chain.
    pub(super) fn of(header: &str) -> Option<Coding> {
        let mut codings = header
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity"));
        let coding = match codings.next().map(str::to_ascii_lowercase).as_deref() {
            None => Coding::Identity,
            Some("gzip" | "x-gzip") => Coding::Gzip,
            Some("deflate") => Coding::Deflate,
            Some("br") => Coding::Brotli,
            Some("zstd") => Coding::Zstd,
            Some(_) => return None,
        };
        codings.next().is_none().then_some(coding)
    }
}

/// Decoded bytes from which on the ratio counts, the largest ratio, and the most decoded at all.
/// A stream of equal events reaches about 100 to 1.
const RATIO_FROM_BYTES: u64 = 8 * 1024 * 1024;
const MAX_RATIO: u64 = 200;
const MAX_DECODED_BYTES: u64 = 1024 * 1024 * 1024;

/// zstd's largest window for HTTP (RFC 9659): 8 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;

const BROTLI_BUFFER_BYTES: usize = 4 * 1024;

/// Why decoding stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// More came out than any honest answer holds.
    Bomb,
    Corrupt,
}

/// Counts what comes out and stops it when it is too much.
struct Tap<W> {
    inner: W,
    encoded: u64,
    decoded: u64,
    bomb: bool,
}

impl<W: Write> Write for Tap<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.decoded = self.decoded.saturating_add(bytes.len() as u64);
        let ratio = self.decoded > RATIO_FROM_BYTES
            && self.decoded > self.encoded.saturating_mul(MAX_RATIO);
        if ratio || self.decoded > MAX_DECODED_BYTES {
            self.bomb = true;
            return Err(io::Error::other("decompression bomb"));
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

enum Kind<W: Write> {
    Gzip(MultiGzDecoder<W>),
    Zlib(ZlibDecoder<W>),
    Deflate(DeflateDecoder<W>),
    Brotli(Box<brotli::DecompressorWriter<W>>),
    Zstd(zstd::stream::write::Decoder<'static, W>),
    /// `deflate` before its first two bytes tell which.
    Undecided(Vec<u8>, Option<W>),
}

/// A decoder into `W`.
pub(super) struct Decoder<W: Write> {
    kind: Kind<Tap<W>>,
    stopped: Option<Stop>,
}

impl<W: Write> Decoder<W> {
    /// `None` for identity, which needs none, and where the decoder cannot be made.
    pub(super) fn new(coding: Coding, inner: W) -> Option<Self> {
        let tap = Tap {
            inner,
            encoded: 0,
            decoded: 0,
            bomb: false,
        };
        let kind = match coding {
            Coding::Identity => return None,
            Coding::Gzip => Kind::Gzip(MultiGzDecoder::new(tap)),
            Coding::Deflate => Kind::Undecided(Vec::new(), Some(tap)),
            Coding::Brotli => {
                let decoder = brotli::DecompressorWriter::new(tap, BROTLI_BUFFER_BYTES);
                Kind::Brotli(Box::new(decoder))
            }
            Coding::Zstd => {
                let mut decoder = zstd::stream::write::Decoder::new(tap).ok()?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).ok()?;
                Kind::Zstd(decoder)
            }
        };
        Some(Decoder {
            kind,
            stopped: None,
        })
    }

    /// Decodes a piece; all that it makes known has reached the inner writer on return.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.stopped.is_some() || bytes.is_empty() {
            return;
        }
        let Some(bytes) = self.decide(bytes) else {
            return;
        };
        if let Some(tap) = self.tap_mut() {
            tap.encoded = tap.encoded.saturating_add(bytes.len() as u64);
        }
        let result = match &mut self.kind {
            Kind::Gzip(decoder) => write_and_flush(decoder, &bytes),
            Kind::Zlib(decoder) => write_and_flush(decoder, &bytes),
            Kind::Deflate(decoder) => write_and_flush(decoder, &bytes),
            Kind::Brotli(decoder) => write_and_flush(decoder.as_mut(), &bytes),
            Kind::Zstd(decoder) => write_and_flush(decoder, &bytes),
            Kind::Undecided(..) => Ok(()),
        };
        if result.is_err() {
            let bomb = self.tap_mut().is_some_and(|tap| tap.bomb);
            self.stopped = Some(if bomb { Stop::Bomb } else { Stop::Corrupt });
        }
    }

    /// Chooses between zlib and raw deflate; what is to be decoded now, if anything.
    fn decide<'b>(&mut self, bytes: &'b [u8]) -> Option<Cow<'b, [u8]>> {
        let Kind::Undecided(seen, tap) = &mut self.kind else {
            return Some(bytes.into());
        };
        seen.extend_from_slice(bytes);
        let [first, second, ..] = *seen.as_slice() else {
            return None;
        };
        let seen = std::mem::take(seen);
        let tap = tap.take()?;
        let header = u16::from_be_bytes([first, second]);
        let zlib = first & 0x0f == 8 && header % 31 == 0;
        self.kind = if zlib {
            Kind::Zlib(ZlibDecoder::new(tap))
        } else {
            Kind::Deflate(DeflateDecoder::new(tap))
        };
        Some(seen.into())
    }

    pub(super) fn stopped(&self) -> Option<Stop> {
        self.stopped
    }

    fn tap_mut(&mut self) -> Option<&mut Tap<W>> {
        Some(match &mut self.kind {
            Kind::Gzip(decoder) => decoder.get_mut(),
            Kind::Zlib(decoder) => decoder.get_mut(),
            Kind::Deflate(decoder) => decoder.get_mut(),
            Kind::Brotli(decoder) => decoder.get_mut(),
            Kind::Zstd(decoder) => decoder.get_mut(),
            Kind::Undecided(_, tap) => return tap.as_mut(),
        })
    }

    fn tap(&self) -> Option<&Tap<W>> {
        Some(match &self.kind {
            Kind::Gzip(decoder) => decoder.get_ref(),
            Kind::Zlib(decoder) => decoder.get_ref(),
            Kind::Deflate(decoder) => decoder.get_ref(),
            Kind::Brotli(decoder) => decoder.get_ref(),
            Kind::Zstd(decoder) => decoder.get_ref(),
            Kind::Undecided(_, tap) => return tap.as_ref(),
        })
    }

    pub(super) fn inner(&self) -> Option<&W> {
        self.tap().map(|tap| &tap.inner)
    }

    pub(super) fn inner_mut(&mut self) -> Option<&mut W> {
        self.tap_mut().map(|tap| &mut tap.inner)
    }
}

/// What is kept of a short body.
struct Kept {
    bytes: Vec<u8>,
    most: usize,
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most {
            return Err(io::Error::other("longer than is kept"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A short body by its `Content-Encoding`; `None` where it cannot be read, or is longer than `most`
/// bytes.
pub fn decoded<'a>(coding: &str, bytes: &'a [u8], most: usize) -> Option<Cow<'a, [u8]>> {
    let coding = Coding::of(coding)?;
    if coding == Coding::Identity {
        return (bytes.len() <= most).then_some(Cow::Borrowed(bytes));
    }
    let nothing = Kept {
        bytes: Vec::new(),
        most,
    };
    let mut decoder = Decoder::new(coding, nothing)?;
    decoder.push(bytes);
    if decoder.stopped().is_some() {
        return None;
    }
    let kept = decoder.inner_mut()?;
    Some(Cow::Owned(std::mem::take(&mut kept.bytes)))
}

fn write_and_flush(decoder: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    decoder.write_all(bytes)?;
    decoder.flush()
}
