//! Embeddings, images, audio and model lists: answers that are made whole.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::ask::Ask;

/// Output tokens that one made image counts for.
pub const IMAGE_TOKENS: u32 = 272;
/// Length of an embedding where the request names none.
const DIMENSIONS: u64 = 16;
/// Input tokens that a transcription's audio counts for: one for each 1,000 bytes.
const AUDIO_BYTES_PER_TOKEN: u64 = 1_000;
/// A PNG of one transparent pixel.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/// `POST /v1/embeddings`; one vector for each input.
pub fn embeddings(body: &Value, ask: &Ask) -> Value {
    let inputs = match &body["input"] {
        Value::Array(items) if items.iter().all(Value::is_number) => 1,
        Value::Array(items) => items.len(),
        _ => 1,
    };
    let dimensions = body["dimensions"].as_u64().unwrap_or(DIMENSIONS).min(4096);
    let vector: Vec<f32> = (0..dimensions).map(|i| 1.0 / (i + 2) as f32).collect();
    let embedding = if body["encoding_format"] == "base64" {
        let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        json!(STANDARD.encode(bytes))
    } else {
        json!(vector)
    };
    let data: Vec<Value> = (0..inputs)
        .map(|index| json!({"object": "embedding", "index": index, "embedding": embedding}))
        .collect();
    let tokens = ask.input_tokens();
    json!({
        "object": "list",
        "data": data,
        "model": ask.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    })
}

/// `POST /v1/images/generations`; answers and the output tokens they count for.
pub fn images(ask: &Ask, created: i64) -> (Value, u32) {
    let count = ask.choices.max(1);
    let data: Vec<Value> = (0..count).map(|_| json!({"b64_json": PIXEL})).collect();
    let (input, output) = (ask.input_tokens(), count * IMAGE_TOKENS);
    let answer = json!({
        "created": created,
        "data": data,
        "usage": {
            "input_tokens": input,
            "output_tokens": output,
            "total_tokens": input + u64::from(output),
            "input_tokens_details": {"text_tokens": input, "image_tokens": 0},
        },
    });
    (answer, output)
}

/// `POST /v1/audio/transcriptions`: the answer, its input and its output tokens.
pub fn transcription(model: &str, bytes: u64) -> (Value, u64, u32) {
    let text = "the quick proxy counts every word";
    let input = bytes.div_ceil(AUDIO_BYTES_PER_TOKEN).max(1);
    let output = 6;
    if model.starts_with("whisper") {
        let usage = json!({"type": "duration", "seconds": input});
        return (json!({"text": text, "usage": usage}), input, output);
    }
    let usage = json!({
        "type": "tokens",
        "input_tokens": input,
        "input_token_details": {"text_tokens": 0, "audio_tokens": input},
        "output_tokens": output,
        "total_tokens": input + u64::from(output),
    });
    (json!({"text": text, "usage": usage}), input, output)
}

/// `POST /v1/audio/speech`: bytes that pass for sound. One for each letter, times 100.
pub fn speech(body: &Value) -> Vec<u8> {
    let letters = body["input"].as_str().map_or(0, str::len);
    b"ID3\x04\0\0\0\0\0\0"
        .iter()
        .copied()
        .chain((0..letters.saturating_mul(100)).map(|i| (i % 251) as u8))
        .collect()
}

/// The value of the form field `name` in a multipart body, where it lies in the part that was kept.
pub fn form_field(body: &[u8], name: &str) -> Option<String> {
    let marker = format!("name=\"{name}\"");
    let at = memchr::memmem::find(body, marker.as_bytes())?;
    let rest = &body[at + marker.len()..];
    let start = memchr::memmem::find(rest, b"\r\n\r\n")? + 4;
    let length = memchr::memmem::find(&rest[start..], b"\r\n")?;
    let value = &rest[start..start + length];
    Some(String::from_utf8_lossy(value).into_owned())
}

/// The models that are listed; any other name is served too.
const OPENAI_MODELS: [&str; 3] = ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small"];
const ANTHROPIC_MODELS: [&str; 2] = ["claude-sonnet-4-5", "claude-haiku-4-5"];
const GEMINI_MODELS: [&str; 2] = ["gemini-2.5-pro", "gemini-2.5-flash"];

/// `GET /v1/models`, OpenAI's form.
pub fn openai_models() -> Value {
    let data: Vec<Value> = OPENAI_MODELS.iter().map(|id| openai_model(id)).collect();
    json!({"object": "list", "data": data})
}

/// `GET /v1/models/{id}`, OpenAI's form.
pub fn openai_model(id: &str) -> Value {
    json!({"id": id, "object": "model", "created": 1_735_689_600, "owned_by": "fake"})
}

/// `GET /v1/models`, Anthropic's form.
pub fn anthropic_models() -> Value {
    let data: Vec<Value> = ANTHROPIC_MODELS
        .iter()
        .map(|id| anthropic_model(id))
        .collect();
    json!({"data": data, "has_more": false,
           "first_id": ANTHROPIC_MODELS[0], "last_id": ANTHROPIC_MODELS[1]})
}

/// `GET /v1/models/{id}`, Anthropic's form.
pub fn anthropic_model(id: &str) -> Value {
    json!({"type": "model", "id": id, "display_name": id, "created_at": "2025-01-01T00:00:00Z"})
}

/// `GET /v1beta/models`, Gemini's form.
pub fn gemini_models() -> Value {
    let form = |id: &&str| {
        json!({
            "name": format!("models/{id}"), "displayName": id, "version": "001",
            "inputTokenLimit": 1_048_576, "outputTokenLimit": 65_536,
            "supportedGenerationMethods": ["generateContent", "countTokens"],
        })
    };
    json!({"models": GEMINI_MODELS.iter().map(form).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_field_is_found_and_its_lack_is_survived() {
        let body =
            b"--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--b--";
        assert_eq!(form_field(body, "model").as_deref(), Some("whisper-1"));
        assert_eq!(form_field(body, "file"), None);
        assert_eq!(form_field(&body[..60], "model"), None);
    }
}
