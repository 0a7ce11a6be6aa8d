//! What a request body asks for, in one form for all dialects, and the answer that is planned for it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::control::{Control, UsageMode};
use super::words::Pieces;

/// Input tokens that one image counts for.
const IMAGE_TOKENS: u64 = 85;
/// A bound on `n`, as providers have one.
const MAX_CHOICES: u64 = 128;

/// The facts of a request.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    pub model: String,
    pub stream: bool,
    pub include_usage: bool,
    /// The largest output bound that was declared.
    pub bound: Option<u64>,
    pub choices: u32,
    pub images: u64,
    text_bytes: u64,
    /// The first tool and arguments that fit its schema, where a call is to be made.
    tool: Option<(String, Value)>,
}

/// Token counts as they will be reported: the parts lie inside `input` and `output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub input: i64,
    pub cached: i64,
    pub cache_write: i64,
    pub output: i64,
    pub reasoning: i64,
}

/// An answer before it is put into a dialect.
#[derive(Clone, Debug)]
pub struct Plan {
    pub id: u64,
    /// Seconds since 1970.
    pub created: i64,
    pub model: String,
    pub include_usage: bool,
    pub choices: u32,
    pub pieces: Pieces,
    /// The bound cut the answer short.
    pub cut: bool,
    /// The name of the tool whose arguments the pieces are.
    pub tool: Option<String>,
    pub reasoning: u32,
    pub usage: UsageMode,
    counts: Counts,
}

impl Ask {
    /// Reads the facts of an OpenAI, Anthropic or Gemini request body.
    pub fn of(body: &Value) -> Self {
        let mut ask = Ask {
            model: text(&body["model"]),
            stream: body["stream"].as_bool().unwrap_or(false),
            include_usage: body["stream_options"]["include_usage"] == true,
            bound: bound(body),
            choices: choices(body),
            tool: tool(body),
            ..Ask::default()
        };
        for name in PROMPT_FIELDS {
            ask.weigh(&body[name]);
        }
        ask
    }

    /// Bytes of text over four, plus a fixed count for each image; at least one.
    pub fn input_tokens(&self) -> u64 {
        self.text_bytes.div_ceil(4).max(1) + self.images * IMAGE_TOKENS
    }

    /// Adds the text and images of one prompt field.
    fn weigh(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.text_bytes += text.len() as u64,
            // A prompt may be given as token ids; each counts for four bytes.
            Value::Number(_) => self.text_bytes += 4,
            Value::Array(items) => items.iter().for_each(|item| self.weigh(item)),
            Value::Object(_) if is_image(value) => self.images += 1,
            Value::Object(fields) => fields
                .iter()
                .filter(|(name, _)| !STRUCTURE_FIELDS.contains(&name.as_str()))
                .for_each(|(_, field)| self.weigh(field)),
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// What will be answered, under `control`, where the options say `default_tokens`.
    pub fn plan(&self, id: u64, control: &Control, default_tokens: u32) -> Arc<Plan> {
        let wanted = control.tokens.unwrap_or(default_tokens);
        let bound = match self.bound {
            Some(bound) if !control.ignore_bound => u32::try_from(bound).unwrap_or(u32::MAX),
            _ => u32::MAX,
        };
        let reasoning = control.reasoning.min(bound);
        let room = bound - reasoning;
        let (pieces, cut) = match &self.tool {
            Some((_, arguments)) => {
                let json = arguments.to_string();
                let whole = Pieces::arguments(&json, u32::MAX).len();
                (Pieces::arguments(&json, room), whole > room)
            }
            None => {
                let opening = match self.images {
                    0 => String::new(),
                    n => format!("I see {n} images. "),
                };
                (Pieces::words(&opening, wanted.min(room)), wanted > room)
            }
        };
        let cached = i64::from(control.cached) + i64::from(control.cache_write);
        let visible = i64::from(pieces.len()) * i64::from(self.choices.max(1));
        Arc::new(Plan {
            id,
            created: crate::time::UnixMs::now().0 / 1000,
            model: self.model.clone(),
            include_usage: self.include_usage,
            choices: self.choices.max(1),
            cut,
            tool: self.tool.as_ref().map(|(name, _)| name.clone()),
            reasoning,
            usage: control.usage,
            counts: Counts {
                input: i64::try_from(self.input_tokens()).unwrap_or(i64::MAX / 2) + cached,
                cached: i64::from(control.cached),
                cache_write: i64::from(control.cache_write),
                output: visible + i64::from(reasoning),
                reasoning: i64::from(reasoning),
            },
            pieces,
        })
    }
}

impl Plan {
    /// The counts to report at the end.
    pub fn reported(&self) -> Counts {
        self.lied(self.counts)
    }

    /// The counts to report after `words` visible words.
    pub fn reported_after(&self, words: u32) -> Counts {
        self.lied(Counts {
            output: i64::from(words) + self.counts.reasoning,
            ..self.counts
        })
    }

    /// Real input tokens: the prompt's, and on top what the request wants reported as cached.
    pub fn input_tokens(&self) -> u64 {
        u64::try_from(self.counts.input).unwrap_or(0)
    }

    /// Real output tokens, all choices and reasoning included.
    pub fn output_tokens(&self) -> u32 {
        u32::try_from(self.counts.output).unwrap_or(u32::MAX)
    }

    /// Whether a report belongs behind word `index` of a stream.
    pub fn reports_at(&self, index: u32) -> bool {
        match self.usage {
            UsageMode::Every => true,
            UsageMode::Middle => index == self.pieces.len() / 2,
            _ => false,
        }
    }

    /// How many times the final report is sent.
    pub fn final_reports(&self) -> usize {
        match self.usage {
            UsageMode::None | UsageMode::Middle => 0,
            UsageMode::Twice => 2,
            _ => 1,
        }
    }

