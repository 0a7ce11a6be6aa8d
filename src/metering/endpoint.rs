//! What a method and path ask for. Deny by default: a way to spend that shows no usage is named
//! here as unmetered, and spellings that a lenient upstream would accept (`//`, a trailing slash,
//! percent escapes, capitals) are read as that upstream would.

use std::borrow::Cow;
use std::ops::Range;

use super::usage::{Dialect, Endpoint};

/// Classifies a request. `path` has no query. A prefix before the version is ignored, so that
/// `/api/v1/chat/completions` and Azure's `/openai/deployments/x/chat/completions` are what they say.
pub fn classify(method: &str, path: &str) -> Endpoint {
    let lower = percent_decoded(path).to_ascii_lowercase();
    let segments: Vec<&str> = lower.split('/').filter(|s| !s.is_empty()).collect();
    if let Some(endpoint) = segments.last().and_then(|last| gemini_verb(last)) {
        return endpoint;
    }
    if segments.contains(&"realtime") {
        return Endpoint::Unmetered;
    }
    match method.to_ascii_uppercase().as_str() {
        "GET" | "HEAD" => fetched(&segments),
        "OPTIONS" | "DELETE" => Endpoint::Other,
        _ => posted(&segments),
    }
}

fn fetched(segments: &[&str]) -> Endpoint {
    match segments {
        ["v1", "models", ..] => Endpoint::Models,
        // No such list exists: a GET here opens OpenAI's WebSocket mode, whose turns are not metered.
        [.., "v1", "responses"] => Endpoint::Unmetered,
        _ => Endpoint::Other,
    }
}

fn posted(segments: &[&str]) -> Endpoint {
    match segments {
        [.., "chat", "completions"] => Endpoint::ChatCompletions,
        [.., "completions"] => Endpoint::Completions,
        [.., "responses"] | [.., "responses", "compact"] => Endpoint::Responses,
        [.., "embeddings" | "rerank"] => Endpoint::Embeddings,
        [.., "images", "generations" | "edits" | "variations"] => Endpoint::Images,
        [.., "audio", "speech" | "transcriptions" | "translations"] => Endpoint::Audio,
        [.., "v1", "messages"] => Endpoint::Messages,
        [.., "messages", "count_tokens"] | [.., "responses", "input_tokens"] => {
            Endpoint::CountTokens
        }
        // Among what is kept: work that is billed later, or elsewhere.
        [.., "batches" | "runs" | "search" | "submit_tool_outputs"] => Endpoint::Unmetered,
        _ if segments.iter().any(|segment| FREE.contains(segment)) => Endpoint::Other,
        // Deny by default: what is not known to be free may spend without showing it here.
        _ => Endpoint::Unmetered,
    }
}

/// Collections whose posts keep things and produce nothing, and acts that cost nothing.
const FREE: [&str; 13] = [
    "files",
    "uploads",
    "moderations",
    "assistants",
    "threads",
    "messages",
    "conversations",
    "vector_stores",
    "containers",
    "cancel",
    "tokenize",
    "detokenize",
    "apply_template",
];

/// Gemini's custom verbs, `models/NAME:verb`, in lower case.
fn gemini_verb(segment: &str) -> Option<Endpoint> {
    let (_, verb) = segment.rsplit_once(':')?;
    match verb {
        "generatecontent" | "streamgeneratecontent" => Some(Endpoint::GeminiGenerate),
        "embedcontent" | "batchembedcontents" => Some(Endpoint::Embeddings),
        "counttokens" | "computetokens" => Some(Endpoint::GeminiOther),
        "batchgeneratecontent"
        | "asyncbatchembedcontent"
        | "predict"
        | "predictlongrunning"
        | "bidigeneratecontent"
        | "generateanswer"
        | "generatetext"
        | "generatemessage" => Some(Endpoint::Unmetered),
        _ => None,
    }
}

