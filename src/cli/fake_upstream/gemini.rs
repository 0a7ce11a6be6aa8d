//! Gemini's `generateContent`, plain and streamed.
//!
//! Source: Gemini API reference, "Generating content". With `?alt=sse` the stream is server-sent
//! events, without it one JSON array that grows. Every chunk repeats `usageMetadata` so far.

use std::sync::Arc;

use serde_json::{Value, json};

use super::answer::{Step, Steps};
use super::ask::{Counts, Plan};
use super::control::UsageMode;

/// A plain answer.
pub fn plain(plan: &Plan) -> Value {
    let part = match &plan.tool {
        None => json!({"text": plan.pieces.text()}),
        Some(_) => call(plan),
    };
    chunk(plan, &part, Some(finish(plan)), plan.reported())
}

/// A streamed answer; `sse` is whether `alt=sse` was asked for.
pub fn stream(plan: Arc<Plan>, sse: bool) -> Steps {
    if plan.tool.is_some() {
        // A call is never cut up: it comes whole in one chunk.
        let only = framed(&plain(&plan), sse, true).with_tokens(plan.output_tokens());
        return Box::new(std::iter::once(only).chain(array_end(sse)));
    }
    let count = plan.pieces.len();
    let words = (0..count).map(move |index| {
        let mut quoted = String::from("\"");
        plan.pieces.write_escaped(index, &mut quoted);
        quoted.push('"');
        let text: Value = serde_json::from_str(&quoted).unwrap_or_default();
        let is_last = index + 1 == count;
        let data = chunk(
            &plan,
            &json!({"text": text}),
            is_last.then(|| finish(&plan)),
            plan.reported_after((index + 1).saturating_mul(plan.choices)),
        );
        let data = without_report(data, &plan, index, is_last);
        let mut step = framed(&data, sse, index == 0);
        step.is_word = true;
        let reasoning = if index == 0 { plan.reasoning } else { 0 };
        step.with_tokens(plan.choices + reasoning)
    });
    Box::new(words.chain(array_end(sse)))
}

/// The error event of a stream that fails after its 200.
pub fn error_event(sse: bool) -> Step {
    let error = json!({"error": {
        "code": 503, "status": "UNAVAILABLE", "message": "The model is overloaded, as asked.",
    }});
    framed(&error, sse, false)
}

fn framed(data: &Value, sse: bool, is_first: bool) -> Step {
    match (sse, is_first) {
        (true, _) => Step::new(format!("data: {data}\r\n\r\n")),
        (false, true) => Step::new(format!("[{data}")),
        (false, false) => Step::new(format!(",\r\n{data}")),
    }
}

fn array_end(sse: bool) -> Option<Step> {
    (!sse).then(|| Step::new("]"))
}

/// In the middle mode only one chunk has the report.
fn without_report(mut data: Value, plan: &Plan, index: u32, is_last: bool) -> Value {
    let drop = plan.usage == UsageMode::Middle && !plan.reports_at(index);
    if (drop || plan.usage == UsageMode::Null && !is_last)
        && let Some(fields) = data.as_object_mut()
    {
        fields.remove("usageMetadata");
    }
    data
}

fn call(plan: &Plan) -> Value {
    let arguments: Value = serde_json::from_str(&plan.pieces.text()).unwrap_or_else(|_| json!({}));
    json!({"functionCall": {"name": plan.tool, "args": arguments}})
}

fn chunk(plan: &Plan, part: &Value, finish: Option<&str>, counts: Counts) -> Value {
    let candidate = |index: u32| {
        let mut candidate = json!({"content": {"parts": [part], "role": "model"}, "index": index});
        if let Some(finish) = finish {
            candidate["finishReason"] = json!(finish);
        }
        candidate
    };
    let mut data = json!({
        "candidates": (0..plan.choices).map(candidate).collect::<Vec<_>>(),
        "modelVersion": plan.model,
        "responseId": format!("fake{:012x}", plan.id),
    });
    if plan.usage != UsageMode::None {
        data["usageMetadata"] = plan.or_null(usage(counts));
    }
    data
}

fn finish(plan: &Plan) -> &'static str {
    if plan.cut { "MAX_TOKENS" } else { "STOP" }
}

/// Thoughts lie outside the candidates here, and the cached part inside the prompt.
fn usage(counts: Counts) -> Value {
    let mut usage = json!({
        "promptTokenCount": counts.input,
        "candidatesTokenCount": counts.output - counts.reasoning,
        "totalTokenCount": counts.input + counts.output,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": counts.input}],
    });
    if counts.reasoning > 0 {
        usage["thoughtsTokenCount"] = json!(counts.reasoning);
    }
    if counts.cached > 0 {
        usage["cachedContentTokenCount"] = json!(counts.cached);
    }
    usage
}
