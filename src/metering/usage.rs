//! What a provider reports, brought to one meaning whatever the dialect counts inside or outside.

use serde::{Deserialize, Serialize};

/// The wire shape of a provider API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    #[serde(rename = "openai")]
    OpenAi,
    Anthropic,
    Gemini,
}

/// What a method and path ask of a provider; decides how the body is read and what is metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    ChatCompletions,
    Completions,
    Responses,
    Embeddings,
    Images,
    /// Speech, transcription, translation.
    Audio,
    Messages,
    CountTokens,
    GeminiGenerate,
    /// `:embedContent`, `:batchEmbedContents`, `:countTokens` and the like.
    GeminiOther,
    /// `GET /v1/models`.
    Models,
    /// Spend that shows no usage in its answer: batches, background responses, realtime sockets.
    Unmetered,
    /// Anything else: forwarded, counted as one request.
    Other,
}

/// Usage of one exchange in one meaning: `input_tokens` and `output_tokens` are totals, the other
/// token fields are parts *inside* them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// All input: uncached, read from cache, written to cache.
    pub input_tokens: i64,
    pub cached_tokens: i64,
    /// Written to a cache that lives 5 minutes (or whose time is unknown).
    pub cache_write_5m_tokens: i64,
    pub cache_write_1h_tokens: i64,
    /// All output, reasoning included.
    pub output_tokens: i64,
    pub reasoning_tokens: i64,
}

impl Usage {
    pub fn total_tokens(&self) -> i64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }
}
