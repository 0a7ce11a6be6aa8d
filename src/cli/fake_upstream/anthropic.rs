//! Anthropic's messages, plain and streamed.
//!
//! Source: Anthropic API reference, "Messages" and "Streaming messages". `input_tokens` leaves out
//! what was read from or written to a cache; `message_delta.usage` is cumulative.

use std::sync::Arc;

use serde_json::{Value, json};

use super::answer::{Step, Steps};
use super::ask::{Counts, Plan};
use super::control::UsageMode;

/// A plain answer.
pub fn plain(plan: &Plan) -> Value {
    let text = plan.pieces.text();
    let block = match &plan.tool {
        None => json!({"type": "text", "text": text}),
        Some(name) => {
            let input: Value = serde_json::from_str(&text).unwrap_or_else(|_| json!({}));
            json!({"type": "tool_use", "id": tool_id(plan), "name": name, "input": input})
        }
    };
    let mut message = message(plan);
    message["content"] = json!([block]);
    message["stop_reason"] = json!(stop_reason(plan));
    if plan.usage != UsageMode::None {
        message["usage"] = plan.or_null(usage(plan.reported()));
    }
    message
}

/// A streamed answer.
pub fn stream(plan: Arc<Plan>) -> Steps {
    let head = opening(&plan);
    let tail = closing(&plan);
    let words = (0..plan.pieces.len()).flat_map(move |index| {
        let report = plan.reports_at(index).then(|| {
            let so_far = usage(plan.reported_after(index + 1));
            let data = json!({"delta": {"stop_reason": null, "stop_sequence": null},
                              "usage": so_far});
            event("message_delta", data)
        });
        std::iter::once(delta(&plan, index)).chain(report)
    });
    Box::new(head.into_iter().chain(words).chain(tail))
}

/// The error event of a stream that fails after its 200.
pub fn error_event() -> Step {
    let error = json!({"type": "overloaded_error", "message": "Overloaded, as asked."});
    event("error", json!({"error": error}))
}

fn opening(plan: &Plan) -> Vec<Step> {
    let mut start = message(plan);
    if plan.usage != UsageMode::None {
        let so_far = Counts {
            output: plan.reported().output.min(1),
            ..plan.reported()
        };
        start["usage"] = plan.or_null(usage(so_far));
    }
    let block = match &plan.tool {
        None => json!({"type": "text", "text": ""}),
        Some(name) => json!({"type": "tool_use", "id": tool_id(plan), "name": name, "input": {}}),
    };
    vec![
        event("message_start", json!({"message": start})).with_tokens(plan.reasoning),
        event(
            "content_block_start",
            json!({"index": 0, "content_block": block}),
        ),
        event("ping", json!({})),
    ]
}

fn delta(plan: &Plan, index: u32) -> Step {
    let mut text = String::with_capacity(160);
    text.push_str(
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":",
    );
    text.push_str(match plan.tool {
        None => r#"{"type":"text_delta","text":""#,
        Some(_) => r#"{"type":"input_json_delta","partial_json":""#,
    });
    plan.pieces.write_escaped(index, &mut text);
    text.push_str("\"}}\n\n");
    Step::word(text)
}

fn closing(plan: &Plan) -> Vec<Step> {
    let mut data = json!({"delta": {"stop_reason": stop_reason(plan), "stop_sequence": null}});
    if plan.final_reports() > 0 {
        data["usage"] = plan.or_null(usage(plan.reported()));
    }
    let times = plan.final_reports().max(1);
    let mut steps = vec![event("content_block_stop", json!({"index": 0}))];
    steps.extend(std::iter::repeat_n(event("message_delta", data), times));
    steps.push(event("message_stop", json!({})));
    steps
}

fn event(name: &str, mut data: Value) -> Step {
    data["type"] = json!(name);
    Step::new(format!("event: {name}\ndata: {data}\n\n"))
}

fn message(plan: &Plan) -> Value {
    json!({
        "id": format!("msg_fake{:012x}", plan.id),
        "type": "message",
        "role": "assistant",
        "model": plan.model,
        "content": [],
        "stop_reason": null,
        "stop_sequence": null,
    })
}

fn stop_reason(plan: &Plan) -> &'static str {
    match (plan.cut, &plan.tool) {
        (true, _) => "max_tokens",
        (false, Some(_)) => "tool_use",
        (false, None) => "end_turn",
    }
}

fn tool_id(plan: &Plan) -> String {
    format!("toolu_fake{:012x}", plan.id)
}

fn usage(counts: Counts) -> Value {
    json!({
        "input_tokens": counts.input - counts.cached - counts.cache_write,
        "cache_creation_input_tokens": counts.cache_write,
        "cache_read_input_tokens": counts.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": counts.cache_write,
            "ephemeral_1h_input_tokens": 0,
        },
        "output_tokens": counts.output,
        "service_tier": "standard",
    })
}
