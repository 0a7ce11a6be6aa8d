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
    /// `:countTokens` and the like, which spend nothing. (`:embedContent` is `Embeddings`.)
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

    /// The parts brought inside their totals: no side negative, none larger than what holds it.
    pub fn consistent(mut self) -> Usage {
        self.input_tokens = self.input_tokens.max(0);
        self.output_tokens = self.output_tokens.max(0);
        let mut left = self.input_tokens;
        for part in [
            &mut self.cached_tokens,
            &mut self.cache_write_1h_tokens,
            &mut self.cache_write_5m_tokens,
        ] {
            *part = (*part).clamp(0, left);
            left -= *part;
        }
        self.reasoning_tokens = self.reasoning_tokens.clamp(0, self.output_tokens);
        self
    }
}
