//! Encodes again what was decoded to be changed, flushed at every piece so that nothing waits.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use super::decode::Coding;

/// Fast settings: the text is short and passes once.
const BROTLI_QUALITY: u32 = 4;
const BROTLI_WINDOW_LOG: u32 = 18;
const BROTLI_BUFFER_BYTES: usize = 4 * 1024;
const ZSTD_LEVEL: i32 = 3;

/// An encoder in the coding that the upstream chose. What it has made is taken with `take`.
pub(super) enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(ZlibEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    /// Ended: its last bytes.
    Ended(Vec<u8>),
}

impl Encoder {
    pub(super) fn new(coding: Coding) -> Option<Encoder> {
        let level = Compression::fast();
        Some(match coding {
            Coding::Identity => return None,
            Coding::Gzip => Encoder::Gzip(GzEncoder::new(Vec::new(), level)),
            Coding::Deflate => Encoder::Deflate(ZlibEncoder::new(Vec::new(), level)),
            Coding::Brotli => Encoder::Brotli(Box::new(brotli::CompressorWriter::new(
                Vec::new(),
                BROTLI_BUFFER_BYTES,
                BROTLI_QUALITY,
                BROTLI_WINDOW_LOG,
            ))),
            Coding::Zstd => {
                Encoder::Zstd(zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL).ok()?)
            }
        })
    }

    /// Adds bytes. Writing to memory does not fail; were it to, the stream would end short.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let result = match self {
            Encoder::Gzip(encoder) => encoder.write_all(bytes),
            Encoder::Deflate(encoder) => encoder.write_all(bytes),
            Encoder::Brotli(encoder) => encoder.write_all(bytes),
            Encoder::Zstd(encoder) => encoder.write_all(bytes),
            Encoder::Ended(_) => Ok(()),
        };
        drop(result);
    }

    /// Everything encoded so far, decodable on its own as a prefix.
    pub(super) fn take_flushed(&mut self) -> Vec<u8> {
        let result = match self {
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Deflate(encoder) => encoder.flush(),
            Encoder::Brotli(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
            Encoder::Ended(_) => Ok(()),
        };
        drop(result);
        std::mem::take(self.bytes_mut())
    }

    /// The last bytes, with the coding's own end.
    pub(super) fn take_ended(&mut self) -> Vec<u8> {
        let encoder = std::mem::replace(self, Encoder::Ended(Vec::new()));
        let last = match encoder {
            Encoder::Gzip(encoder) => encoder.finish().ok(),
            Encoder::Deflate(encoder) => encoder.finish().ok(),
            Encoder::Brotli(encoder) => Some(encoder.into_inner()),
            Encoder::Zstd(encoder) => encoder.finish().ok(),
            Encoder::Ended(bytes) => Some(bytes),
        };
        last.unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> &mut Vec<u8> {
        match self {
            Encoder::Gzip(encoder) => encoder.get_mut(),
            Encoder::Deflate(encoder) => encoder.get_mut(),
            Encoder::Brotli(encoder) => encoder.get_mut(),
            Encoder::Zstd(encoder) => encoder.get_mut(),
            Encoder::Ended(bytes) => bytes,
        }
    }
}
