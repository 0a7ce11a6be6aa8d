//! OpenAI's chat completions and completions, plain and streamed.
//!
//! Source: OpenAI API reference, "Chat" and "Completions". Every chunk carries `"usage":null` and an
//! extra chunk the usage, if and only if the request opted in by `stream_options.include_usage`.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use super::answer::{Step, Steps};
use super::ask::{Counts, Plan};
use super::control::UsageMode;

/// Chat, or the older completions that know neither roles nor tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Chat,
    Text,
}

impl Form {
    fn id(self, plan: &Plan) -> String {
        match self {
            Form::Chat => format!("chatcmpl-fake{:012x}", plan.id),
            Form::Text => format!("cmpl-fake{:012x}", plan.id),
        }
    }

    fn object(self, streamed: bool) -> &'static str {
        match (self, streamed) {
            (Form::Chat, true) => "chat.completion.chunk",
            (Form::Chat, false) => "chat.completion",
            (Form::Text, _) => "text_completion",
        }
    }
}

/// A plain answer.
pub fn plain(form: Form, plan: &Plan) -> Value {
    let text = plan.pieces.text();
    let choice = |index: u32| match (form, &plan.tool) {
        (Form::Text, _) => json!({
            "text": text, "index": index, "logprobs": null, "finish_reason": finish(plan),
        }),
        (Form::Chat, None) => json!({
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": null, "annotations": []},
            "logprobs": null,
            "finish_reason": finish(plan),
        }),
        (Form::Chat, Some(name)) => {
            let function = json!({"name": name, "arguments": text});
            let call =
                json!({"id": call_id(plan, index), "type": "function", "function": function});
            json!({
                "index": index,
                "message": {"role": "assistant", "content": null, "tool_calls": [call],
                            "refusal": null, "annotations": []},
                "logprobs": null,
                "finish_reason": finish(plan),
            })
        }
    };
    let mut answer = json!({
        "id": form.id(plan),
        "object": form.object(false),
        "created": plan.created,
        "model": plan.model,
        "choices": (0..plan.choices).map(choice).collect::<Vec<_>>(),
        "service_tier": "default",
        "system_fingerprint": "fp_fake",
    });
    if plan.usage != UsageMode::None {
        answer["usage"] = plan.or_null(usage(plan.reported()));
    }
    answer
}

/// A streamed answer: server-sent events that end in `[DONE]`.
pub fn stream(form: Form, plan: Arc<Plan>) -> Steps {
    let chunk = Chunk::new(form, &plan);
    let head = head(form, &chunk, &plan);
    let tail = tail(form, &chunk, &plan);
    let words = (0..plan.pieces.len())
        .flat_map({
            let choices = plan.choices;
            move |index| (0..choices).map(move |choice| (index, choice))
        })
        .map(move |(index, choice)| word(form, &chunk, &plan, index, choice));
    Box::new(head.into_iter().chain(words).chain(tail))
}

/// The parts that all chunks of one stream share.
struct Chunk {
    opening: String,
    /// `,"usage":null`, where usage was opted into.
    no_usage: &'static str,
}

