//! OpenAI's shapes: chat, completions, responses, embeddings, images, audio; and what its many
//! relatives (DeepSeek, OpenRouter, Groq, Moonshot, vLLM …) add to them.

use super::walk::{Node, Place, Want};

/// Which container a member opens.
pub(super) fn open(place: Place<'_>, array: bool) -> Node {
    match (place.node, place.name, array) {
        (Node::Root | Node::Envelope | Node::Choice, b"usage", false) => Node::Usage,
        (Node::Root | Node::Envelope, b"error", false) => Node::Error,
        // Groq's chunks have their usage in `x_groq` too.
        (Node::Root, b"response" | b"x_groq", false) => Node::Envelope,
        (Node::Root, b"choices", true) => Node::Choices,
        (Node::Choices, _, false) => Node::Choice,
        (Node::Choice, b"delta" | b"message", false) => Node::Message,
        (Node::Message, b"content", true) => Node::Parts,
        (Node::Message, b"tool_calls", true) => Node::ToolCalls,
        (Node::Message, b"function_call", false) => Node::Call,
        (Node::ToolCalls, _, false) => Node::ToolCall,
        (Node::ToolCall, b"function" | b"custom", false) => Node::Call,
        // A whole Responses object; in a stream the same text has come as deltas.
        (Node::Root, b"output", true) => Node::Items,
        (Node::Items, _, false) => Node::Item,
        (Node::Item, b"content" | b"summary", true) => Node::Parts,
        (Node::Parts, _, false) => Node::Part,
        _ => Node::Skip,
    }
}

/// Which strings are wanted.
pub(super) fn string(place: Place<'_>, stream: bool) -> Want {
    match (place.node, place.name) {
        (Node::Root, b"type") => Want::Kind,
        (Node::Root | Node::Envelope, b"model") => Want::Model,
        (Node::Root | Node::Error, b"message") => Want::ErrorMessage,
        (Node::Root, b"error") => Want::ErrorText,
        // Responses and transcripts stream their text as a string `delta`.
        (Node::Root, b"delta") => Want::Output,
        (Node::Root, b"text") if !stream => Want::Output,
        (Node::Choice, b"text") => Want::Output,
        (Node::Choice, b"finish_reason") => Want::Finish,
        (Node::Message, b"content" | b"refusal" | b"reasoning" | b"reasoning_content") => {
            Want::Output
        }
        (Node::Call, b"name" | b"arguments" | b"input") => Want::Output,
        (Node::Item, b"name" | b"arguments" | b"input" | b"code") => Want::Output,
        (Node::Part, b"text" | b"refusal" | b"thinking") => Want::Output,
        _ => Want::Nothing,
    }
}

/// Whether an event of that type ends a stream whole.
pub(super) fn is_end(kind: &[u8]) -> bool {
    matches!(
        kind,
        b"response.completed"
            | b"response.incomplete"
            | b"response.failed"
            | b"image_generation.completed"
            | b"image_edit.completed"
            | b"transcript.text.done"
            | b"speech.audio.done"
    )
}
