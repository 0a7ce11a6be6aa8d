//! The facts of a request body: one pass over the text, no tree, every member wherever it stands.
//!
//! Strict where leniency would let a client hold less than it spends: malformed JSON, two different
//! readings of one member (`model` twice, `Max_Tokens` beside `max_tokens`) and bounds that are no
//! whole numbers are faults, shown to the client as a 400.

use std::ops::Range;

use super::cursor::{Cursor, Kind, Malformed};
use super::endpoint::{model_of_path, path_streams};
use super::input::Tally;
use super::usage::Endpoint;
use super::values::{boolean, count_prompts, fault_in, nested, shown, whole};
use crate::quota::amount::MAX_AMOUNT;

/// Longest end-user name kept, in characters.
const END_USER_CHARS: usize = 256;

/// What admission, reservation and routing need to know of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestFacts {
    /// From the body, or from the path where the path names it (Gemini, Azure).
    pub model: Option<String>,
    pub stream: bool,
    /// Output tokens: the largest declared bound times `choices`. `None`: the client set none.
    pub output_bound: Option<i64>,
    /// Answers asked for: `n`, `best_of`, `candidateCount`, times the prompts of a completion.
    pub choices: i64,
    /// Input tokens, estimated: four bytes a token over the text, ids one each, media a fixed amount.
    pub input_tokens: i64,
    /// The caller's own user: `user`, or `metadata.user_id`; at most 256 characters.
    pub end_user: Option<String>,
    /// A background response, whose spend shows in no answer.
    pub background: bool,
    pub(super) spans: Spans,
}

/// Where in the body the members stand that a splice may change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spans {
    /// Whether the body was read as JSON at all.
    pub(super) read: bool,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) top: Opening,
    /// With its quotes.
    pub(super) model: Option<Range<usize>>,
    pub(super) bounds: Vec<(Range<usize>, i64)>,
    /// Bounds that stand as null: one added beside would lose to it.
    pub(super) null_bounds: Vec<(Range<usize>, String)>,
    pub(super) stream_options: Vec<StreamOptions>,
    pub(super) generation_config: Option<NestedObject>,
}

/// The place just inside an object's brace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) at: usize,
    pub(super) empty: bool,
}

/// An object member that may stand as null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NestedObject {
    Null(Range<usize>),
    Object(Opening),
}

/// One `stream_options` member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamOptions {
    pub(super) object: NestedObject,
    /// Every `include_usage` inside, and whether it is true.
    pub(super) include_usage: Vec<(Range<usize>, bool)>,
}

/// Why a body is a bad request, in words for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyFault {
    pub message: String,
    /// The member at fault, where there is one.
    pub param: Option<String>,
}

impl From<Malformed> for BodyFault {
    fn from(fault: Malformed) -> Self {
        BodyFault {
            message: format!(
                "the request body is not valid JSON: {} at byte {}",
                fault.what, fault.at
            ),
            param: None,
        }
    }
}

/// Reads the facts of a body. Endpoints whose body is always JSON must have it; for the others it
/// is read where it begins with a brace and left alone otherwise.
///
/// # Errors
/// A [`BodyFault`] names the member, what was found and what is allowed, or the byte offset where
/// the text stops being JSON.
pub fn read_request(
    endpoint: Endpoint,
    path: &str,
    body: &[u8],
) -> Result<RequestFacts, BodyFault> {
    let mut facts = RequestFacts {
        choices: 1,
        stream: path_streams(path),
        ..RequestFacts::default()
    };
    facts.spans.endpoint = Some(endpoint);
    if endpoint.is_json() || body.trim_ascii_start().starts_with(b"{") {
        read_members(endpoint, body, &mut facts)?;
    }
    if let Some(named) = model_of_path(path) {
        let said = facts.spans.model.as_ref().and(facts.model.as_deref());
        if said.is_some_and(|said| said != named) {
            let message = format!("the path names the model {named:?}, the body another one");
            return Err(fault_in("model", message));
        }
        facts.model = Some(named);
    }
    if endpoint.needs_model() && facts.model.as_deref().is_none_or(str::is_empty) {
        let message = "model is missing: it must be a string that names one".to_owned();
        return Err(fault_in("model", message));
    }
    Ok(facts)
}

