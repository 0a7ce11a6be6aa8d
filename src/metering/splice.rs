//! Changes to a request body by splicing: every byte outside an edit stays, in its place.

use std::fmt::Write as _;
use std::ops::Range;

use bytes::Bytes;

use super::request::{NestedObject, Opening, RequestFacts, StreamOptions};
use super::usage::Endpoint;

/// What the proxy must change before the body goes upstream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Edits<'a> {
    /// Set `stream_options.include_usage` to true.
    pub include_usage: bool,
    /// The field to add where the client declared no bound, and the most output tokens for each
    /// answer: every declared bound above it is lowered to it. Gemini's bound always goes to
    /// `generationConfig.maxOutputTokens`, whatever the field.
    pub output_bound: Option<(&'a str, i64)>,
    /// The model's name upstream.
    pub model: Option<&'a str>,
}

/// Whether a client streams from an OpenAI completion endpoint without asking for usage.
pub fn include_usage_missing(facts: &RequestFacts) -> bool {
    let endpoint = facts.spans.endpoint;
    if !facts.stream
        || !matches!(
            endpoint,
            Some(Endpoint::ChatCompletions | Endpoint::Completions)
        )
    {
        return false;
    }
    let asks = |options: &StreamOptions| {
        !options.include_usage.is_empty() && options.include_usage.iter().all(|(_, on)| *on)
    };
    let options = &facts.spans.stream_options;
    options.is_empty() || !options.iter().all(asks)
}

/// Applies `edits` to the body that `facts` were read from. The same `Bytes`, not a copy, where
/// nothing changes.
pub fn splice(body: Bytes, facts: &RequestFacts, edits: &Edits<'_>) -> Bytes {
    if !facts.spans.read {
        return body;
    }
    let mut plan = Plan::default();
    if edits.include_usage {
        plan.include_usage(facts);
    }
    if let Some((field, bound)) = edits.output_bound {
        plan.output_bound(facts, field, bound.max(0));
    }
    if let (Some(model), Some(span)) = (edits.model, &facts.spans.model) {
        plan.model(&body, span, model);
    }
    plan.insert_at_top(facts.spans.top);
    plan.apply(body)
}

#[derive(Default)]
struct Plan {
    replace: Vec<(Range<usize>, String)>,
    /// Members for the top-level object.
    members: Vec<String>,
}

impl Plan {
    fn include_usage(&mut self, facts: &RequestFacts) {
        const ON: &str = "\"include_usage\":true";
        if facts.spans.stream_options.is_empty() {
            self.members.push(format!("\"stream_options\":{{{ON}}}"));
        }
        for options in &facts.spans.stream_options {
            match &options.object {
                NestedObject::Null(span) => {
                    self.replace.push((span.clone(), format!("{{{ON}}}")));
                }
                NestedObject::Object(opening) if options.include_usage.is_empty() => {
                    self.insert(*opening, &[ON.to_owned()]);
                }
                NestedObject::Object(_) => {
                    let off = options.include_usage.iter().filter(|(_, on)| !on);
                    self.replace
                        .extend(off.map(|(span, _)| (span.clone(), "true".to_owned())));
                }
            }
        }
    }

    fn output_bound(&mut self, facts: &RequestFacts, field: &str, bound: i64) {
        let above = facts
            .spans
            .bounds
            .iter()
            .filter(|(_, value)| *value > bound);
        self.replace
            .extend(above.map(|(span, _)| (span.clone(), bound.to_string())));
        if facts.output_bound.is_some() {
            return;
        }
        let gemini = facts.spans.endpoint == Some(Endpoint::GeminiGenerate);
        let standing = facts.spans.null_bounds.iter();
        let nulls: Vec<_> = standing
            .filter(|(_, name)| gemini || name == field)
            .map(|(span, _)| (span.clone(), bound.to_string()))
            .collect();
        if !nulls.is_empty() {
            self.replace.extend(nulls);
            return;
        }
        if !gemini {
            self.members.push(format!("{}:{bound}", quoted(field)));
            return;
        }
        let member = format!("\"maxOutputTokens\":{bound}");
        match &facts.spans.generation_config {
            None => self
                .members
                .push(format!("\"generationConfig\":{{{member}}}")),
            Some(NestedObject::Null(span)) => {
                self.replace.push((span.clone(), format!("{{{member}}}")));
            }
            Some(NestedObject::Object(opening)) => self.insert(*opening, &[member]),
        }
    }

    fn model(&mut self, body: &[u8], span: &Range<usize>, model: &str) {
        let wanted = quoted(model);
        if body.get(span.clone()) != Some(wanted.as_bytes()) {
            self.replace.push((span.clone(), wanted));
        }
    }

    fn insert_at_top(&mut self, top: Opening) {
        let members = std::mem::take(&mut self.members);
        if !members.is_empty() {
            self.insert(top, &members);
        }
    }

    fn insert(&mut self, opening: Opening, members: &[String]) {
        let mut text = members.join(",");
        if !opening.empty {
            text.push(',');
        }
        self.replace.push((opening.at..opening.at, text));
    }

