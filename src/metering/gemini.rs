//! Gemini's `GenerateContentResponse`: one object, an array of them, or one for each event.

use super::walk::{Node, Place, Want};

/// Which container a member opens.
pub(super) fn open(place: Place<'_>, array: bool) -> Node {
    match (place.node, place.name, array) {
        (Node::Root, b"usageMetadata", false) => Node::Usage,
        (Node::Root, b"error", false) => Node::Error,
        (Node::Root, b"candidates", true) => Node::Choices,
        (Node::Choices, _, false) => Node::Choice,
        (Node::Choice, b"content", false) => Node::Message,
        (Node::Message, b"parts", true) => Node::Parts,
        (Node::Parts, _, false) => Node::Part,
        (Node::Part, b"functionCall", false) => Node::Call,
        (Node::Part, b"executableCode", false) => Node::Call,
        (Node::Call, b"args", false) => Node::Tree,
        (Node::Tree, _, _) => Node::Tree,
        _ => Node::Skip,
    }
}

/// Which strings are wanted.
pub(super) fn string(place: Place<'_>) -> Want {
    match (place.node, place.name) {
        (Node::Root, b"modelVersion") => Want::Model,
        (Node::Error, b"message") => Want::ErrorMessage,
        (Node::Choice, b"finishReason") => Want::Finish,
        (Node::Part, b"text") => Want::Output,
        (Node::Call, b"name" | b"code") => Want::Output,
        (Node::Tree, _) => Want::Output,
        _ => Want::Nothing,
    }
}