fn read_members(
    endpoint: Endpoint,
    body: &[u8],
    facts: &mut RequestFacts,
) -> Result<(), BodyFault> {
    if let Err(error) = std::str::from_utf8(body) {
        let at = error.valid_up_to();
        return Err(Malformed {
            at,
            what: "invalid UTF-8",
        }
        .into());
    }
    let mut cursor = Cursor::new(body);
    if cursor.kind()? != Kind::Object {
        let message = "the request body must be a JSON object".to_owned();
        return Err(BodyFault {
            message,
            param: None,
        });
    }
    facts.spans.read = true;
    facts.spans.top.at = cursor.at() + 1;
    facts.spans.top.empty = true;
    let mut reader = Reader {
        endpoint,
        facts,
        tally: Tally::default(),
        stream_seen: false,
        declared: None,
        prompts: 1,
    };
    cursor.object(|cursor, name| {
        let name = cursor.text(&name);
        reader.member(cursor, &name)
    })?;
    cursor.end()?;
    reader.finish();
    Ok(())
}

/// The members that decide what is held; other spellings of them are refused, since an upstream
/// that ignores case would read them.
const DECIDING: [&str; 12] = [
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "generationConfig",
    "generation_config",
    "background",
    "prompt",
];

struct Reader<'f> {
    endpoint: Endpoint,
    facts: &'f mut RequestFacts,
    tally: Tally,
    stream_seen: bool,
    /// The largest bound that this endpoint obeys.
    declared: Option<i64>,
    /// Prompts of a completion request: each gets its own answers.
    prompts: i64,
}