/// The dialect of a path where no model says it: `/v1/messages*` is Anthropic's, `/v1beta*` Gemini's
/// (but for its OpenAI-compatible `/v1beta/openai/*`), the rest OpenAI's.
pub fn dialect_of_path(path: &str) -> Dialect {
    let lower = percent_decoded(path).to_ascii_lowercase();
    let segments: Vec<&str> = lower.split('/').filter(|s| !s.is_empty()).collect();
    let verb = segments.last().and_then(|last| gemini_verb(last));
    match segments.as_slice() {
        ["v1", "messages", ..] | ["anthropic", "v1", "messages", ..] => Dialect::Anthropic,
        ["v1beta", "openai", ..] => Dialect::OpenAi,
        ["v1beta", ..] => Dialect::Gemini,
        _ if verb.is_some() => Dialect::Gemini,
        _ => Dialect::OpenAi,
    }
}

/// The model that a path names: Gemini's `models/NAME:verb`, Azure's `deployments/NAME/…`.
pub fn model_of_path(path: &str) -> Option<String> {
    let place = model_in_path(path)?;
    Some(percent_decoded(path.get(place)?).into_owned())
}

/// Where in a path, escapes and all, the model stands that it names.
pub fn model_in_path(path: &str) -> Option<Range<usize>> {
    let decoded = decoded_bytes(path);
    let bytes: Vec<u8> = decoded.iter().map(|(byte, _)| *byte).collect();
    let mut segments = Vec::new();
    let mut start = 0;
    for segment in bytes.split(|byte| *byte == b'/') {
        if !segment.is_empty() {
            segments.push(start..start + segment.len());
        }
        start += segment.len() + 1;
    }
    let text = |segment: &Range<usize>| String::from_utf8_lossy(&bytes[segment.clone()]);
    let last = segments.last()?;
    let place = if gemini_verb(&text(last).to_ascii_lowercase()).is_some() {
        let colon = bytes[last.clone()].iter().rposition(|byte| *byte == b':')?;
        last.start..last.start + colon
    } else {
        let is_there = |segment: &Range<usize>| text(segment).eq_ignore_ascii_case("deployments");
        let at = segments.iter().position(is_there)?;
        segments.get(at + 2)?;
        segments.get(at + 1)?.clone()
    };
    let raw = |at: usize| decoded.get(at).map_or(path.len(), |(_, raw)| *raw);
    Some(raw(place.start)..raw(place.end))
}

/// Whether a path itself asks for a stream, as Gemini's does.
pub(super) fn path_streams(path: &str) -> bool {
    let lower = percent_decoded(path).to_ascii_lowercase();
    lower
        .trim_end_matches('/')
        .ends_with(":streamgeneratecontent")
}

/// Percent escapes decoded (RFC 3986 section 2.1); a malformed one stays as it is.
fn percent_decoded(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let bytes: Vec<u8> = decoded_bytes(path)
        .into_iter()
        .map(|(byte, _)| byte)
        .collect();
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// The same, byte by byte, each with the place where it was.
fn decoded_bytes(path: &str) -> Vec<(u8, usize)> {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, escaped_byte(bytes.get(at + 1..at + 3))) {
            (b'%', Some(decoded)) => {
                out.push((decoded, at));
                at += 3;
            }
            _ => {
                out.push((byte, at));
                at += 1;
            }
        }
    }
    out
}