impl Chunk {
    fn new(form: Form, plan: &Plan) -> Self {
        let opening = format!(
            r#"data: {{"id":"{}","object":"{}","created":{},"model":{},"service_tier":"default","system_fingerprint":"fp_fake","choices":["#,
            form.id(plan),
            form.object(true),
            plan.created,
            Value::from(plan.model.as_str()),
        );
        let has_null = plan.include_usage && plan.usage != UsageMode::None;
        Chunk {
            opening,
            no_usage: if has_null { r#","usage":null"# } else { "" },
        }
    }

    fn with(&self, choices: &str, usage: Option<&Value>) -> String {
        let mut text = String::with_capacity(self.opening.len() + choices.len() + 48);
        text.push_str(&self.opening);
        text.push_str(choices);
        text.push(']');
        match usage {
            // Writing into a string does not fail.
            Some(usage) => write!(text, r#","usage":{usage}"#).unwrap_or_default(),
            None => text.push_str(self.no_usage),
        }
        text.push_str("}\n\n");
        text
    }
}

fn choice(index: u32, delta: &Value, finish: Option<&str>) -> String {
    json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": finish}).to_string()
}

fn head(form: Form, chunk: &Chunk, plan: &Plan) -> Vec<Step> {
    let opening = |index: u32| {
        let mut delta = json!({"role": "assistant", "content": "", "refusal": null});
        if let Some(name) = &plan.tool {
            let function = json!({"name": name, "arguments": ""});
            let call = json!({"index": 0, "id": call_id(plan, index), "type": "function",
                              "function": function});
            delta["content"] = Value::Null;
            delta["tool_calls"] = json!([call]);
        }
        Step::new(chunk.with(&choice(index, &delta, None), None))
    };
    let mut head: Vec<Step> = match form {
        Form::Chat => (0..plan.choices).map(opening).collect(),
        Form::Text => Vec::new(),
    };
    if let Some(first) = head.first_mut() {
        first.tokens = plan.reasoning;
    }
    head
}

fn word(form: Form, chunk: &Chunk, plan: &Plan, index: u32, choice: u32) -> Step {
    let (before, after) = match (form, &plan.tool) {
        (Form::Text, _) => (r#""text":""#, r#"","logprobs":null"#),
        (Form::Chat, None) => (r#""delta":{"content":""#, r#""},"logprobs":null"#),
        (Form::Chat, Some(_)) => (
            r#""delta":{"tool_calls":[{"index":0,"function":{"arguments":""#,
            r#""}}]},"logprobs":null"#,
        ),
    };
    let mut choices = String::with_capacity(96);
    write!(choices, r#"{{"index":{choice},"#).unwrap_or_default();
    choices.push_str(before);
    plan.pieces.write_escaped(index, &mut choices);
    choices.push_str(after);
    choices.push_str(r#","finish_reason":null}"#);
    let report = plan
        .reports_at(index)
        .then(|| usage(plan.reported_after((index + 1).saturating_mul(plan.choices))));
    Step::word(chunk.with(&choices, report.as_ref()))
}

fn tail(form: Form, chunk: &Chunk, plan: &Plan) -> Vec<Step> {
    let closing = |index: u32| {
        let choices = match form {
            Form::Chat => choice(index, &json!({}), Some(finish(plan))),
            Form::Text => json!({"index": index, "text": "", "logprobs": null,
                                 "finish_reason": finish(plan)})
            .to_string(),
        };
        Step::new(chunk.with(&choices, None))
    };
    let mut tail: Vec<Step> = (0..plan.choices).map(closing).collect();
    if plan.include_usage {
        let report = plan.or_null(usage(plan.reported()));
        let reports = (0..plan.final_reports()).map(|_| Step::new(chunk.with("", Some(&report))));
        tail.extend(reports);
    }
    tail.push(Step::new("data: [DONE]\n\n"));
    tail
}

/// The error event of a stream that fails after its 200.
pub fn error_event() -> Step {
    let error = json!({"error": {
        "message": "The fake failed in the middle of this stream, as asked.",
        "type": "server_error", "param": null, "code": null,
    }});
    Step::new(format!("data: {error}\n\n"))
}

fn finish(plan: &Plan) -> &'static str {
    match (plan.cut, &plan.tool) {
        (true, _) => "length",
        (false, Some(_)) => "tool_calls",
        (false, None) => "stop",
    }
}

fn call_id(plan: &Plan, choice: u32) -> String {
    format!("call_fake{:012x}{choice}", plan.id)
}

fn usage(counts: Counts) -> Value {
    json!({
        "prompt_tokens": counts.input,
        "completion_tokens": counts.output,
        "total_tokens": counts.input + counts.output,
        "prompt_tokens_details": {
            "cached_tokens": counts.cached,
            "cache_write_tokens": counts.cache_write,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": counts.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
}