impl Reader<'_> {
    fn member(&mut self, cursor: &mut Cursor<'_>, name: &str) -> Result<(), BodyFault> {
        self.facts.spans.top.empty = false;
        match name {
            "model" => self.model(cursor),
            "stream" => self.stream(cursor),
            "background" => self.background(cursor),
            "max_tokens" | "max_completion_tokens" | "max_output_tokens" => {
                self.bound(cursor, name, self.obeys(name))
            }
            "n" | "best_of" => self.answers(cursor, name),
            "stream_options" => self.stream_options(cursor),
            "generationConfig" | "generation_config" => self.generation_config(cursor, name),
            "user" => self.end_user(cursor, true),
            "metadata" => self.metadata(cursor),
            "prompt" => {
                self.prompts = self.prompts.max(count_prompts(cursor)?);
                Ok(self.tally.member(cursor, name)?)
            }
            _ => {
                let known = |known: &&&str| known.eq_ignore_ascii_case(name);
                if let Some(known) = DECIDING.iter().find(known) {
                    let message = format!("{name:?} can be read in two ways: write {known:?}");
                    return Err(fault_in(known, message));
                }
                Ok(self.tally.member(cursor, name)?)
            }
        }
    }

    fn finish(self) {
        self.facts.choices = self.facts.choices.saturating_mul(self.prompts);
        self.facts.choices = self.facts.choices.min(MAX_AMOUNT);
        let bounds = self.facts.spans.bounds.iter().map(|(_, value)| *value);
        let largest = self.declared.and(bounds.max());
        self.facts.output_bound =
            largest.map(|bound| bound.saturating_mul(self.facts.choices).min(MAX_AMOUNT));
        self.facts.input_tokens = self.tally.tokens();
    }

    /// Whether this endpoint obeys a bound of that name; the others only raise what is held.
    fn obeys(&self, name: &str) -> bool {
        match self.endpoint {
            Endpoint::Responses => name == "max_output_tokens",
            Endpoint::Completions | Endpoint::Messages => name == "max_tokens",
            Endpoint::ChatCompletions => name != "max_output_tokens",
            Endpoint::GeminiGenerate => false,
            _ => true,
        }
    }

    fn model(&mut self, cursor: &mut Cursor<'_>) -> Result<(), BodyFault> {
        // Gemini's model is in the path; what a body says there is no decision.
        if self.endpoint == Endpoint::GeminiGenerate {
            return Ok(cursor.skip().map(drop)?);
        }
        if self.facts.spans.model.is_some() {
            return Err(fault_in("model", "model is given twice".to_owned()));
        }
        let kind = cursor.kind()?;
        if kind == Kind::Null {
            return Ok(cursor.literal().map(drop)?);
        }
        if kind != Kind::String {
            let message = format!("model must be a string, not {}", shown(cursor)?);
            return Err(fault_in("model", message));
        }
        let text = cursor.string()?;
        self.facts.model = Some(cursor.text(&text).into_owned());
        self.facts.spans.model = Some(text.quoted());
        Ok(())
    }

    fn stream(&mut self, cursor: &mut Cursor<'_>) -> Result<(), BodyFault> {
        if self.stream_seen {
            return Err(fault_in("stream", "stream is given twice".to_owned()));
        }
        self.stream_seen = true;
        if let Some(stream) = boolean(cursor, "stream")? {
            self.facts.stream |= stream;
        }
        Ok(())
    }

    fn background(&mut self, cursor: &mut Cursor<'_>) -> Result<(), BodyFault> {
        if let Some(background) = boolean(cursor, "background")? {
            self.facts.background |= background;
        }
        Ok(())
    }

    fn bound(
        &mut self,
        cursor: &mut Cursor<'_>,
        name: &str,
        obeyed: bool,
    ) -> Result<(), BodyFault> {
        // A completion of 0 tokens is how its prompt is scored (`echo`, `logprobs`).
        let least = i64::from(self.endpoint != Endpoint::Completions);
        let (span, value) = whole(cursor, name, least)?;
        match value {
            Some(value) => self.facts.spans.bounds.push((span, value)),
            None => self.facts.spans.null_bounds.push((span, name.to_owned())),
        }
        if obeyed {
            self.declared = self.declared.or(value);
        }
        Ok(())
    }

    fn answers(&mut self, cursor: &mut Cursor<'_>, name: &str) -> Result<(), BodyFault> {
        if let (_, Some(value)) = whole(cursor, name, 1)? {
            self.facts.choices = self.facts.choices.max(value);
        }
        Ok(())
    }

    fn stream_options(&mut self, cursor: &mut Cursor<'_>) -> Result<(), BodyFault> {
        let mut include_usage = Vec::new();
        let object = nested(cursor, "stream_options", |cursor, name| {
            if name != "include_usage" {
                return Ok(cursor.skip().map(drop)?);
            }
            cursor.kind()?;
            let start = cursor.at();
            let value = boolean(cursor, "stream_options.include_usage")?;
            include_usage.push((start..cursor.at(), value == Some(true)));
            Ok(())
        })?;
        self.facts.spans.stream_options.push(StreamOptions {
            object,
            include_usage,
        });
        Ok(())
    }

    fn generation_config(&mut self, cursor: &mut Cursor<'_>, name: &str) -> Result<(), BodyFault> {
        if self.endpoint != Endpoint::GeminiGenerate {
            return Ok(self.tally.member(cursor, name)?);
        }
        let object = nested(cursor, name, |cursor, inner| match inner {
            "maxOutputTokens" | "max_output_tokens" => {
                self.bound(cursor, &format!("{name}.{inner}"), true)
            }
            "candidateCount" | "candidate_count" => {
                self.answers(cursor, &format!("{name}.{inner}"))
            }
            _ => Ok(self.tally.member(cursor, inner)?),
        })?;
        self.facts.spans.generation_config = Some(object);
        Ok(())
    }

    /// `user` wins over `metadata.user_id`; what is no string is the upstream's to refuse.
    fn end_user(&mut self, cursor: &mut Cursor<'_>, wins: bool) -> Result<(), BodyFault> {
        if cursor.kind()? != Kind::String {
            return Ok(cursor.skip().map(drop)?);
        }
        let text = cursor.string()?;
        if wins || self.facts.end_user.is_none() {
            let name = cursor.text(&text).chars().take(END_USER_CHARS).collect();
            self.facts.end_user = Some(name).filter(|name: &String| !name.is_empty());
        }
        Ok(())
    }

    fn metadata(&mut self, cursor: &mut Cursor<'_>) -> Result<(), BodyFault> {
        if cursor.kind()? != Kind::Object {
            return Ok(cursor.skip().map(drop)?);
        }
        cursor.object(|cursor, name| match &*cursor.text(&name) {
            "user_id" => self.end_user(cursor, false),
            _ => Ok(cursor.skip().map(drop)?),
        })
    }
}
