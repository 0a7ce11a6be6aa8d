//! OpenAI's Responses, plain and streamed.
//!
//! Source: OpenAI API reference, "Responses" and its streaming events. Every event is numbered; the
//! last one brings the whole object with its usage. There is no `[DONE]` and nothing to opt into.

use std::sync::Arc;

use serde_json::{Value, json};

use super::answer::{Step, Steps};
use super::ask::{Counts, Plan};
use super::control::UsageMode;

/// A plain answer.
pub fn plain(plan: &Plan) -> Value {
    object(plan, end_status(plan))
}

/// A streamed answer.
pub fn stream(plan: Arc<Plan>) -> Steps {
    let head = opening(&plan);
    let deltas = plan.pieces.len();
    let first_delta = head.len();
    let tail = closing(&plan, first_delta + deltas as usize);
    let words = (0..deltas).map(move |index| delta(&plan, index, first_delta + index as usize));
    Box::new(head.into_iter().chain(words).chain(tail))
}

/// The error event of a stream that fails after its 200.
pub fn error_event() -> Step {
    event(
        "error",
        1_000_000,
        json!({
            "code": "server_error",
            "message": "The fake failed in the middle of this stream, as asked.",
            "param": null,
        }),
    )
}

fn opening(plan: &Plan) -> Vec<Step> {
    let object = object(plan, "in_progress");
    let mut item = item(plan, "in_progress");
    let mut events = vec![
        ("response.created", json!({"response": object})),
        ("response.in_progress", json!({"response": object})),
    ];
    if plan.tool.is_some() {
        item["arguments"] = json!("");
    } else {
        item["content"] = json!([]);
    }
    events.push((
        "response.output_item.added",
        json!({"output_index": 0, "item": item}),
    ));
    if plan.tool.is_none() {
        let mut added = place(plan);
        added["part"] = part("");
        events.push(("response.content_part.added", added));
    }
    let mut steps = numbered(events, 0);
    if let Some(first) = steps.first_mut() {
        first.tokens = plan.reasoning;
    }
    steps
}

fn delta(plan: &Plan, index: u32, number: usize) -> Step {
    let mut quoted = String::from("\"");
    plan.pieces.write_escaped(index, &mut quoted);
    quoted.push('"');
    let id = item_id(plan);
    let text = match plan.tool {
        Some(_) => format!(
            "event: response.function_call_arguments.delta\ndata: {{\"type\":\"response.function_call_arguments.delta\",\"sequence_number\":{number},\"item_id\":\"{id}\",\"output_index\":0,\"delta\":{quoted}}}\n\n"
        ),
        None => format!(
            "event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"sequence_number\":{number},\"item_id\":\"{id}\",\"output_index\":0,\"content_index\":0,\"delta\":{quoted},\"logprobs\":[]}}\n\n"
        ),
    };
    Step::word(text)
}

fn closing(plan: &Plan, first_number: usize) -> Vec<Step> {
    let text = plan.pieces.text();
    let mut events = Vec::new();
    if plan.tool.is_some() {
        let mut done = place(plan);
        done["name"] = json!(plan.tool);
        done["arguments"] = json!(text);
        events.push(("response.function_call_arguments.done", done));
    } else {
        let mut done = place(plan);
        done["text"] = json!(text);
        done["logprobs"] = json!([]);
        events.push(("response.output_text.done", done));
        let mut done = place(plan);
        done["part"] = part(&text);
        events.push(("response.content_part.done", done));
    }
    let item = item(plan, end_status(plan));
    events.push((
        "response.output_item.done",
        json!({"output_index": 0, "item": item}),
    ));
    let name = if plan.cut {
        "response.incomplete"
    } else {
        "response.completed"
    };
    let whole = json!({"response": object(plan, end_status(plan))});
    let times = plan.final_reports().max(1);
    events.extend(std::iter::repeat_n((name, whole), times));
    numbered(events, first_number)
}

fn numbered(events: Vec<(&'static str, Value)>, first: usize) -> Vec<Step> {
    let numbers = first..;
    let pairs = numbers.zip(events);
    pairs
        .map(|(number, (name, data))| event(name, number, data))
        .collect()
}

fn event(name: &str, number: usize, mut data: Value) -> Step {
    data["type"] = json!(name);
    data["sequence_number"] = json!(number);
    Step::new(format!("event: {name}\ndata: {data}\n\n"))
}

fn end_status(plan: &Plan) -> &'static str {
    if plan.cut { "incomplete" } else { "completed" }
}

fn item_id(plan: &Plan) -> String {
    match plan.tool {
        Some(_) => format!("fc_fake{:012x}", plan.id),
        None => format!("msg_fake{:012x}", plan.id),
    }
}

fn place(plan: &Plan) -> Value {
    let mut place = json!({"item_id": item_id(plan), "output_index": 0});
    if plan.tool.is_none() {
        place["content_index"] = json!(0);
    }
    place
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn item(plan: &Plan, status: &str) -> Value {
    let text = plan.pieces.text();
    match &plan.tool {
        Some(name) => json!({
            "id": item_id(plan), "type": "function_call", "status": status,
            "call_id": format!("call_fake{:012x}", plan.id), "name": name, "arguments": text,
        }),
        None => json!({
            "id": item_id(plan), "type": "message", "status": status,
            "role": "assistant", "content": [part(&text)],
        }),
    }
}

fn object(plan: &Plan, status: &str) -> Value {
    let is_over = status != "in_progress";
    let output = if is_over {
        json!([item(plan, status)])
    } else {
        json!([])
    };
    let reason = plan.cut.then(|| json!({"reason": "max_output_tokens"}));
    let mut object = json!({
        "id": format!("resp_fake{:012x}", plan.id),
        "object": "response",
        "created_at": plan.created,
        "status": status,
        "background": false,
        "error": null,
        "incomplete_details": reason.filter(|_| is_over),
        "instructions": null,
        "metadata": {},
        "model": plan.model,
        "output": output,
        "parallel_tool_calls": true,
        "previous_response_id": null,
        "reasoning": {"effort": null, "summary": null},
        "service_tier": "default",
        "store": true,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": null,
        "user": null,
    });
    let has_report = !matches!(plan.usage, UsageMode::None | UsageMode::Middle);
    if is_over && has_report {
        object["usage"] = plan.or_null(usage(plan.reported()));
    }
    object
}

fn usage(counts: Counts) -> Value {
    json!({
        "input_tokens": counts.input,
        "input_tokens_details": {"cached_tokens": counts.cached},
        "output_tokens": counts.output,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.input + counts.output,
    })
}
