//! How much input a request body holds: the text that a model reads, its token ids, its media.

use std::borrow::Cow;

use super::cursor::{Cursor, Kind, Malformed, Text};

/// Tokens that an image, a document or a recording counts as, whatever its bytes. About what a
/// full-size image costs (OpenAI's high detail tiles, Anthropic's width × height / 750).
pub(super) const MEDIA_TOKENS: i64 = 1_500;

/// Tokens that frame each message or content block list beyond its text.
const MESSAGE_TOKENS: i64 = 3;

/// From this length on, a string of the base64 alphabet alone is media and not text.
const MEDIA_BYTES: usize = 1024;

/// Text kept for a tokenizer; the rest is scaled.
const KEPT_TEXT_BYTES: usize = 256 * 1024;

/// What has been counted so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Bytes of decoded text.
    text_bytes: i64,
    /// Tokens that are no text: ids, media, framing.
    other_tokens: i64,
    kept: Option<String>,
}

/// Where a value stands, as far as counting cares.
#[derive(Clone, Copy)]
struct Place<'n> {
    parent: &'n str,
    name: &'n str,
    /// Member names are read by the model too: tools and schemas.
    schema: bool,
    /// Numbers are token ids.
    ids: bool,
    /// A direct element of the top-level member.
    message: bool,
}

impl Tally {
    /// One that also keeps text for a tokenizer.
    pub(super) fn keeping() -> Self {
        Tally {
            kept: Some(String::new()),
            ..Tally::default()
        }
    }

    /// Four bytes a token over the text, rounded up, and what is no text.
    pub(super) fn tokens(&self) -> i64 {
        (self.text_bytes + 3) / 4 + self.other_tokens
    }

    /// With a tokenizer's count of the kept text, scaled to all of it.
    pub(super) fn tokens_by(&self, count: impl Fn(&str) -> i64) -> i64 {
        let Some(kept) = self.kept.as_deref().filter(|kept| !kept.is_empty()) else {
            return self.tokens();
        };
        let kept_bytes = i64::try_from(kept.len()).unwrap_or(i64::MAX);
        let counted = count(kept);
        let scaled = if kept_bytes >= self.text_bytes {
            counted
        } else {
            super::estimate::scaled(counted, self.text_bytes, kept_bytes)
        };
        scaled + self.other_tokens
    }

    /// Counts a top-level member's value, passing it.
    pub(super) fn member(&mut self, cursor: &mut Cursor<'_>, name: &str) -> Result<(), Malformed> {
        let schema = matches!(
            name,
            "tools" | "functions" | "response_format" | "text" | "output_config" | "output_format"
        );
        let place = Place {
            parent: "",
            name,
            schema,
            ids: matches!(name, "input" | "prompt"),
            message: false,
        };
        if cursor.kind()? == Kind::Array {
            let place = Place {
                message: matches!(name, "messages" | "input" | "contents"),
                ..place
            };
            return cursor.array(|cursor| self.value(cursor, place));
        }
        self.value(cursor, place)
    }

    fn value(&mut self, cursor: &mut Cursor<'_>, place: Place<'_>) -> Result<(), Malformed> {
        match cursor.kind()? {
            Kind::Object => self.object(cursor, place),
            Kind::Array => {
                let place = Place {
                    message: false,
                    ..place
                };
                cursor.array(|cursor| self.value(cursor, place))
            }
            Kind::String => {
                let text = cursor.string()?;
                self.string(cursor, &text, place);
                Ok(())
            }
            Kind::Number => {
                let span = cursor.number()?;
                if place.ids {
                    self.other_tokens += 1;
                } else {
                    self.text_bytes += len(span.len());
                }
                Ok(())
            }
            Kind::Bool | Kind::Null => cursor.literal().map(drop),
        }
    }

    fn object(&mut self, cursor: &mut Cursor<'_>, place: Place<'_>) -> Result<(), Malformed> {
        if place.message {
            self.other_tokens += MESSAGE_TOKENS;
        }
        cursor.object(|cursor, name| {
            let shown: Cow<'_, str> = cursor.text(&name);
            if place.schema {
                self.text_bytes += len(name.decoded_len());
            }
            let inner = Place {
                parent: place.name,
                name: &shown,
                message: false,
                ids: false,
                ..place
            };
            self.value(cursor, inner)
        })
    }

    fn string(&mut self, cursor: &Cursor<'_>, text: &Text, place: Place<'_>) {
        if is_media(place, cursor.raw(&text.span)) {
            self.other_tokens += MEDIA_TOKENS;
            return;
        }
        self.text_bytes += len(text.decoded_len());
        if let Some(kept) = &mut self.kept
            && kept.len() < KEPT_TEXT_BYTES
        {
            kept.push_str(&cursor.text(text));
            kept.push('\n');
        }
    }
}

/// Whether a string is an image, a document or a recording, inline or by reference. Only under the
/// names that providers give them: the same bytes in a prompt are text and cost as text.
fn is_media(place: Place<'_>, raw: &[u8]) -> bool {
    let inline = matches!(
        place.name,
        "data" | "file_data" | "fileData" | "url" | "image_url" | "image" | "video_url" | "mask"
    );
    let referred = matches!(
        (place.parent, place.name),
        (
            _,
            "image_url" | "file_url" | "video_url" | "fileUri" | "file_uri"
        ) | ("image_url" | "video_url" | "source", "url")
            | ("source" | "file", "file_id")
    );
    referred || (inline && (raw.starts_with(b"data:") || is_base64(raw)))
}

fn is_base64(raw: &[u8]) -> bool {
    let letter = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_')
    };
    // `\/` is how some writers put a slash.
    raw.len() >= MEDIA_BYTES && raw.iter().all(|byte| letter(byte) || *byte == b'\\')
}

fn len(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
