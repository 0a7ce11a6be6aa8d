//! The words between the scanner of answers and those who read them: which containers are walked,
//! which strings are wanted, who hears of it.

/// A container of an answer that is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// Around the document: also an array of documents.
    Top,
    Root,
    Usage,
    /// Inside usage: `prompt_tokens_details`, `cache_creation` and their like.
    Details,
    /// An object around another with its own usage: `response`, `message`.
    Envelope,
    Error,
    Choices,
    Choice,
    Message,
    ToolCalls,
    ToolCall,
    Call,
    Items,
    Item,
    Parts,
    Part,
    /// Arguments as JSON: all text below is produced text.
    Tree,
    /// Passed over.
    Skip,
}

/// What a string is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Nothing,
    /// Produced text.
    Output,
    /// The event's `type`.
    Kind,
    Model,
    ErrorMessage,
    /// An error that is a plain string.
    ErrorText,
    /// Why the answer ended: that it did.
    Finish,
}

/// Where a value stands: in which container, under which name (empty in arrays).
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) node: Node,
    pub(super) name: &'a [u8],
}

/// What hears about a document's values.
pub(super) trait Sink {
    /// A container opens: what it is, or [`Node::Skip`] to pass over it.
    fn open(&mut self, place: Place<'_>, array: bool) -> Node;
    /// A container that was not skipped ends.
    fn close(&mut self, node: Node);
    /// A string begins: whether its text is wanted.
    fn string(&mut self, place: Place<'_>) -> Want;
    /// Decoded text of the wanted string, in pieces.
    fn piece(&mut self, want: Want, text: &[u8]);
    /// A number or literal, as it stands.
    fn scalar(&mut self, place: Place<'_>, raw: &[u8]);
}