fn escaped_byte(digits: Option<&[u8]>) -> Option<u8> {
    let [high, low] = digits? else { return None };
    let high = char::from(*high).to_digit(16)?;
    let low = char::from(*low).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

impl Endpoint {
    /// Whether a request without a model is a bad request. Images and audio have defaults upstream
    /// and multipart bodies whose model may come too late.
    pub fn needs_model(self) -> bool {
        matches!(
            self,
            Endpoint::ChatCompletions
                | Endpoint::Completions
                | Endpoint::Responses
                | Endpoint::Embeddings
                | Endpoint::Messages
                | Endpoint::CountTokens
                | Endpoint::GeminiGenerate
                | Endpoint::GeminiOther
        )
    }

    /// Whether its answer shows tokens that are billed: only these are metered. A stored response
    /// that is fetched again is not.
    pub fn generates(self) -> bool {
        matches!(
            self,
            Endpoint::ChatCompletions
                | Endpoint::Completions
                | Endpoint::Responses
                | Endpoint::Embeddings
                | Endpoint::Images
                | Endpoint::Audio
                | Endpoint::Messages
                | Endpoint::GeminiGenerate
        )
    }

    /// Whether the body is always JSON. Images, audio and others may be: their content type says.
    pub fn is_json(self) -> bool {
        self.needs_model()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_classified_as_a_lenient_upstream_reads_them() {
        let cases = [
            ("POST", "/v1/chat/completions", Endpoint::ChatCompletions),
            ("POST", "/v1//chat/completions/", Endpoint::ChatCompletions),
            ("POST", "/v1/chat%2Fcompletions", Endpoint::ChatCompletions),
            ("POST", "/V1/Chat/Completions", Endpoint::ChatCompletions),
            (
                "POST",
                "/openai/deployments/x/chat/completions",
                Endpoint::ChatCompletions,
            ),
            (
                "POST",
                "/v1beta/openai/chat/completions",
                Endpoint::ChatCompletions,
            ),
            ("POST", "/v1/completions", Endpoint::Completions),
            ("POST", "/v1/responses", Endpoint::Responses),
            ("GET", "/v1/responses", Endpoint::Unmetered),
            ("GET", "/v1/responses/resp_1", Endpoint::Other),
            ("GET", "/v1/chat/completions", Endpoint::Other),
            ("POST", "/v1/responses/resp_1/cancel", Endpoint::Other),
            ("POST", "/v1/messages", Endpoint::Messages),
            ("POST", "/v1/messages/count_tokens", Endpoint::CountTokens),
            ("POST", "/v1/messages/batches", Endpoint::Unmetered),
            ("GET", "/v1/messages/batches/b1/results", Endpoint::Other),
            ("POST", "/v1/threads/t1/messages", Endpoint::Other),
            ("POST", "/v1/threads/t1/runs", Endpoint::Unmetered),
            ("POST", "/v1/batches", Endpoint::Unmetered),
            ("GET", "/v1/batches", Endpoint::Other),
            ("GET", "/v1/realtime", Endpoint::Unmetered),
            ("POST", "/v1/realtime/client_secrets", Endpoint::Unmetered),
            ("GET", "/v1/models", Endpoint::Models),
            ("GET", "/v1/models/gpt-4o", Endpoint::Models),
            ("POST", "/v1/audio/speech", Endpoint::Audio),
            ("POST", "/v1/images/edits", Endpoint::Images),
            ("POST", "/v1/embeddings", Endpoint::Embeddings),
            (
                "POST",
                "/v1beta/models/gemini-x:streamGenerateContent",
                Endpoint::GeminiGenerate,
            ),
            (
                "POST",
                "/v1beta/models/gemini-x:countTokens",
                Endpoint::GeminiOther,
            ),
            (
                "POST",
                "/v1beta/models/e:batchEmbedContents",
                Endpoint::Embeddings,
            ),
            ("POST", "/v1/files", Endpoint::Other),
        ];
        for (method, path, expected) in cases {
            assert_eq!(classify(method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_path_names_its_dialect_and_model() {
        assert_eq!(
            dialect_of_path("/v1/messages/count_tokens"),
            Dialect::Anthropic
        );
        assert_eq!(
            dialect_of_path("/v1beta/models/g:generateContent"),
            Dialect::Gemini
        );
        assert_eq!(
            dialect_of_path("/v1beta/openai/chat/completions"),
            Dialect::OpenAi
        );
        assert_eq!(dialect_of_path("/v1/files"), Dialect::OpenAi);
        let model = |path| model_of_path(path);
        assert_eq!(
            model("/v1beta/models/gemini-2.5-pro:generateContent").as_deref(),
            Some("gemini-2.5-pro")
        );
        assert_eq!(
            model("/openai/deployments/My-Gpt/chat/completions").as_deref(),
            Some("My-Gpt")
        );
        assert_eq!(model("/v1/chat/completions"), None);
        for (path, named) in [
            ("/v1beta/models/a%2Fb%3AgenerateContent", "b"),
            ("/v1beta/models/fl%61sh:generateContent/", "flash"),
            ("/openai//deployments/g%20x/chat/completions", "g x"),
            ("/openai/deployments/x%2Fchat/completions", "x"),
            ("/v1beta/models/%E4%BD%A0:countTokens", "你"),
        ] {
            assert_eq!(model(path).as_deref(), Some(named), "{path}");
            let place = model_in_path(path).unwrap();
            let put = format!("{}NEW{}", &path[..place.start], &path[place.end..]);
            assert_eq!(model_of_path(&put).as_deref(), Some("NEW"), "{put}");
        }
    }
}
