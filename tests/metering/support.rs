//! What the metering tests share: golden traffic, encodings, and ways to feed a meter.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use quota_proxy::metering::{Dialect, Endpoint, Meter, MeterSetup, Observation, Usage};
use serde::Deserialize;

/// One golden answer and what it must be read as.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    #[serde(skip)]
    pub name: String,
    #[serde(skip)]
    pub body: Vec<u8>,
    endpoint: String,
    pub dialect: Dialect,
    pub content_type: String,
    pub usage: Option<Usage>,
    pub complete: bool,
    pub output_text: String,
    pub model: Option<String>,
    pub cost_nano: Option<i64>,
    pub stream_error: Option<String>,
    pub audio_seconds: Option<i64>,
    /// It has the extra usage chunk.
    #[serde(default)]
    pub strip: bool,
}

impl Golden {
    pub fn endpoint(&self) -> Endpoint {
        match self.endpoint.as_str() {
            "chat" => Endpoint::ChatCompletions,
            "completions" => Endpoint::Completions,
            "responses" => Endpoint::Responses,
            "embeddings" => Endpoint::Embeddings,
            "images" => Endpoint::Images,
            "audio" => Endpoint::Audio,
            "messages" => Endpoint::Messages,
            "gemini" => Endpoint::GeminiGenerate,
            other => panic!("{other} is no endpoint of the golden traffic"),
        }
    }

    pub fn meter(&self, content_encoding: &str, strip_usage_chunk: bool) -> Meter {
        Meter::new(MeterSetup {
            endpoint: self.endpoint(),
            dialect: self.dialect,
            content_type: &self.content_type,
            content_encoding,
            strip_usage_chunk,
        })
    }

    /// Panics with the name and `how` where the observation is not the expected one.
    pub fn assert(&self, seen: &Observation, how: &str) {
        let name = &self.name;
        assert_eq!(seen.usage, self.usage, "{name}, {how}: usage");
        assert_eq!(seen.complete, self.complete, "{name}, {how}: complete");
        assert_eq!(seen.output_text, self.output_text, "{name}, {how}: text");
        let bytes = self.output_text.len() as i64;
        assert_eq!(seen.output_bytes, bytes, "{name}, {how}: text bytes");
        assert_eq!(seen.model, self.model, "{name}, {how}: model");
        assert_eq!(seen.cost_nano, self.cost_nano, "{name}, {how}: cost");
        assert_eq!(seen.stream_error, self.stream_error, "{name}, {how}: error");
        let seconds = seen.audio_seconds;
        assert_eq!(seconds, self.audio_seconds, "{name}, {how}: seconds");
        assert_eq!(seen.unreadable, None, "{name}, {how}: readable");
    }

    /// The body without its usage chunk.
    pub fn stripped(&self) -> Vec<u8> {
        let text = String::from_utf8(self.body.clone()).unwrap();
        let kept = text
            .split_inclusive("\n\n")
            .filter(|event| !(event.contains("\"choices\":[],\"usage\":{")));
        kept.collect::<String>().into_bytes()
    }
}

/// All golden traffic.
pub fn goldens() -> Vec<Golden> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let expected = std::fs::read(format!("{folder}/expected.json")).unwrap();
    let expected: std::collections::BTreeMap<String, Golden> =
        serde_json::from_slice(&expected).unwrap();
    let read = |(name, golden): (String, Golden)| Golden {
        body: std::fs::read(format!("{folder}/{name}")).unwrap(),
        name,
        ..golden
    };
    expected.into_iter().map(read).collect()
}

pub const CODINGS: [&str; 5] = ["gzip", "deflate", "raw-deflate", "br", "zstd"];

/// The `Content-Encoding` of one of [`CODINGS`].
pub fn header(coding: &str) -> &str {
    coding.strip_prefix("raw-").unwrap_or(coding)
}

pub fn encoded(coding: &str, body: &[u8]) -> Vec<u8> {
    let level = Compression::default();
    match coding {
        "gzip" => {
            let mut encoder = GzEncoder::new(Vec::new(), level);
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "raw-deflate" => {
            let mut encoder = DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "br" => {
            let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 20);
            encoder.write_all(body).unwrap();
            encoder.into_inner()
        }
        "zstd" => zstd::stream::encode_all(body, 3).unwrap(),
        other => panic!("{other} is no coding"),
    }
}

/// Decodes as far as it goes: a flushed prefix gives all that was flushed.
pub fn decoded(coding: &str, body: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let mut reader: Box<dyn Read + '_> = match coding {
        "gzip" => Box::new(flate2::read::MultiGzDecoder::new(body)),
        "deflate" => Box::new(flate2::read::ZlibDecoder::new(body)),
        "br" => Box::new(brotli::Decompressor::new(body, 4096)),
        "zstd" => Box::new(zstd::stream::read::Decoder::new(body).unwrap()),
        other => panic!("{other} is no coding"),
    };
    let mut out = Vec::new();
    let mut piece = [0; 512];
    while let Ok(n) = reader.read(&mut piece) {
        if n == 0 {
            break;
        }
        out.extend_from_slice(&piece[..n]);
    }
    out
}

/// Feeds pieces; what the client gets.
pub fn feed<'p>(meter: &mut Meter, pieces: impl IntoIterator<Item = &'p [u8]>) -> Vec<u8> {
    let mut got = Vec::new();
    for piece in pieces {
        let piece = Bytes::copy_from_slice(piece);
        let instead = meter.push(&piece, false);
        got.extend_from_slice(&instead.unwrap_or(piece));
    }
    let last = meter.push(&Bytes::new(), true);
    got.extend_from_slice(&last.unwrap_or_default());
    got
}