    fn apply(mut self, body: Bytes) -> Bytes {
        if self.replace.is_empty() {
            return body;
        }
        self.replace.sort_by_key(|(span, _)| span.start);
        let grown: usize = self.replace.iter().map(|(_, text)| text.len()).sum();
        let mut out = Vec::with_capacity(body.len() + grown);
        let mut at = 0;
        for (span, text) in &self.replace {
            out.extend_from_slice(body.get(at..span.start).unwrap_or_default());
            out.extend_from_slice(text.as_bytes());
            at = span.end;
        }
        out.extend_from_slice(body.get(at..).unwrap_or_default());
        Bytes::from(out)
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            // Writing to a string cannot fail.
            c if (c as u32) < 0x20 => drop(write!(out, "\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::super::request::read_request;
    use super::*;

    fn spliced(endpoint: Endpoint, body: &str, edits: &Edits<'_>) -> String {
        let path = match endpoint {
            Endpoint::GeminiGenerate => "/v1beta/models/g:streamGenerateContent",
            _ => "/v1/x",
        };
        let facts = read_request(endpoint, path, body.as_bytes()).unwrap();
        let bytes = splice(Bytes::copy_from_slice(body.as_bytes()), &facts, edits);
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn usage_is_asked_for_however_the_options_stand() {
        let on = Edits {
            include_usage: true,
            ..Edits::default()
        };
        let cases = [
            (
                r#"{"model":"m"}"#,
                r#"{"stream_options":{"include_usage":true},"model":"m"}"#,
            ),
            (
                r#"{"model":"m","stream_options":null}"#,
                r#"{"model":"m","stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"model":"m","stream_options": { } }"#,
                r#"{"model":"m","stream_options": {"include_usage":true } }"#,
            ),
            (
                r#"{"model":"m","stream_options":{"x":[1]}}"#,
                r#"{"model":"m","stream_options":{"include_usage":true,"x":[1]}}"#,
            ),
            (
                r#"{"model":"m","stream_options":{"include_usage" : false ,"x":1}}"#,
                r#"{"model":"m","stream_options":{"include_usage" : true ,"x":1}}"#,
            ),
            (
                r#"{"model":"m","stream_options":{"include_usage":true,"include_usage":null}}"#,
                r#"{"model":"m","stream_options":{"include_usage":true,"include_usage":true}}"#,
            ),
            (
                r#"{"stream_options":null,"model":"m","stream\u005foptions":{}}"#,
                r#"{"stream_options":{"include_usage":true},"model":"m","stream\u005foptions":{"include_usage":true}}"#,
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(spliced(Endpoint::ChatCompletions, body, &on), expected);
        }
    }

    #[test]
    fn a_bound_is_added_or_lowered_and_nothing_else_moves() {
        let bound = |value| Edits {
            output_bound: Some(("max_completion_tokens", value)),
            ..Edits::default()
        };
        let chat = |body, value| spliced(Endpoint::ChatCompletions, body, &bound(value));
        assert_eq!(
            chat(r#" { "model" : "m" }"#, 7),
            r#" {"max_completion_tokens":7, "model" : "m" }"#
        );
        assert_eq!(
            chat(
                r#"{"max_tokens": 100 ,"model":"m","max_completion_tokens":5}"#,
                7
            ),
            r#"{"max_tokens": 7 ,"model":"m","max_completion_tokens":5}"#
        );
        let gemini = |body| spliced(Endpoint::GeminiGenerate, body, &bound(7));
        assert_eq!(
            gemini("{}"),
            r#"{"generationConfig":{"maxOutputTokens":7}}"#
        );
        assert_eq!(
            gemini(r#"{"generation_config":{"max_output_tokens":9}}"#),
            r#"{"generation_config":{"max_output_tokens":7}}"#
        );
        assert_eq!(
            gemini(r#"{"generationConfig":{"topK":1}}"#),
            r#"{"generationConfig":{"maxOutputTokens":7,"topK":1}}"#
        );
        assert_eq!(
            gemini(r#"{"generationConfig":null}"#),
            r#"{"generationConfig":{"maxOutputTokens":7}}"#
        );
    }

    #[test]
    fn nothing_to_change_is_the_same_bytes_and_not_a_copy() {
        let body = Bytes::from_static(br#"{"model":"m","max_tokens":5,"stream":true,"stream_options":{"include_usage":true}}"#);
        let facts = read_request(Endpoint::ChatCompletions, "/v1/chat/completions", &body).unwrap();
        assert!(!include_usage_missing(&facts));
        let edits = Edits {
            include_usage: true,
            output_bound: Some(("max_tokens", 5)),
            model: Some("m"),
        };
        let after = splice(body.clone(), &facts, &edits);
        assert_eq!(after.as_ptr(), body.as_ptr());
    }

    #[test]
    fn an_alias_replaces_the_model_and_is_escaped() {
        let edits = Edits {
            model: Some("a\"b\\\n"),
            ..Edits::default()
        };
        assert_eq!(
            spliced(
                Endpoint::ChatCompletions,
                r#"{"mo\u0064el":"x","n":1}"#,
                &edits
            ),
            r#"{"mo\u0064el":"a\"b\\\u000a","n":1}"#
        );
    }
}