    /// `usage` as `value`, or null where the fake is to send null.
    pub fn or_null(&self, value: Value) -> Value {
        match self.usage {
            UsageMode::Null => Value::Null,
            _ => value,
        }
    }

    fn lied(&self, true_counts: Counts) -> Counts {
        let all = |n: i64| Counts {
            input: n,
            cached: 0,
            cache_write: 0,
            output: n,
            reasoning: 0,
        };
        match self.usage {
            UsageMode::Negative => all(-7),
            UsageMode::Huge => all(1_000_000_000_000_000),
            _ => true_counts,
        }
    }
}

/// Where the dialects keep what a model reads.
const PROMPT_FIELDS: [&str; 8] = [
    "messages",
    "prompt",
    "input",
    "instructions",
    "system",
    "contents",
    "systemInstruction",
    "content",
];

/// Fields inside a prompt that are form and not text.
const STRUCTURE_FIELDS: [&str; 8] = [
    "role",
    "type",
    "id",
    "tool_call_id",
    "tool_use_id",
    "call_id",
    "cache_control",
    "file_id",
];

fn is_image(part: &Value) -> bool {
    let kind = part["type"].as_str().unwrap_or_default();
    matches!(kind, "image_url" | "input_image" | "image") || part.get("inlineData").is_some()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn bound(body: &Value) -> Option<u64> {
    let direct = ["max_tokens", "max_completion_tokens", "max_output_tokens"]
        .iter()
        .filter_map(|name| body[*name].as_u64());
    let gemini = body["generationConfig"]["maxOutputTokens"].as_u64();
    direct.chain(gemini).min()
}

fn choices(body: &Value) -> u32 {
    let n = body["n"]
        .as_u64()
        .or_else(|| body["generationConfig"]["candidateCount"].as_u64())
        .unwrap_or(1);
    u32::try_from(n.clamp(1, MAX_CHOICES)).unwrap_or(1)
}

/// The first tool, unless none is wanted or the last turn already brings a tool's result.
fn tool(body: &Value) -> Option<(String, Value)> {
    let choice = &body["tool_choice"];
    if choice == "none" || choice["type"] == "none" || answers_a_tool(body) {
        return None;
    }
    let first = &body["tools"][0];
    let form = match (first.get("function"), first.get("functionDeclarations")) {
        (Some(function), _) => function,
        (_, Some(declarations)) => &declarations[0],
        _ => first,
    };
    let schema = ["parameters", "input_schema", "parametersJsonSchema"]
        .iter()
        .find_map(|name| form.get(name))
        .unwrap_or(&Value::Null);
    let name = form["name"].as_str()?;
    Some((name.to_owned(), example(schema)))
}

fn answers_a_tool(body: &Value) -> bool {
    let turns = ["messages", "input", "contents"]
        .iter()
        .find_map(|name| body[*name].as_array());
    let Some(last) = turns.and_then(|turns| turns.last()) else {
        return false;
    };
    let parts = [&last["content"], &last["parts"]];
    let in_parts = parts.iter().filter_map(|p| p.as_array()).flatten();
    last["role"] == "tool"
        || last["type"] == "function_call_output"
        || in_parts
            .into_iter()
            .any(|part| part["type"] == "tool_result" || part.get("functionResponse").is_some())
}

/// A value that fits a JSON schema of the simple kind that tools have.
fn example(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    let kind = schema["type"].as_str().unwrap_or("object");
    match kind.to_ascii_lowercase().as_str() {
        "string" => json!("example"),
        "integer" | "number" => json!(1),
        "boolean" => json!(true),
        "array" => json!([]),
        _ => {
            let properties = schema["properties"].as_object();
            let fields = properties.into_iter().flatten();
            Value::Object(fields.map(|(k, v)| (k.clone(), example(v))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_counts_and_form_does_not() {
        let ask = Ask::of(&json!({
            "model": "m",
            "max_tokens": 9,
            "max_completion_tokens": 5,
            "messages": [
                {"role": "system", "content": "12345678"},
                {"role": "user", "content": [
                    {"type": "text", "text": "1234"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                ]},
            ],
        }));
        assert_eq!(ask.input_tokens(), 3 + IMAGE_TOKENS);
        assert_eq!(ask.bound, Some(5));
        let plan = ask.plan(1, &Control::default(), 20);
        assert_eq!((plan.pieces.len(), plan.cut), (5, true));
    }

    #[test]
    fn a_tool_is_called_once_with_arguments_that_fit() {
        let tools = json!([{"type": "function", "function": {"name": "weather", "parameters":
            {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}}]);
        let mut body = json!({"tools": tools, "messages": [{"role": "user", "content": "hi"}]});
        let plan = Ask::of(&body).plan(1, &Control::default(), 20);
        assert_eq!(plan.tool.as_deref(), Some("weather"));
        let arguments: Value = serde_json::from_str(&plan.pieces.text()).unwrap();
        assert_eq!(arguments, json!({"city": "example", "days": 1}));
        body["messages"] = json!([{"role": "tool", "content": "sunny"}]);
        let plan = Ask::of(&body).plan(1, &Control::default(), 20);
        assert_eq!(plan.tool, None);
    }

    #[test]
    fn an_ignored_bound_is_ignored() {
        let ask = Ask::of(&json!({"max_tokens": 5, "n": 3}));
        let mut control = Control::default();
        control.apply("tokens=50,ignore-bound,reasoning=7").unwrap();
        let plan = ask.plan(1, &control, 20);
        assert_eq!(plan.output_tokens(), 157);
        control.ignore_bound = false;
        let plan = ask.plan(1, &control, 20);
        assert_eq!((plan.pieces.len(), plan.reasoning, plan.cut), (0, 5, true));
    }
}
