//! Anthropic's messages, whole and streamed.

use super::walk::{Node, Place, Want};

/// Which container a member opens.
pub(super) fn open(place: Place<'_>, array: bool) -> Node {
    match (place.node, place.name, array) {
        (Node::Root | Node::Envelope, b"usage", false) => Node::Usage,
        (Node::Root, b"error", false) => Node::Error,
        (Node::Root, b"message", false) => Node::Envelope,
        (Node::Root, b"delta" | b"content_block", false) => Node::Part,
        (Node::Root, b"content", true) => Node::Parts,
        (Node::Parts, _, false) => Node::Part,
        (Node::Part, b"input", false) => Node::Tree,
        (Node::Tree, _, _) => Node::Tree,
        _ => Node::Skip,
    }
}

/// Which strings are wanted.
pub(super) fn string(place: Place<'_>) -> Want {
    match (place.node, place.name) {
        (Node::Root, b"type") => Want::Kind,
        (Node::Root | Node::Envelope, b"model") => Want::Model,
        (Node::Error, b"message") => Want::ErrorMessage,
        (Node::Part, b"text" | b"thinking" | b"partial_json" | b"name") => Want::Output,
        (Node::Part, b"stop_reason") => Want::Finish,
        (Node::Tree, _) => Want::Output,
        _ => Want::Nothing,
    }
}

/// Whether an event of that type ends a stream whole.
pub(super) fn is_end(kind: &[u8]) -> bool {
    kind == b"message_stop"
}
